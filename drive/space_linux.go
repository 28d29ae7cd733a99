package drive

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// DataSize returns how many bytes of data a drive holds, holes not counted: what a copy of it would write.
func DataSize(path string) (int64, error) {
	src, err := openSource(path, unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer src.file.Close()
	return src.dataSize()
}

// CheckSpace reports a *[SpaceError] when the filesystem of the folder dir has fewer than need bytes free.
func CheckSpace(dir string, need int64) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := checkSpace(folder, need); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

// CanReflink tries whether files in the folder dir can share their blocks. What it tries with has no name and is gone
// afterwards.
func CanReflink(dir string) bool {
	const tmpfile = unix.O_TMPFILE | unix.O_RDWR | unix.O_CLOEXEC
	var fds [2]int
	for i := range fds {
		fd, err := unix.Open(dir, tmpfile, 0o600)
		if err != nil {
			return false
		}
		defer unix.Close(fd)
		fds[i] = fd
	}
	if _, err := unix.Pwrite(fds[0], make([]byte, 4096), 0); err != nil {
		return false
	}
	return unix.IoctlFileClone(fds[1], fds[0]) == nil
}
