package image

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// lockFolder takes the lock on a folder, which ends with the process, or fails at once when another has it.
func lockFolder(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// swap gives the folder at from the name to. If there is a folder at to, it gets the name from, in the same step.
func swap(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return os.Rename(from, to)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return swapInSteps(from, to) // a filesystem that cannot exchange, such as NFS
	}
	return &os.LinkError{Op: "exchange", Old: from, New: to, Err: err}
}

// syncFolder makes the names in a folder last.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, unix.EINVAL) { // a filesystem without such a thing
		err = nil
	}
	return errors.Join(err, f.Close())
}
