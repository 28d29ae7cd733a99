package portmux

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

const patience = 30 * time.Second

func bounded(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	return ctx
}

// pair is a host and a guest joined by a pipe in memory.
func pair(t testing.TB) (*Host, *Guest) {
	t.Helper()
	a, b := newWire(), newWire()
	h, g := NewHost(end{a, b}), NewGuest(end{b, a})
	t.Cleanup(func() { h.Close(); g.Close() })
	return h, g
}

// wire is one direction of a serial line in memory: bytes queue without bound, as in the kernel, and there is no hang-up
// but close.
type wire struct {
	mu     sync.Mutex
	more   sync.Cond
	buf    []byte
	closed bool
}

func newWire() *wire {
	w := &wire{}
	w.more.L = &w.mu
	return w
}

func (w *wire) write(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, p...)
	w.more.Broadcast()
}

// end is one end of two wires.
type end struct{ in, out *wire }

func (e end) Read(p []byte) (int, error) { return e.in.read(p, &e.in.closed) }

func (w *wire) read(p []byte, closed *bool) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) == 0 && !*closed {
		w.more.Wait()
	}
	if *closed {
		return 0, io.EOF
	}
	n := copy(p, w.buf)
	w.buf = w.buf[n:]
	return n, nil
}

func (e end) Write(p []byte) (int, error) {
	e.out.write(p)
	return len(p), nil
}

func (e end) Close() error {
	e.in.mu.Lock()
	defer e.in.mu.Unlock()
	e.in.closed = true
	e.in.more.Broadcast()
	return nil
}

// detachable is an end that can be closed without closing the wires, which another end then takes over.
func (e end) detachable() io.ReadWriteCloser { return &detachable{end: e} }

type detachable struct {
	end
	gone bool // guarded by in.mu
}

func (d *detachable) Read(p []byte) (int, error) { return d.in.read(p, &d.gone) }

func (d *detachable) Write(p []byte) (int, error) {
	d.in.mu.Lock()
	gone := d.gone
	d.in.mu.Unlock()
	if gone {
		return 0, io.ErrClosedPipe
	}
	return d.end.Write(p)
}

func (d *detachable) Close() error {
	d.in.mu.Lock()
	defer d.in.mu.Unlock()
	d.gone = true
	d.in.more.Broadcast()
	return nil
}

// echoes serves a port of the guest with an echo.
func echoes(t testing.TB, g *Guest, port uint32) net.Listener {
	t.Helper()
	l, err := g.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			}()
		}
	}()
	return l
}

// roundTrip sends bytes to an echo and compares.
func roundTrip(t testing.TB, h *Host, port uint32, size int) {
	t.Helper()
	c, err := h.Dial(bounded(t), port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := make([]byte, size)
	rand.Read(sent)
	go func() {
		c.Write(sent)
		c.(*Conn).CloseWrite()
	}()
	c.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(sent, got) {
		t.Fatalf("sent %d bytes, got %d, %v", len(sent), len(got), err)
	}
}

func TestConnectionsGoBothWays(t *testing.T) {
	t.Parallel()
	h, g := pair(t)
	echoes(t, g, 7)
	roundTrip(t, h, 7, 3<<20)

	go func() {
		c, port, err := h.Accept()
		if err != nil || port != 9 {
			t.Errorf("accept: port %d, %v", port, err)
			return
		}
		io.WriteString(c, "from the host")
		c.Close()
	}()
	c, err := g.Dial(bounded(t), 9)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "from the host" {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestManyConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	h, g := pair(t)
	echoes(t, g, 7)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { roundTrip(t, h, 7, 100_000) })
	}
	wg.Wait()
}

func TestAPortWithoutAListenerIsRefused(t *testing.T) {
	t.Parallel()
	h, g := pair(t)
	if _, err := h.Dial(bounded(t), 1); !errors.Is(err, ErrRefused) {
		t.Errorf("host: %v", err)
	}
	l := echoes(t, g, 2)
	roundTrip(t, h, 2, 10)
	l.Close()
	if _, err := h.Dial(bounded(t), 2); !errors.Is(err, ErrRefused) {
		t.Errorf("after the listener was closed: %v", err)
	}
	go func() {
		c, _, err := h.Accept()
		if err == nil {
			c.Close() // unused: refused
		}
	}()
	if _, err := g.Dial(bounded(t), 3); !errors.Is(err, ErrRefused) {
		t.Errorf("guest: %v", err)
	}
}

func TestADialWaitsForTheOtherEndAsLongAsItsContextAllows(t *testing.T) {
	t.Parallel()
	a, b := newWire(), newWire()
	h := NewHost(end{a, b})
	defer h.Close()
	ctx, cancel := context.WithCancel(bounded(t))
	failed := make(chan error)
	go func() { _, err := h.Dial(ctx, 7); failed <- err }()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	g := NewGuest(end{b, a})
	defer g.Close()
	echoes(t, g, 7)
	roundTrip(t, h, 7, 10)
}

func TestAReaderThatStallsStopsItsOwnConnectionOnly(t *testing.T) {
	t.Parallel()
	h, g := pair(t)
	echoes(t, g, 7)
	l, err := g.Listen(8)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err == nil {
			for { // a guest that writes without end
				if _, err := c.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		}
	}()
	stalled, err := h.Dial(bounded(t), 8)
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	roundTrip(t, h, 7, 1<<20)
}

func TestACloseEndsTheOtherSideToo(t *testing.T) {
	t.Parallel()
	h, g := pair(t)
	l, err := g.Listen(7)
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.Dial(bounded(t), 7)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
	c.Close()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read of the closed connection: %v", err)
	}
	theirs.SetReadDeadline(time.Now().Add(patience))
	if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a read of the other side: %v", err)
	}
	theirs.Close()
}

func TestEverySessionEndsItsConnectionsAndListenersGoOn(t *testing.T) {
	t.Parallel()
	a, b := newWire(), newWire()
	g := NewGuest(end{b, a})
	defer g.Close()
	echoes(t, g, 7)
	var number uint64
	var last net.Conn
	for range 5 {
		// A new host takes over without any sign to the guest; the old one is not told either, it just stops.
		h := NewHost(end{a, b}.detachable())
		var err error
		if number, err = g.Session(bounded(t), number); err != nil {
			t.Fatal(err)
		}
		roundTrip(t, h, 7, 100_000)
		if last != nil {
			last.Close()
		}
		if last, err = g.dialTo(t, h); err != nil {
			t.Fatal(err)
		}
		h.Close()
	}
	h := NewHost(end{a, b})
	defer h.Close()
	if _, err := g.Session(bounded(t), number); err != nil {
		t.Fatal(err)
	}
	if _, err := last.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Errorf("a connection of the last session: %v", err)
	}
}

func (g *Guest) dialTo(t *testing.T, h *Host) (net.Conn, error) {
	accepted := make(chan struct{})
	go func() {
		c, _, err := h.Accept()
		if err == nil {
			c.Write([]byte("x"))
		}
		close(accepted)
	}()
	c, err := g.Dial(bounded(t), 9)
	<-accepted
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	return c, err
}
