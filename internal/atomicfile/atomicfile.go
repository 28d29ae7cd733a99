// Package atomicfile writes files that are either the old or the new one, never half of one, also after a power cut.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces the file at path by one with this content and mode (exactly: no umask). It writes beside it, syncs,
// renames, and syncs the folder, as rename(2) alone orders nothing on disk. A link at path is replaced, not followed.
func Write(path string, data []byte, mode fs.FileMode) error {
	return WriteFrom(path, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteUnsynced is [Write] without the syncs, for what does not outlive the boot anyhow: a process that reads sees the old
// or the new file, also when the writer is killed. After a power cut it may be the old one, the new one or an empty one.
func WriteUnsynced(path string, data []byte, mode fs.FileMode) error {
	return write(path, mode, false, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteFrom is [Write] for content that fill writes as it goes. When fill fails, path stays what it was and nothing is
// left beside it.
func WriteFrom(path string, mode fs.FileMode, fill func(io.Writer) error) error {
	return write(path, mode, true, fill)
}

func write(path string, mode fs.FileMode, durable bool, fill func(io.Writer) error) (err error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	// CreateTemp opens with O_EXCL and mode 0600: nobody reads the content before it has its final mode.
	f, err := os.CreateTemp(dir, "."+base+".*.tmp")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), ignoreNotExist(os.Remove(f.Name())))
		}
	}()

	err = fill(f)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil && durable {
		err = SyncDir(dir)
	}
	return err
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
