// Package undo holds the way back out of a list of steps.
//
// Every step of a start that makes something adds how to take it away again. A failure anywhere walks the stack back;
// on success [Stack.Release] hands it to whoever will stop the thing, and stopping walks the same stack. So there is
// one path for cleaning up, and it is walked all the time.
package undo

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// StepTimeout is how long one step may take. The longest is to end a VMM: SIGTERM, 5 s, SIGKILL, 1 s.
	StepTimeout = 10 * time.Second
	// lastWord is how long a step may take to say what it was waiting for, once its context is over.
	lastWord = time.Second
)

// A Step takes away one thing that was made. Its context ends after [StepTimeout]; a step that goes on is left behind.
// To find that the thing is gone already is success.
type Step func(context.Context) error

// Stack is a stack of steps. The zero value is empty and ready; it may be used by several goroutines.
type Stack struct {
	mu    sync.Mutex
	steps []named

	timeout time.Duration // StepTimeout; tests shorten it
}

type named struct {
	name string
	step Step
}

// Add puts a step on top. The name says what is undone ("remove drives/root.img") and stands in front of its error.
func (s *Stack) Add(name string, step Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, named{name, step})
}

// Unwind runs all steps, the last one first, and empties the stack, so a second call does nothing. An error, a panic
// or a time-out of one step keeps no other from running; all errors come back joined.
//
// Of ctx only the values count: whoever gave up waiting for a start still wants it undone.
func (s *Stack) Unwind(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for {
		top, ok := s.pop()
		if !ok {
			return errors.Join(errs...)
		}
		if err := s.run(ctx, top.step); err != nil {
			errs = append(errs, fmt.Errorf("undo: %s: %w", top.name, err))
		}
	}
}

// Release moves all steps to a stack of its own and leaves s empty: a deferred Unwind of s then undoes nothing.
func (s *Stack) Release() *Stack {
	s.mu.Lock()
	defer s.mu.Unlock()
	owned := &Stack{steps: s.steps, timeout: s.timeout}
	s.steps = nil
	return owned
}

func (s *Stack) pop() (named, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.steps) - 1
	if last < 0 {
		return named{}, false
	}
	top := s.steps[last]
	s.steps[last] = named{} // let go of what the step holds
	s.steps = s.steps[:last]
	return top, true
}

// run gives the step its own goroutine, so that one which ignores its context cannot hold up the others.
func (s *Stack) run(ctx context.Context, step Step) error {
	timeout := s.timeout
	if timeout == 0 {
		timeout = StepTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		done <- step(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	patience := time.NewTimer(lastWord)
	defer patience.Stop()
	select {
	case err := <-done:
		return err
	case <-patience.C:
		return fmt.Errorf("not done after %v, left behind", timeout)
	}
}
