package qemu

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// serial joins the guest's serial port to the emulator's input and output.
type serial struct {
	conn *net.UnixConn
	in   *os.File
	out  io.Writer

	drained chan struct{} // closed when all output is written
	wake    [2]*os.File   // a pipe that ends the wait for input
	readers sync.WaitGroup
}

func newSerial(conn *net.UnixConn, in *os.File, out io.Writer) *serial {
	return &serial{conn: conn, in: in, out: out, drained: make(chan struct{})}
}

// start begins to copy, once QEMU has the other end.
func (s *serial) start() {
	go func() {
		defer close(s.drained)
		buffer := make([]byte, 16<<10)
		for {
			n, err := s.conn.Read(buffer)
			s.out.Write(buffer[:n]) // an output that fails must not stop the guest
			if err != nil {
				return
			}
		}
	}()
	if s.in == nil {
		return
	}
	read, write, err := os.Pipe()
	if err != nil {
		return // no descriptors left: the guest has no input then
	}
	s.wake = [2]*os.File{read, write}
	s.readers.Go(s.copyInput)
}

// copyInput waits for input and for close at once: a read of a terminal cannot be interrupted.
func (s *serial) copyInput() {
	raw, err := s.in.SyscallConn()
	if err != nil {
		return
	}
	wake := int32(s.wake[0].Fd())
	buffer := make([]byte, 4<<10)
	for {
		var n int
		var readErr error
		// Control keeps the descriptor open meanwhile and, unlike Fd, leaves its mode alone.
		err := raw.Control(func(fd uintptr) { n, readErr = readUnless(int(fd), int(wake), buffer) })
		if err != nil || readErr != nil || n <= 0 {
			return
		}
		if _, err := s.conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// readUnless reads from fd, or returns 0 once wake can be read or has ended.
func readUnless(fd, wake int, buffer []byte) (int, error) {
	for {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(polled, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return 0, err
		}
		if polled[1].Revents != 0 {
			return 0, nil
		}
		n, err := unix.Read(fd, buffer)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		return n, err
	}
}

// drain waits until the output of a QEMU that has ended is written, but no longer than limit.
func (s *serial) drain(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-s.drained:
	case <-timer.C:
	}
}

// close ends both directions.
func (s *serial) close() {
	s.conn.Close()
	if s.wake[1] != nil {
		s.wake[1].Close()
		s.readers.Wait()
		s.wake[0].Close()
	}
}
