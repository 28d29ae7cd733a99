package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// namedPort finds a virtio-serial port by the name that the host gave it: /dev/vport1p1 and the like, or "".
func namedPort(name string) string {
	entries, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return ""
	}
	for _, entry := range entries {
		if b, err := os.ReadFile(entry); err == nil && strings.TrimSpace(string(b)) == name {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(entry)))
		}
	}
	return ""
}

// hasVirtio tells whether there is a virtio device with an id.
func hasVirtio(id string) bool {
	entries, err := filepath.Glob("/sys/bus/virtio/devices/*/device")
	if err != nil {
		return false
	}
	for _, entry := range entries {
		if b, err := os.ReadFile(entry); err == nil && strings.TrimSpace(string(b)) == id {
			return true
		}
	}
	return false
}

// port is an open virtio-serial port. While the host's end is not open, Linux's driver answers a read with 0 bytes
// (drivers/char/virtio_console.c, port_fops_read); that is no end: the next event is waited for.
type port struct {
	*os.File
	raw syscall.RawConn
}

func openPort(path string) (*port, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &port{f, raw}, nil
}

func (p *port) Read(b []byte) (n int, err error) {
	waitErr := p.raw.Read(func(fd uintptr) bool {
		for {
			n, err = unix.Read(int(fd), b)
			if err != unix.EINTR {
				break
			}
		}
		return err != unix.EAGAIN && (err != nil || n > 0)
	})
	if waitErr != nil {
		return 0, waitErr
	}
	if err != nil {
		return 0, &os.PathError{Op: "read", Path: p.Name(), Err: err}
	}
	return n, nil
}

var _ io.ReadWriteCloser = (*port)(nil)
