package portmux

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/yamux"
)

// link is what both ends share: the stream with its reader and writer, and the session that is current.
type link struct {
	rwc  io.ReadWriteCloser
	host bool
	out  *writer
	// incoming takes a stream that the other end opened; it runs in a goroutine of its own.
	incoming func(*session, *yamux.Stream)
	// broken is told that the other end broke the protocol in a session.
	broken func(*session, error)

	mu         sync.Mutex
	current    *session
	generation uint64        // sessions so far
	changed    chan struct{} // closed and replaced when current or err changes
	err        error         // why the link closed
	closed     chan struct{}
}

func newLink(rwc io.ReadWriteCloser, host bool) *link {
	l := &link{rwc: rwc, host: host, changed: make(chan struct{}), closed: make(chan struct{})}
	l.out = newWriter(rwc, l.closed)
	return l
}

// run starts the link: first goes out, then everything that comes is dispatched to react.
func (l *link) run(first order, react func(*receiver, event) error) {
	go func() {
		if err := l.out.run(); err != nil {
			l.fail(err)
		}
	}()
	l.out.post(first)
	go func() { l.fail(l.receive(react)) }()
}

// receive reads the stream until it ends or react gives up.
func (l *link) receive(react func(*receiver, event) error) error {
	in := newReceiver(l.rwc)
	for {
		e, err := in.next()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("portmux: read: %w", err)
		}
		if e.payload != nil {
			err = l.deliver(e.payload)
		} else {
			err = react(in, e)
		}
		if err != nil {
			return err
		}
	}
}

// deliver gives a chunk's payload to the session. A session that has ended meanwhile takes nothing more.
func (l *link) deliver(payload []byte) error {
	l.mu.Lock()
	s := l.current
	l.mu.Unlock()
	if s == nil {
		return nil
	}
	if err := s.guard.check(payload); err != nil {
		l.broken(s, err)
		return nil
	}
	s.pw.Write(payload) // fails only when the session is dead
	return nil
}

// replace drops the current session with all its connections and begins another; id 0 begins none.
func (l *link) replace(id uint64) *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil {
		l.current.drop()
		l.current = nil
	}
	if id == 0 || l.err != nil {
		return nil
	}
	l.generation++
	l.current = newSession(l, id, l.generation)
	close(l.changed)
	l.changed = make(chan struct{})
	return l.current
}

// abandon drops a session if it is the current one still, and tells whether it was.
func (l *link) abandon(s *session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != s || l.err != nil {
		return false
	}
	l.current.drop()
	l.current = nil
	return true
}

// established waits until there is a session of a higher generation than after.
func (l *link) established(ctx context.Context, after uint64) (*session, error) {
	for {
		l.mu.Lock()
		s, err, changed := l.current, l.err, l.changed
		l.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if s != nil && s.generation > after {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("portmux: no session with the other end: %w", ctx.Err())
		}
	}
}

// fail closes the link for good; only the first reason counts.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	if l.current != nil {
		l.current.drop()
		l.current = nil
	}
	close(l.closed)
	close(l.changed)
	l.changed = make(chan struct{})
	l.rwc.Close()
}

func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// dial opens a connection to a port of the other end.
func (l *link) dial(ctx context.Context, port uint32) (*Conn, error) {
	s, err := l.established(ctx, 0)
	if err != nil {
		return nil, err
	}
	type result struct {
		conn *Conn
		err  error
	}
	// yamux's open waits for the stream to take its frame, and knows no context.
	opened := make(chan result, 1)
	go func() {
		conn, err := s.open(ctx, port)
		opened <- result{conn, err}
	}()
	select {
	case r := <-opened:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.conn != nil {
				r.conn.Close()
			}
		}()
		return nil, fmt.Errorf("portmux: dial port %d: %w", port, ctx.Err())
	}
}
