package firecracker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tailSize     = 16 << 10 // bytes that a console keeps for diagnostics
	pipeCapacity = 1 << 20  // most that is read at the end: a pipe holds no more, unless root made it

	// A guest prints byte by byte. After a read that brought hardly anything, the next waits so long for more: a process
	// that woke for each byte would take a CPU from the guest whenever that talks.
	gather      = 2 * time.Millisecond
	gatherBelow = 1 << 10 // bytes

	settleTimeout = 200 * time.Millisecond // for the last output of a VMM that has ended to be drained
)

// Console takes what the VMM and its guest print. It is a FIFO that both ends have open for reading and writing, so that
// the VMM never meets EPIPE when the reader is gone, and its writes never wait: with a full FIFO output is lost, and the
// guest runs on. (With a plain pipe whose reader is gone, Firecracker's API freezes at the next log line.)
//
// What comes is the guest's: it is handed on byte for byte and must not be trusted.
type Console struct {
	path   string
	vmm    *os.File // the VMM's end, a description of its own: Firecracker changes its flags
	reader *os.File
	raw    syscall.RawConn // of reader

	drained  chan struct{} // closed when the copying has ended; nil before Drain
	closing  chan struct{} // closed when Close begins
	progress chan struct{} // gets a token after a read
	close    sync.Once
	closed   error

	mu       sync.Mutex // held over a read together with its entry in the tail
	tail     []byte
	writeErr error // of Drain's goroutine, and of Close after it
}

// NewConsole makes a FIFO at path, mode 0600, where nothing may be yet.
func NewConsole(path string) (*Console, error) {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	c := &Console{path: path, progress: make(chan struct{}, 1), closing: make(chan struct{})}
	if err := c.open(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Console) open() (err error) {
	// Opened one by one and not duplicated: O_NONBLOCK belongs to the description, which a duplicate would share.
	if c.reader, err = os.OpenFile(c.path, os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
		return err
	}
	if c.vmm, err = os.OpenFile(c.path, os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
		return err
	}
	c.raw, err = c.reader.SyscallConn()
	return err
}

// Path is the FIFO's path.
func (c *Console) Path() string { return c.path }

// File is the end to give to the VMM as its stdout or stderr. It stays the console's, which closes it.
func (c *Console) File() *os.File { return c.vmm }

// Drain copies what comes to w until Close, in a goroutine of its own. A failing w loses its part, and Close returns the
// error; the console is emptied in any case. A w that blocks for long makes the VMM's output overflow. Call it once.
func (c *Console) Drain(w io.Writer) {
	c.drained = make(chan struct{})
	go func() {
		defer close(c.drained)
		buf := make([]byte, 32<<10)
		more := time.NewTimer(gather)
		defer more.Stop()
		for {
			n, err := c.read(buf, c.raw.Read)
			if err != nil {
				break // Close set a deadline
			}
			c.pass(w, buf[:n])
			if n < gatherBelow {
				more.Reset(gather)
				select {
				case <-more.C:
				case <-c.closing:
				}
			}
		}
		// What is left, without waiting; bounded, as a VMM that is still there may write on and on.
		once := func(f func(uintptr) bool) error { return c.raw.Control(func(fd uintptr) { f(fd) }) }
		for left := 0; left < pipeCapacity; {
			n, err := c.read(buf, once)
			if n == 0 || err != nil {
				return
			}
			left += n
			c.pass(w, buf[:n])
		}
	}()
}

// Tail returns a copy of the last 16 KiB, or less, that were drained.
func (c *Console) Tail() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.tail)
}

// Close ends the draining, hands on what is left without waiting for more, and removes the FIFO. It waits for a write to
// Drain's w that is under way. Safe to call more than once.
func (c *Console) Close() error {
	c.close.Do(func() {
		close(c.closing)
		if c.drained != nil {
			c.reader.SetReadDeadline(time.Unix(1, 0))
			<-c.drained
		}
		for _, f := range []*os.File{c.reader, c.vmm} {
			if f != nil {
				f.Close()
			}
		}
		err := os.Remove(c.path)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		c.closed = errors.Join(c.writeErr, err)
	})
	return c.closed
}

// Settle waits until all that was written so far is in the tail, and no longer than settleTimeout.
func (c *Console) Settle() {
	if c.drained == nil {
		return
	}
	timeout := time.NewTimer(settleTimeout)
	defer timeout.Stop()
	for c.pending() {
		select {
		case <-c.progress:
		case <-c.drained:
			return
		case <-timeout.C:
			return
		}
	}
}

// pending tells whether the FIFO holds bytes that are not in the tail yet.
func (c *Console) pending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	bytes := 0
	c.raw.Control(func(fd uintptr) { bytes, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return bytes > 0
}

// read reads what is there, in the way of one of reader's RawConn methods, and enters it in the tail.
func (c *Console) read(buf []byte, by func(func(fd uintptr) bool) error) (n int, err error) {
	err = by(func(fd uintptr) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		got, err := unix.Read(int(fd), buf)
		if err != nil {
			return false // EAGAIN: nothing there; the FIFO never ends, as we have it open for writing ourselves
		}
		n = got
		c.tail = append(c.tail, buf[:n]...)
		if extra := len(c.tail) - tailSize; extra > 0 {
			c.tail = append(c.tail[:0], c.tail[extra:]...)
		}
		return true
	})
	select {
	case c.progress <- struct{}{}:
	default:
	}
	return n, err
}

// pass writes to w until w fails for the first time.
func (c *Console) pass(w io.Writer, b []byte) {
	if c.writeErr != nil {
		return
	}
	if _, err := w.Write(b); err != nil {
		c.writeErr = fmt.Errorf("console %s: pass on: %w", c.path, err)
	}
}
