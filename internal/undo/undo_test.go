package undo

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestUnwindRunsTheLastStepFirst(t *testing.T) {
	t.Parallel()
	var s Stack
	var ran []string
	for _, name := range []string{"folder", "drive", "process"} {
		s.Add(name, func(context.Context) error {
			ran = append(ran, name)
			return nil
		})
	}
	if err := s.Unwind(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"process", "drive", "folder"}, ran); diff != "" {
		t.Error(diff)
	}
}

func TestUnwindRunsToItsEndAndJoinsTheErrors(t *testing.T) {
	t.Parallel()
	var s Stack
	first, last := errors.New("first"), errors.New("last")
	ran := 0
	s.Add("one", func(context.Context) error { ran++; return first })
	s.Add("two", func(context.Context) error { ran++; panic("broken step") })
	s.Add("three", func(context.Context) error { ran++; return last })

	err := s.Unwind(t.Context())
	if ran != 3 {
		t.Errorf("%d steps ran, want 3", ran)
	}
	if !errors.Is(err, first) || !errors.Is(err, last) {
		t.Errorf("errors lost: %v", err)
	}
	for _, want := range []string{"undo: one: first", "undo: two: panic: broken step", "undo: three: last"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %q", want, err)
		}
	}
}

func TestUnwindIgnoresTheCallersCancellation(t *testing.T) {
	t.Parallel()
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
	cancel()

	var s Stack
	s.Add("step", func(ctx context.Context) error {
		if err := ctx.Err(); err != nil {
			t.Errorf("the step's context is over: %v", err)
		}
		if _, ok := ctx.Deadline(); !ok {
			t.Error("the step has no deadline")
		}
		if ctx.Value(key{}) != "kept" {
			t.Error("the context's values are lost")
		}
		return nil
	})
	if err := s.Unwind(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestUnwindLeavesAStuckStepBehind(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })

	s := Stack{timeout: 10 * time.Millisecond}
	ran := false
	s.Add("below", func(context.Context) error { ran = true; return nil })
	s.Add("stuck", func(context.Context) error { <-release; return nil })

	err := s.Unwind(t.Context())
	if err == nil || !strings.Contains(err.Error(), "undo: stuck: not done after 10ms") {
		t.Errorf("got %v", err)
	}
	if !ran {
		t.Error("the step below the stuck one did not run")
	}
}

func TestUnwindReportsWhatAStepThatMindsItsContextSays(t *testing.T) {
	t.Parallel()
	s := Stack{timeout: time.Millisecond}
	s.Add("wait", func(ctx context.Context) error {
		<-ctx.Done()
		return errors.New("process 7 is still there")
	})
	if err := s.Unwind(t.Context()); err == nil || err.Error() != "undo: wait: process 7 is still there" {
		t.Errorf("got %v", err)
	}
}

func TestUnwindTwiceUndoesOnce(t *testing.T) {
	t.Parallel()
	var s Stack
	ran := 0
	s.Add("step", func(context.Context) error { ran++; return nil })
	for range 2 {
		if err := s.Unwind(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if ran != 1 {
		t.Errorf("ran %d times", ran)
	}
}

func TestReleaseHandsTheStepsOver(t *testing.T) {
	t.Parallel()
	var s Stack
	ran := 0
	s.Add("step", func(context.Context) error { ran++; return nil })

	owned := s.Release()
	if err := s.Unwind(t.Context()); err != nil || ran != 0 {
		t.Fatalf("released steps ran: %d, %v", ran, err)
	}
	if err := owned.Unwind(t.Context()); err != nil || ran != 1 {
		t.Fatalf("owner's steps ran %d times, %v", ran, err)
	}
}
