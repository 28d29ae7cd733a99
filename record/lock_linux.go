package record

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Lock is a lock file that is held, from [Create], [Acquire], [AcquireShared] or [Try] until [Lock.Release], or until the
// process dies. It is a flock(2) on an open file description of its own, so two holders exclude each other within one
// process, too. It may be used by several goroutines.
type Lock struct {
	path      string
	exclusive bool

	mu   sync.Mutex
	file *os.File // nil once it was released
}

// Create makes the lock file, with mode 0600, and holds it exclusively: of two creators one gets an error that wraps
// [fs.ErrExist], as does whoever finds the file there. op is what the lock is for, one word for those who wait ("start").
//
// The file is locked under another name and then linked to path (link(2) never replaces), so that nobody ever finds it
// new and free. A crash in between leaves that other name, ".<name>.*.tmp".
func Create(path, op string) (_ *Lock, err error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+base+".*.tmp") // O_EXCL, mode 0600
	if err != nil {
		return nil, fmt.Errorf("create lock %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	l := &Lock{path: path, exclusive: true, file: f}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create lock %s: %w", path, err), l.Release())
		}
	}()

	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, err
	}
	if err := l.announce(op); err != nil {
		return nil, err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return nil, err
	}
	return l, nil
}

// Acquire holds the lock exclusively. The file must exist: the error for a missing one wraps [fs.ErrNotExist], also when
// it goes away, with its folder, during the wait. A file that is there under the same name by then is waited for instead.
//
// When the lock is not free, waiting (which may be nil) is called once with who holds it, and Acquire waits until it is
// free or ctx is over; then the error is a [*BusyError] with ctx's cause. A free lock is taken whatever ctx says.
//
// flock(2) knows no time-out and nothing ends it early, so a wait that was given up lives on in a goroutine until the
// lock is free, and lets go at once. That costs a thread and a descriptor per wait given up, and for a moment the lock is
// held by somebody who does not want it: a [Try] may find it busy just then.
func Acquire(ctx context.Context, path, op string, waiting func(Holder)) (*Lock, error) {
	return acquire(ctx, path, op, unix.LOCK_EX, waiting)
}

// AcquireShared is [Acquire] for a lock that any number hold together, but not together with an exclusive holder. Shared
// holders are not named in the file. While new ones keep coming, an exclusive one waits: flock(2) has no queue.
func AcquireShared(ctx context.Context, path, op string, waiting func(Holder)) (*Lock, error) {
	return acquire(ctx, path, op, unix.LOCK_SH, waiting)
}

// Try is [Acquire] without the wait: a lock that is not free is a [*BusyError] at once.
func Try(path, op string) (*Lock, error) {
	for {
		f, err := open(path, unix.LOCK_EX)
		if err != nil {
			return nil, err
		}
		if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			holder := readHolder(f)
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, &BusyError{Path: path, Holder: holder}
			}
			return nil, fmt.Errorf("lock %s: flock: %w", path, err)
		}
		if l, err := hold(f, path, op, unix.LOCK_EX); l != nil || err != nil {
			return l, err
		}
	}
}

// Ensure makes an empty lock file with mode 0600, unless there is one.
func Ensure(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("make lock: %w", err)
	}
	return f.Close()
}

// Held tells whether somebody holds the lock exclusively now, this process included. It never waits, and nobody ever
// finds the lock busy because of it. A missing file is held by nobody.
func Held(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at lock: %w", err)
	}
	defer f.Close()
	held, err := marked(f)
	if err == nil {
		return held, nil
	}
	// No such locks here: try, which for a moment keeps exclusive holders out.
	switch err := flock(f, unix.LOCK_SH|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look at lock %s: %w", path, err)
	}
	return false, flock(f, unix.LOCK_UN)
}

// Path returns the path as it was given.
func (l *Lock) Path() string { return l.path }

// Release lets go. The file stays. To release twice is fine.
func (l *Lock) Release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	if l.exclusive {
		_ = f.Truncate(0) // nobody is to be taken for the next holder; but who cannot say so lets go nevertheless
	}
	if err := letGo(f); err != nil {
		return fmt.Errorf("release lock %s: %w", l.path, err)
	}
	return nil
}

func acquire(ctx context.Context, path, op string, how int, waiting func(Holder)) (*Lock, error) {
	for {
		f, err := open(path, how)
		if err != nil {
			return nil, err
		}
		err = flock(f, how|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			if waiting != nil {
				waiting(readHolder(f))
				waiting = nil // once, though there may be another file to wait for
			}
			err = wait(ctx, f, path, how)
		} else if err != nil {
			f.Close()
			err = fmt.Errorf("lock %s: flock: %w", path, err)
		}
		if err != nil {
			return nil, err
		}
		if l, err := hold(f, path, op, how); l != nil || err != nil {
			return l, err
		}
	}
}
