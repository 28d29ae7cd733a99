package drive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"smartvm/internal/bytesize"
)

const (
	copyChunk = 16 << 20 // bytes for one copy_file_range: after each the context is looked at
	readChunk = 1 << 20  // bytes for one read where the kernel cannot copy by itself
	zeroBlock = 64 << 10 // bytes that must be zero together to become a hole
)

var errNoReflink = errors.New("the filesystem cannot share the image's blocks")

// reflink makes dst share src's blocks (ioctl_ficlone(2)).
func reflink(dst *os.File, src *source) error {
	if src.block {
		return errNoReflink
	}
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.file.Fd()))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL),
		errors.Is(err, unix.ENOTTY), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.ETXTBSY):
		return fmt.Errorf("%w: %w", errNoReflink, err)
	default:
		return explainFull(fmt.Errorf("reflink: %w", err))
	}
}

// copyData copies the data of src to the empty file dst and gives dst the size of src; what is a hole in src is one in
// dst. It returns how many bytes it wrote.
func copyData(ctx context.Context, dst *os.File, src *source) (written int64, err error) {
	data, err := src.dataSize()
	if err != nil {
		return 0, err
	}
	if err := checkSpace(dst, data); err != nil {
		return 0, err
	}
	if err := dst.Truncate(src.size); err != nil {
		return 0, explainFull(err)
	}
	c := copier{dst: dst, src: src, inKernel: !src.block}
	for extent, err := range src.extents() {
		if err == nil {
			err = c.copy(ctx, extent)
		}
		if err != nil {
			return c.written, explainFull(err)
		}
	}
	return c.written, nil
}

// extent is a range of a file that holds data.
type extent struct{ start, end int64 }

// extents yields where src holds data, in order (SEEK_DATA and SEEK_HOLE of lseek(2)). Where the kernel does not know,
// as for a block device, all of it is data.
func (s *source) extents() func(yield func(extent, error) bool) {
	fd := int(s.file.Fd())
	return func(yield func(extent, error) bool) {
		for offset := int64(0); offset < s.size; {
			start, err := unix.Seek(fd, offset, unix.SEEK_DATA)
			switch {
			case errors.Is(err, unix.ENXIO): // a hole up to the end
				return
			case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
				yield(extent{offset, s.size}, nil)
				return
			case err != nil:
				yield(extent{}, fmt.Errorf("find the data of %s: %w", s.file.Name(), err))
				return
			}
			end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
			if err != nil {
				yield(extent{}, fmt.Errorf("find the holes of %s: %w", s.file.Name(), err))
				return
			}
			// Whoever appends to the image while we copy changes nothing for us.
			end = min(end, s.size)
			if start >= end || !yield(extent{start, end}, nil) {
				return
			}
			offset = end
		}
	}
}

// dataSize returns how many bytes of src are data.
func (s *source) dataSize() (int64, error) {
	size := int64(0)
	for extent, err := range s.extents() {
		if err != nil {
			return 0, err
		}
		size += extent.end - extent.start
	}
	return size, nil
}

// checkSpace refuses a copy that cannot fit, before a byte of it is written.
func checkSpace(dst *os.File, need int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dst.Fd()), &st); err != nil {
		return fmt.Errorf("ask for the free space at %s: %w", dst.Name(), err)
	}
	if st.Blocks == 0 { // a tmpfs without a limit
		return nil
	}
	if free := int64(st.Bavail) * st.Frsize; free < need {
		return &SpaceError{Need: need, Free: free, Err: unix.ENOSPC}
	}
	return nil
}

// SpaceError says that a drive does not fit. It wraps ENOSPC or EDQUOT.
type SpaceError struct {
	Need, Free int64 // bytes; Need is 0 when the disk ran full in the middle
	Err        error
}

func (e *SpaceError) Error() string {
	const advice = "free some, or keep images and VMs on one filesystem that can reflink (XFS, btrfs), where a copy costs nothing"
	if e.Need == 0 {
		return fmt.Sprintf("%v: %s", e.Err, advice)
	}
	return fmt.Sprintf("the copy needs %s and %s are free: %s", bytesize.String(e.Need), bytesize.String(e.Free), advice)
}

// Unwrap gives the system's error.
func (e *SpaceError) Unwrap() error { return e.Err }

// explainFull adds advice to an error that says that there is no room.
func explainFull(err error) error {
	var already *SpaceError
	if errors.As(err, &already) || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return &SpaceError{Err: err}
}

type copier struct {
	dst      *os.File
	src      *source
	inKernel bool // copy_file_range works between these two
	written  int64
	buffer   []byte
}

func (c *copier) copy(ctx context.Context, e extent) error {
	for e.start < e.end {
		if err := ctx.Err(); err != nil {
			return err
		}
		advance := c.readAndWrite
		if c.inKernel {
			advance = c.copyRange
		}
		n, err := advance(e)
		if err != nil {
			return err
		}
		e.start += n
	}
	return nil
}

// copyRange copies the start of e within the kernel. Where that is not possible, also because a filesystem says 0 to
// mean so (fuse, proc), it says so by leaving the in-kernel way for good.
func (c *copier) copyRange(e extent) (int64, error) {
	in, out := e.start, e.start
	n, err := unix.CopyFileRange(int(c.src.file.Fd()), &in, int(c.dst.Fd()), &out, int(min(e.end-e.start, copyChunk)), 0)
	switch {
	case err == nil && n > 0:
		c.written += int64(n)
		return int64(n), nil
	case errors.Is(err, unix.EINTR):
		return 0, nil
	case err == nil, errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP),
		errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		c.inKernel = false
		return 0, nil
	default:
		return 0, fmt.Errorf("copy to %s: %w", c.dst.Name(), err)
	}
}

// readAndWrite copies the start of e by hand. Blocks of zeros stay holes: a block device knows none.
func (c *copier) readAndWrite(e extent) (int64, error) {
	if c.buffer == nil {
		c.buffer = make([]byte, readChunk)
	}
	n, err := c.src.file.ReadAt(c.buffer[:min(e.end-e.start, readChunk)], e.start)
	if n == 0 {
		if errors.Is(err, io.EOF) {
			err = errors.New("it became shorter while it was copied")
		}
		return 0, fmt.Errorf("read %s: %w", c.src.file.Name(), err)
	}
	for done := 0; done < n; {
		block := c.buffer[done:min(done+zeroBlock, n)]
		if !bytes.Equal(block, zeros[:len(block)]) {
			w, err := c.dst.WriteAt(block, e.start+int64(done))
			c.written += int64(w)
			if err != nil {
				return 0, err
			}
		}
		done += len(block)
	}
	return int64(n), nil
}

var zeros [zeroBlock]byte
