package portmux

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"

	"github.com/hashicorp/yamux"
)

// Host is the emulator's end. The guest is not trusted: whatever it sends costs a bounded amount of memory, and a breach
// of the protocol closes the host with an error that wraps ErrProtocol.
type Host struct {
	link     *link
	accepted chan *Conn
	awaited  uint64 // the session whose echo is waited for; the link's reader alone uses it
}

// NewHost takes rwc over (a socket to QEMU's chardev) and begins to look for the guest. rwc's Close must wake its Read
// and Write.
func NewHost(rwc io.ReadWriteCloser) *Host {
	h := &Host{link: newLink(rwc, true), accepted: make(chan *Conn, backlog)}
	h.link.incoming = h.incoming
	h.link.broken = func(_ *session, err error) { h.link.fail(err) }
	h.link.run(h.sync(), h.react)
	return h
}

// Dial connects to a port that the guest listens on. It waits for the guest's end to come up as long as ctx allows.
// ErrRefused: the guest is up, and nothing listens there.
func (h *Host) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := h.link.dial(ctx, port)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Accept waits for a connection that the guest opened and returns it with the port that it is for. The guest learns
// that it was accepted at the connection's first Read or Write; a Close before that tells it ErrRefused.
func (h *Host) Accept() (net.Conn, uint32, error) {
	select {
	case c := <-h.accepted:
		return c, c.port, nil
	case <-h.link.closed:
		return nil, 0, h.link.reason()
	}
}

// Ready waits until the guest's end is up.
func (h *Host) Ready(ctx context.Context) error {
	_, err := h.link.established(ctx, 0)
	return err
}

// Done is closed when the host is closed, by Close or by an error.
func (h *Host) Done() <-chan struct{} { return h.link.closed }

// Err says why the host closed: ErrClosed after Close; nil while it is open.
func (h *Host) Err() error { return h.link.reason() }

// Close ends all connections and closes the stream.
func (h *Host) Close() error {
	h.link.fail(ErrClosed)
	return nil
}

// sync is the order that begins a fresh session.
func (h *Host) sync() order {
	var id [8]byte
	rand.Read(id[:]) // never fails
	h.awaited = max(binary.BigEndian.Uint64(id[:]), 1)
	return order{bytes: filled(mark{syncMark, h.awaited})}
}

// react answers what is not a chunk. Only the awaited echo begins a session. Anything else costs the session that is, if
// it tells that the guest lost its place or began anew; what is left of older sessions is passed over.
func (h *Host) react(in *receiver, e event) error {
	switch {
	case e.mark != nil && e.mark.kind == echo && e.mark.session == h.awaited:
		h.awaited = 0
		s := h.link.replace(e.mark.session)
		if s == nil {
			return ErrClosed
		}
		in.begin(s.id)
		h.link.out.post(order{session: s})
	case e.lost, e.mark.kind == announce:
		in.lose()
		h.link.replace(0)
		h.link.out.post(h.sync())
	}
	return nil
}

func (h *Host) incoming(s *session, stream *yamux.Stream) {
	c, err := named(s, stream)
	if err != nil {
		return
	}
	select {
	case h.accepted <- c:
	default:
		c.Close()
	}
}
