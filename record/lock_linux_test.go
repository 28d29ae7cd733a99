package record

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func acquired(t *testing.T, path, op string) *Lock {
	t.Helper()
	l, err := Acquire(t.Context(), path, op, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func release(t *testing.T, l *Lock) {
	t.Helper()
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

func wantBusy(t *testing.T, err error) *BusyError {
	t.Helper()
	busy, ok := errors.AsType[*BusyError](err)
	if !ok {
		t.Fatalf("got %v, want a BusyError", err)
	}
	return busy
}

func wantHeld(t *testing.T, path string, want bool) {
	t.Helper()
	if held, err := Held(path); held != want || err != nil {
		t.Errorf("held: %t, %v, want %t", held, err, want)
	}
}

func TestALockExcludesItsOwnProcessToo(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	first := acquired(t, path, "start")
	if first.Path() != path {
		t.Errorf("path %q", first.Path())
	}
	_, err := Try(path, "stop")
	busy := wantBusy(t, err)
	if busy.Holder.PID != os.Getpid() || busy.Holder.Op != "start" || time.Since(busy.Holder.Since) > time.Minute || busy.Err != nil {
		t.Errorf("got %+v", busy)
	}
	release(t, first)
	second, err := Try(path, "stop")
	if err != nil {
		t.Fatal(err)
	}
	release(t, second)
	release(t, second)
	if text, err := os.ReadFile(path); err != nil || len(text) > 0 {
		t.Errorf("the file should be there still, and name nobody: %q, %v", text, err)
	}
}

func TestWhoWaitsIsToldOfTheHolderAndOfItsEndByTheKernel(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	holder := begin(t, "hold", path, "stop")
	holder.says("held")
	wantHeld(t, path, true)

	told := 0
	l, err := Acquire(t.Context(), path, "remove", func(h Holder) {
		told++
		if h.PID != holder.pid() || h.Op != "stop" {
			t.Errorf("got %+v", h)
		}
		holder.kill() // it has no time to let go
	})
	if err != nil {
		t.Fatal(err)
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	release(t, l)
	wantHeld(t, path, false)
}

func TestAKilledHolderIsNotTakenForTheNextOne(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	holder := begin(t, "hold", path, "stop")
	holder.says("held")
	holder.kill()
	wantHeld(t, path, false)
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "stop") {
		t.Fatalf("the killed one's name should still be there: %q, %v", text, err)
	}
	shared, err := AcquireShared(t.Context(), path, "use", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release(t, shared)
	_, err = Try(path, "evict")
	if busy := wantBusy(t, err); busy.Holder != (Holder{}) || !strings.Contains(busy.Error(), "another process") {
		t.Errorf("got %v", busy)
	}
}

func TestAnotherProcessWaitsForUs(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	l := acquired(t, path, "start")
	waiter := begin(t, "hold", path, "stop")
	waiter.says("waits for start")
	release(t, l)
	waiter.says("held")
	waiter.finish()
	wantHeld(t, path, false)
}

func TestManyProcessesCountWithoutLosingOne(t *testing.T) {
	t.Parallel()
	const processes, rounds = 4, 100
	lock := lockFile(t)
	file := filepath.Join(t.TempDir(), "count")
	if err := os.WriteFile(file, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	var counters []*other
	for range processes {
		counters = append(counters, begin(t, "count", lock, file, strconv.Itoa(rounds)))
	}
	for _, c := range counters {
		c.finish()
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != strconv.Itoa(processes*rounds) {
		t.Errorf("counted %s, %v", text, err)
	}
}

func TestSharedHoldersKeepOnlyExclusiveOnesOut(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	one, err := AcquireShared(t.Context(), path, "run", nil)
	if err != nil {
		t.Fatal(err)
	}
	two, err := AcquireShared(t.Context(), path, "run", nil)
	if err != nil {
		t.Fatal(err)
	}
	wantHeld(t, path, false)
	if text, err := os.ReadFile(path); len(text) > 0 || err != nil {
		t.Errorf("a shared holder wrote %q, %v", text, err)
	}
	_, err = Try(path, "evict")
	wantBusy(t, err)
	release(t, one)
	_, err = Try(path, "evict")
	wantBusy(t, err)
	release(t, two)
	evict, err := Try(path, "evict")
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = AcquireShared(over, path, "run", nil)
	if busy := wantBusy(t, err); busy.Holder.Op != "evict" {
		t.Errorf("got %v", busy)
	}
	release(t, evict)
}

func TestAWaitEndsWithItsContextAndLeavesTheLockAlone(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	l := acquired(t, path, "start")
	enough := errors.New("the user has had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := Acquire(ctx, path, "stop", func(Holder) { cancel(enough) })
	if busy := wantBusy(t, err); !errors.Is(busy, enough) || busy.Holder.Op != "start" || busy.Path != path {
		t.Errorf("got %v", busy)
	}
	release(t, l)
	release(t, acquired(t, path, "remove")) // the wait that was given up let go
	free, err := Acquire(ctx, path, "remove", nil)
	if err != nil {
		t.Fatalf("a free lock was not taken: %v", err)
	}
	release(t, free)
}

func TestToLookDisturbsNobody(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	stop := make(chan struct{})
	var lookers sync.WaitGroup
	for range 2 {
		lookers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := Held(path); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 5000 {
		l, err := Try(path, "start")
		if err != nil {
			t.Error(err)
			break
		}
		release(t, l)
	}
	close(stop)
	lookers.Wait()
}

func TestAChildThatIsJustForkedDoesNotKeepTheLock(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	stop := make(chan struct{})
	var forks sync.WaitGroup
	forks.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := exec.Command("true").Run(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 3000 {
		l, err := Try(path, "start")
		if err != nil {
			t.Error(err)
			break
		}
		wantHeld(t, path, true)
		release(t, l)
		wantHeld(t, path, false)
	}
	close(stop)
	forks.Wait()
}

func TestWhatIsNoHolderInALockFileIsNobody(t *testing.T) {
	t.Parallel()
	dead := begin(t, "end")
	dead.finish()
	for _, text := range []string{
		"", "{", `{"pid":12`, "null", "[]", "12345", "\x00\x00\x00", `{"pid":0,"op":"stop"}`, `{"pid":-1,"op":"stop"}`,
		`{"pid":` + strconv.Itoa(dead.pid()) + `,"op":"stop"}`, strings.Repeat("x", 2*maxHolder), `{"pid":"1"}`,
	} {
		path := filepath.Join(t.TempDir(), "lock")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if h := readHolder(f); h.String() != "another process" {
			t.Errorf("%q: %v", text, h)
		}
		f.Close()
	}
}

func TestAHolderReadsAsPartOfASentence(t *testing.T) {
	t.Parallel()
	h := Holder{PID: 123, Op: "stop", Since: time.Date(2026, 1, 2, 12, 0, 1, 0, time.Local)}
	if got := h.String(); got != `process 123 ("stop", since 12:00:01)` {
		t.Error(got)
	}
	err := &BusyError{Path: "/vms/a/lock", Holder: h, Err: context.DeadlineExceeded}
	want := `lock /vms/a/lock is held by process 123 ("stop", since 12:00:01): gave up waiting: context deadline exceeded`
	if err.Error() != want {
		t.Error(err)
	}
}

func TestEnsureKeepsALockThatIsThere(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	l := acquired(t, path, "start")
	if err := Ensure(path); err != nil {
		t.Error(err)
	}
	_, err := Try(path, "stop")
	if busy := wantBusy(t, err); busy.Holder.Op != "start" {
		t.Errorf("got %v", busy)
	}
	release(t, l)
	if err := Ensure(filepath.Join(path, "lock")); err == nil {
		t.Error("a lock was made below a file")
	}
}
