package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const (
	copyChunk = 1 << 20
	pageSize  = 4 << 10
)

// newMemory makes the guest's memory: a file without a name that lives as long as somebody holds it.
func newMemory(mib int) (*os.File, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		if host := int(info.Totalram * uint64(info.Unit) >> 20); mib > host {
			return nil, fmt.Errorf("the guest's memory: %d MiB are asked for, this host has %d MiB", mib, host)
		}
	}
	memory, err := newMemfd("guest-memory")
	if err != nil {
		return nil, err
	}
	if err := memory.Truncate(int64(mib) << 20); err != nil {
		memory.Close()
		return nil, fmt.Errorf("the guest's memory: %w", err)
	}
	return memory, nil
}

func newMemfd(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory for %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// writeMemory writes the guest's memory to a file, raw and sparse. One that it made and could not fill is removed.
func writeMemory(path string, memory *os.File) (err error) {
	_, statErr := os.Lstat(path)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write the guest's memory: %w", err)
	}
	defer func() {
		err = errors.Join(err, file.Close())
		if err != nil {
			if errors.Is(statErr, fs.ErrNotExist) {
				os.Remove(path)
			}
			err = fmt.Errorf("write the guest's memory to %s: %w", path, err)
		}
	}()
	info, err := memory.Stat()
	if err != nil {
		return err
	}
	if err := file.Truncate(info.Size()); err != nil {
		return err
	}
	return copySparse(file, memory, info.Size())
}

// readMemory fills the guest's memory from a file that writeMemory, or Firecracker, wrote.
func readMemory(memory *os.File, path string, mib int) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the guest's memory: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("read the guest's memory: %w", err)
	}
	if size := int64(mib) << 20; info.Size() != size {
		return fmt.Errorf("read the guest's memory: %s has %d bytes, the snapshot's machine has %d", path, info.Size(), size)
	}
	if err := copySparse(memory, file, info.Size()); err != nil {
		return fmt.Errorf("read the guest's memory from %s: %w", path, err)
	}
	return nil
}

// copySparse copies size bytes to a file of that size that is one hole. What is a hole in src, or only zeros, stays one.
func copySparse(dst, src *os.File, size int64) error {
	buffer := make([]byte, copyChunk)
	for end := int64(0); end < size; {
		start, err := unix.Seek(int(src.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err == nil {
			end, err = unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		}
		if err != nil {
			return &os.PathError{Op: "seek", Path: src.Name(), Err: err}
		}
		end = min(end, size)
		if err := copyData(dst, src, start, end, buffer); err != nil {
			return err
		}
	}
	return nil
}

// copyData copies the bytes from start to end, but for pages of zeros.
func copyData(dst, src *os.File, start, end int64, buffer []byte) error {
	for start < end {
		n, err := src.ReadAt(buffer[:min(int64(len(buffer)), end-start)], start)
		if err != nil && !(err == io.EOF && n > 0) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF // it became shorter
			}
			return err
		}
		for off := 0; off < n; {
			run, zero := sameKind(buffer[off:n])
			if !zero {
				if _, err := dst.WriteAt(buffer[off:off+run], start+int64(off)); err != nil {
					return err
				}
			}
			off += run
		}
		start += int64(n)
	}
	return nil
}

var zeroPage [pageSize]byte

// sameKind returns how long the run of pages is that data begins with, all zero or all not.
func sameKind(data []byte) (run int, zero bool) {
	isZero := func(at int) bool {
		page := data[at:min(at+pageSize, len(data))]
		return bytes.Equal(page, zeroPage[:len(page)])
	}
	zero = isZero(0)
	for run = min(pageSize, len(data)); run < len(data) && isZero(run) == zero; {
		run = min(run+pageSize, len(data))
	}
	return run, zero
}
