package agentwire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"sync"
)

// Conn sends frames on a connection and reads them from it. Sending is safe for concurrent use; one goroutine reads.
type Conn struct {
	net.Conn
	in *Reader

	mu  sync.Mutex
	buf []byte
}

// NewConn takes a connection over.
func NewConn(c net.Conn) *Conn {
	return &Conn{Conn: c, in: NewReader(bufio.NewReaderSize(c, MaxData+headerSize))}
}

// Next waits for a frame.
func (c *Conn) Next() (Frame, error) { return c.in.Next() }

// Send writes one frame in one call.
func (c *Conn) Send(kind Kind, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := Append(c.buf[:0], kind, payload)
	if err != nil {
		return err
	}
	c.buf = b
	if cap(b) > 2*MaxData {
		c.buf = nil // a large request is sent once
	}
	_, err = c.Conn.Write(b)
	return err
}

// end is the kind of frame that ends a stream.
func (k Kind) end() Kind { return k - KindStdin + KindStdinEnd }

// Outlet is the sending half of a stream: it splits what is written into frames and waits for credit.
type Outlet struct {
	conn      *Conn
	data, end Kind

	mu     sync.Mutex
	more   sync.Cond
	credit int
	err    error
}

// NewOutlet sends on a connection with frames of kind data (KindStdin, KindStdout or KindStderr).
func NewOutlet(c *Conn, data Kind) *Outlet {
	o := &Outlet{conn: c, data: data, end: data.end(), credit: Window}
	o.more.L = &o.mu
	return o
}

// Write sends p, waiting for credit where needed. After Fail it returns that error.
func (o *Outlet) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n, err := o.take(min(len(p)-sent, MaxData))
		if err != nil {
			return sent, err
		}
		if err := o.conn.Send(o.data, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

// take waits for credit and takes up to want bytes of it.
func (o *Outlet) take(want int) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.credit == 0 && o.err == nil {
		o.more.Wait()
	}
	if o.err != nil {
		return 0, o.err
	}
	n := min(want, o.credit)
	o.credit -= n
	return n, nil
}

// Grant adds credit from the other side. More than a window in all breaks the protocol.
func (o *Outlet) Grant(n uint32) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.credit+int(n) > Window {
		return fmt.Errorf("%w: credit beyond the window of %v", ErrInvalid, o.data)
	}
	o.credit += int(n)
	o.more.Signal()
	return nil
}

// Fail makes waiting and later writes return err: the connection is gone, or nobody wants the bytes.
func (o *Outlet) Fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	o.more.Broadcast()
}

// End tells the other side that nothing more comes.
func (o *Outlet) End() error { return o.conn.Send(o.end, nil) }

// Inlet is the receiving half of a stream. The connection's reader puts bytes in and never waits; another goroutine
// takes them out with Copy.
type Inlet struct {
	conn *Conn
	data Kind

	mu     sync.Mutex
	more   sync.Cond
	buf    []byte // received, not yet handed on
	window int    // what the other side may still send
	ended  error  // io.EOF after the end frame
}

// NewInlet receives frames of kind data and gives credit on the same connection.
func NewInlet(c *Conn, data Kind) *Inlet {
	in := &Inlet{conn: c, data: data, window: Window}
	in.more.L = &in.mu
	return in
}

// Put takes a data frame's payload. Bytes beyond the window, or after the end, break the protocol.
func (in *Inlet) Put(p []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(p) > in.window || in.ended == io.EOF {
		return fmt.Errorf("%w: %v beyond its window or end", ErrInvalid, in.data)
	}
	in.window -= len(p)
	in.buf = append(in.buf, p...)
	in.more.Signal()
	return nil
}

// End says that nothing more comes: io.EOF for the end frame, anything else for a connection that is gone. The first
// counts.
func (in *Inlet) End(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ended == nil {
		in.ended = err
	}
	in.more.Signal()
}

// Copy hands everything on to w until the end, and gives credit for what w took. When w fails, the other side is told
// that nobody wants more (an end frame in the opposite direction), what is still on the way is dropped, and the error is
// returned at the end.
func (in *Inlet) Copy(w io.Writer) error {
	var failed error
	var spare []byte
	for {
		p, err := in.take(spare)
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			if failed != nil {
				return failed
			}
			return err
		}
		for rest := p; len(rest) > 0; {
			n := min(len(rest), MaxData)
			if failed == nil {
				if _, failed = w.Write(rest[:n]); failed != nil {
					in.conn.Send(in.data.end(), nil) // a failure to send shows at the reader
				} else {
					in.credit(n)
				}
			}
			rest = rest[n:]
		}
		spare = p[:0]
	}
}

// take waits for bytes and swaps the buffer for an empty one, so that two buffers serve a stream for its life.
func (in *Inlet) take(spare []byte) ([]byte, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.buf) == 0 && in.ended == nil {
		in.more.Wait()
	}
	if len(in.buf) == 0 {
		return nil, in.ended
	}
	p := in.buf
	in.buf = spare
	return p, nil
}

func (in *Inlet) credit(n int) {
	in.mu.Lock()
	in.window += n
	in.mu.Unlock()
	in.conn.Send(KindCredit, Credit{in.data, uint32(n)}.Payload()) // a failure shows at the reader
}
