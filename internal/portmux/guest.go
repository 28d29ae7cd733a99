package portmux

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/hashicorp/yamux"
)

// Guest is the init's end. Its listeners outlive sessions: after a restore the host begins a new one, every connection is
// reset, and the listeners go on.
type Guest struct {
	link *link

	mu        sync.Mutex
	listeners map[uint32]*listener
}

// NewGuest takes rwc over (the opened port) and announces itself to the host.
func NewGuest(rwc io.ReadWriteCloser) *Guest {
	g := &Guest{link: newLink(rwc, false), listeners: make(map[uint32]*listener)}
	g.link.incoming, g.link.broken = g.incoming, g.broken
	g.link.run(announcement(), g.react)
	return g
}

// Listen takes the connections that the host opens to a port.
func (g *Guest) Listen(port uint32) (net.Listener, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.link.reason(); err != nil {
		return nil, err
	}
	if g.listeners[port] != nil {
		return nil, fmt.Errorf("portmux: listen on port %d: in use", port)
	}
	l := &listener{guest: g, port: port, conns: make(chan *Conn, backlog), done: make(chan struct{})}
	g.listeners[port] = l
	return l, nil
}

// Dial connects to a port of the host. It waits for a session as long as ctx allows.
func (g *Guest) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := g.link.dial(ctx, port)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Session waits for a session that is newer than the one of the number given (0: any) and returns its number. A number
// that grew says that every earlier connection is gone: the host was replaced, as after a restore.
func (g *Guest) Session(ctx context.Context, after uint64) (uint64, error) {
	s, err := g.link.established(ctx, after)
	if err != nil {
		return 0, err
	}
	return s.generation, nil
}

// Done is closed when the guest's end is closed, by Close or because the port failed.
func (g *Guest) Done() <-chan struct{} { return g.link.closed }

// Err says why it closed; nil while it is open.
func (g *Guest) Err() error { return g.link.reason() }

// Close ends all connections and listeners and closes the port.
func (g *Guest) Close() error {
	g.link.fail(ErrClosed)
	return nil
}

// react begins a session whenever the host says so; the echo goes out before anything of it. When the place is lost, only
// the host can help, so it is told.
func (g *Guest) react(in *receiver, e event) error {
	switch {
	case e.mark != nil && e.mark.kind == syncMark && e.mark.session != 0:
		s := g.link.replace(e.mark.session)
		if s == nil {
			return ErrClosed
		}
		in.begin(s.id)
		g.link.out.post(order{bytes: mark{echo, s.id}.append(nil), session: s})
	case e.lost:
		g.link.replace(0)
		g.link.out.post(announcement())
	}
	return nil
}

// broken asks the host for a new session: it is trusted, so the fault is an accident or ours.
func (g *Guest) broken(s *session, _ error) {
	if g.link.abandon(s) {
		g.link.out.post(announcement())
	}
}

func announcement() order { return order{bytes: filled(mark{kind: announce})} }

func (g *Guest) incoming(s *session, stream *yamux.Stream) {
	c, err := named(s, stream)
	if err != nil {
		return
	}
	g.mu.Lock()
	l := g.listeners[c.port]
	g.mu.Unlock()
	if l == nil {
		c.Close()
		return
	}
	select {
	case l.conns <- c:
		c.accept()
	default:
		c.Close()
	}
}

// listener is a port of the guest.
type listener struct {
	guest *Guest
	port  uint32
	conns chan *Conn
	done  chan struct{}
	once  sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-l.guest.link.closed:
		return nil, l.guest.link.reason()
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.guest.mu.Lock()
		delete(l.guest.listeners, l.port)
		l.guest.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.conns:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return Addr(l.port) }
