package portmux

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// Addr is the address of a connection: a port of the other end.
type Addr uint32

// Network returns "portmux".
func (Addr) Network() string { return "portmux" }

// String returns the port in decimal.
func (a Addr) String() string { return fmt.Sprint(uint32(a)) }

// Conn is one connection. It can be closed in one direction, as a TCP connection can.
type Conn struct {
	session *session
	stream  *yamux.Stream
	port    uint32

	answer sync.Once // an incoming connection is answered once: accepted or refused
	asked  bool      // an answer is owed
	closed atomic.Bool
	reads  sync.Mutex // one reader at a time
}

// The answer to a new connection.
const (
	accepted byte = iota
	refused
)

func newConn(s *session, stream *yamux.Stream, port uint32) *Conn {
	return &Conn{session: s, stream: stream, port: port}
}

// introduce names the port to the other end and reads its answer.
func (c *Conn) introduce(port uint32) error {
	if _, err := c.Write(binary.BigEndian.AppendUint32(nil, port)); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return err
	}
	if answer[0] != accepted {
		return ErrRefused
	}
	return nil
}

// named reads the port that an incoming stream is for. The other end learns the answer with the first use of the
// connection, or when it is closed unused.
func named(s *session, stream *yamux.Stream) (*Conn, error) {
	c := newConn(s, stream, 0)
	c.SetReadDeadline(time.Now().Add(handshakeTimeout))
	var port [4]byte
	if _, err := io.ReadFull(c, port[:]); err != nil {
		c.Close()
		return nil, err
	}
	c.SetReadDeadline(time.Time{})
	c.port, c.asked = binary.BigEndian.Uint32(port[:]), true
	return c, nil
}

// Port is the port that the connection was dialled to.
func (c *Conn) Port() uint32 { return c.port }

// accept tells the other end that its connection is taken.
func (c *Conn) accept() { c.reply(accepted) }

func (c *Conn) reply(answer byte) {
	if c.asked {
		c.answer.Do(func() { c.stream.Write([]byte{answer}) }) // a failure shows at the next use
	}
}

// Read reads what the other end wrote. It returns io.EOF when that closed its direction, and ErrReset when the session
// ended before.
func (c *Conn) Read(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	c.accept()
	c.reads.Lock()
	defer c.reads.Unlock()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := c.stream.Read(p)
	return n, c.fault(err)
}

// Write writes to the other end; it waits while that has a whole window unread.
func (c *Conn) Write(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	c.accept()
	n, err := c.stream.Write(p)
	return n, c.fault(err)
}

// fault says in the standard library's terms what yamux says in its own.
func (c *Conn) fault(err error) error {
	switch {
	case err == nil:
		return nil
	case c.closed.Load():
		return net.ErrClosed
	case err == io.EOF:
		select {
		case <-c.session.dead: // yamux says EOF then, too
			return c.session.cause(err)
		default:
			return io.EOF
		}
	case err == yamux.ErrTimeout:
		return os.ErrDeadlineExceeded
	case err == yamux.ErrStreamClosed:
		return net.ErrClosed
	}
	return c.session.cause(err)
}

// CloseWrite ends this end's direction: the other end reads EOF. Reading goes on.
func (c *Conn) CloseWrite() error {
	c.accept()
	return c.stream.Close()
}

// Close closes the connection. It waits for nothing: what was written is on its way already, what comes is dropped. A
// connection that was accepted and never used is refused by it.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	past := time.Unix(1, 0)
	c.stream.SetReadDeadline(past) // wakes who reads now
	go func() {
		c.reply(refused)
		c.stream.Close()
		c.reads.Lock() // the last reader has left
		defer c.reads.Unlock()
		c.stream.SetReadDeadline(time.Time{})
		// The other end may wait for its window before it sees our close; yamux bounds this by closeTimeout.
		io.Copy(io.Discard, c.stream)
	}()
	return nil
}

// LocalAddr and RemoteAddr return the port.
func (c *Conn) LocalAddr() net.Addr  { return Addr(c.port) }
func (c *Conn) RemoteAddr() net.Addr { return Addr(c.port) }

// SetDeadline, SetReadDeadline and SetWriteDeadline work as net.Conn says, but a write that waits for the serial port
// itself, not for its window, is not woken.
func (c *Conn) SetDeadline(t time.Time) error      { return c.stream.SetDeadline(t) }
func (c *Conn) SetReadDeadline(t time.Time) error  { return c.stream.SetReadDeadline(t) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

var _ net.Conn = (*Conn)(nil)
