package record

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestTheLockOfAFolderThatWentAwayIsGone(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	l := acquired(t, path, "remove")
	_, err := Acquire(t.Context(), path, "stop", func(Holder) {
		moveAway(t, path)
		release(t, l)
	})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	if _, err := Try(path, "stop"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	wantHeld(t, path, false)
}

func TestTheLockOfAFolderThatWasMadeAnewIsWaitedForAgain(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	remover := acquired(t, path, "remove")
	ctx, cancel := context.WithCancel(t.Context())
	told := 0
	var creator *Lock
	_, err := Acquire(ctx, path, "stop", func(Holder) {
		told++
		moveAway(t, path)
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Error(err)
		}
		var err error
		if creator, err = Create(path, "create"); err != nil {
			t.Error(err)
		}
		cancel() // it would wait for the creator, which goes on
		release(t, remover)
	})
	if busy := wantBusy(t, err); told != 1 {
		t.Errorf("told %d times: %v", told, busy)
	}
	wantHeld(t, path, true)
	release(t, creator)

	remover = acquired(t, path, "remove")
	l, err := Acquire(t.Context(), path, "stop", func(Holder) {
		moveAway(t, path)
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Error(err)
		}
		if err := Ensure(path); err != nil {
			t.Error(err)
		}
		release(t, remover)
	})
	if err != nil {
		t.Fatal(err)
	}
	wantHeld(t, path, true) // which looks at the new file
	release(t, l)
}

// moveAway takes the lock's folder out of the way, then removes it, as who holds the lock does.
func moveAway(t *testing.T, path string) {
	t.Helper()
	dir := filepath.Dir(path)
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(dir + ".gone"); err != nil {
		t.Error(err)
	}
}

func TestWaitersFollowAFolderThatIsRemovedAndMadeAgainAndAgain(t *testing.T) {
	t.Parallel()
	path := lockFile(t)
	stop := make(chan struct{})
	var inside sync.Mutex // what the lock is there for
	var waiters sync.WaitGroup
	for range 4 {
		waiters.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				l, err := Acquire(t.Context(), path, "look", nil)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if !inside.TryLock() {
					t.Error("two are inside")
				} else {
					inside.Unlock()
				}
				release(t, l)
			}
		})
	}
	for range 200 {
		l := acquired(t, path, "remove")
		if !inside.TryLock() {
			t.Error("two are inside")
			break
		}
		inside.Unlock()
		moveAway(t, path)
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Error(err)
		}
		inside.Lock()
		created, err := Create(path, "create")
		if err != nil {
			t.Fatal(err)
		}
		inside.Unlock()
		release(t, created)
		release(t, l)
	}
	close(stop)
	waiters.Wait()
}

func TestOfTwoCreatorsOneFindsTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	l, err := Create(path, "create")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, "create"); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	wantHeld(t, path, true)
	release(t, l)
	if _, err := Create(path, "create"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Create(filepath.Join(path+".missing", "lock"), "create"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestNobodyFindsANewLockFree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 300 {
		path := filepath.Join(dir, strconv.Itoa(i))
		found := make(chan error)
		go func() {
			for {
				l, err := Try(path, "steal")
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err == nil {
					l.Release()
				}
				found <- err
				return
			}
		}()
		l, err := Create(path, "create")
		if err != nil {
			t.Fatal(err)
		}
		if busy := wantBusy(t, <-found); busy.Holder.Op != "create" {
			t.Errorf("got %v", busy)
		}
		release(t, l)
	}
}
