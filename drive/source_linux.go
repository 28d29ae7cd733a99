package drive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// CheckSource reports why the file at path cannot be a drive, or nil. It must be a regular file or a block device, not
// empty, and readable by this process; with writable set also writable.
func CheckSource(path string, writable bool) error {
	flags := unix.O_RDONLY
	if writable {
		flags = unix.O_RDWR
	}
	src, err := openSource(path, flags)
	if err != nil {
		return err
	}
	return src.file.Close()
}

// source is an open image. Everything about it is asked of the descriptor: the path may lead elsewhere by now.
type source struct {
	file  *os.File
	size  int64 // bytes
	block bool  // a block device
}

// openSource opens the image at path. The first open (O_PATH) has no effect on what is there: a FIFO does not block, a
// tape does not rewind; only what turns out to be a file or a block device is really opened, and it is the same one.
func openSource(path string, flags int) (*source, error) {
	handle, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, unusable(path, err)
	}
	defer unix.Close(handle)
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		return nil, unusable(path, err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFBLK {
		return nil, fmt.Errorf("%s is %s: a drive needs a file with a filesystem image, or a block device", path, kindName(kind))
	}

	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", handle), flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, unusable(path, err)
	}
	src := &source{file: os.NewFile(uintptr(fd), path), size: st.Size, block: kind == unix.S_IFBLK}
	if src.block {
		src.size, err = unix.Seek(fd, 0, unix.SEEK_END)
	}
	if err == nil && src.size == 0 {
		err = errors.New("it is empty (0 bytes): a drive needs a filesystem image")
	}
	if err != nil {
		src.file.Close()
		return nil, unusable(path, err)
	}
	return src, nil
}

// unusable says what a user can do about the common reasons.
func unusable(path string, err error) error {
	advice := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		advice = ": check the path"
	case errors.Is(err, fs.ErrPermission):
		advice = fmt.Sprintf(": give the user with id %d access to it and to the folders above it", os.Geteuid())
	case errors.Is(err, unix.EROFS):
		advice = ": it lies on a read-only filesystem; make the drive read-only or ephemeral"
	case errors.Is(err, unix.ETXTBSY):
		advice = ": it is in use as a program or as swap"
	}
	return fmt.Errorf("cannot use %s as a drive: %w%s", path, err, advice)
}

func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFDIR:
		return "a folder"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFCHR:
		return "a character device"
	default:
		return "no file"
	}
}
