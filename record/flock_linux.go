package record

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// open opens a lock file for a flock of this kind, unix.LOCK_EX or unix.LOCK_SH. Go adds O_CLOEXEC.
func open(path string, how int) (*os.File, error) {
	mode := os.O_RDONLY
	if how == unix.LOCK_EX {
		mode = os.O_RDWR
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, nil
}

// flock is flock(2), again whenever a signal interrupts it.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// wait waits for the flock until ctx is over. Only after success does f belong to the caller still: else it is closed as
// soon as flock(2), which cannot be called off, has returned.
func wait(ctx context.Context, f *os.File, path string, how int) error {
	// Without a buffer the two agree: either the result is handed over, or both saw that ctx is over.
	result := make(chan error)
	go func() {
		err := flock(f, how)
		select {
		case result <- err:
		case <-ctx.Done():
			_ = letGo(f) // there is nobody left to tell
		}
	}()
	select {
	case err := <-result:
		if err != nil {
			f.Close()
			return fmt.Errorf("lock %s: flock: %w", path, err)
		}
		return nil
	case <-ctx.Done():
		return &BusyError{Path: path, Holder: readHolder(f), Err: context.Cause(ctx)}
	}
}

// hold makes a lock of a file with its flock. It returns neither a lock nor an error when there is another file at path
// by now: whoever held the lock before us has moved the folder away, and somebody made it anew.
func hold(f *os.File, path, op string, how int) (*Lock, error) {
	l := &Lock{path: path, exclusive: how == unix.LOCK_EX, file: f}
	current, err := isAt(f, path)
	if err == nil && current {
		if l.exclusive {
			err = l.announce(op)
		}
		if err == nil {
			return l, nil
		}
	}
	if err != nil {
		err = fmt.Errorf("lock %s: %w", path, err)
	}
	return nil, errors.Join(err, l.Release())
}

// isAt tells whether the open file is still the one at path (device and inode).
func isAt(f *os.File, path string) (bool, error) {
	ours, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return os.SameFile(ours, there), nil
}

// letGo unlocks and closes. To close alone is not enough: a child that this process forks just now has the descriptor,
// and with it the lock, until it calls execve(2).
func letGo(f *os.File) error {
	return errors.Join(unmark(f), flock(f, unix.LOCK_UN), f.Close())
}

// mark puts a mark on the exclusive holder's open file: a lock of fcntl(2)'s kind, "open file description locks". Unlike
// a flock it can be asked for without being taken ([marked]), so that to look never disturbs. Whoever comes to mark has
// the flock, so there is no mark but its own. A kernel or file system without such locks does without: EINVAL.
func mark(f *os.File) error { return setMark(f, unix.F_WRLCK) }

func unmark(f *os.File) error { return setMark(f, unix.F_UNLCK) }

func setMark(f *os.File, kind int16) error {
	whole := unix.Flock_t{Type: kind, Whence: io.SeekStart}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("fcntl F_OFD_SETLK: %w", err)
	}
	return nil
}

// marked tells whether another open file has the mark.
func marked(f *os.File) (bool, error) {
	whole := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &whole); err != nil {
		return false, err
	}
	return whole.Type != unix.F_UNLCK, nil
}
