package portmux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// session is one life of the multiplexer: yamux over the chunks of one session id. To yamux it is the connection.
type session struct {
	link       *link
	id         uint64
	generation uint64
	mux        *yamux.Session
	guard      guard

	pr    *io.PipeReader
	pw    *io.PipeWriter
	ready chan struct{} // closed when the writer writes this session's chunks
	dead  chan struct{}
	once  sync.Once
	// dropped tells that the link ended the session, not yamux.
	dropped atomic.Bool

	head []byte // a data frame's header that waits for its body, to go out in one chunk
}

func newSession(l *link, id, generation uint64) *session {
	s := &session{link: l, id: id, generation: generation, ready: make(chan struct{}), dead: make(chan struct{})}
	s.pr, s.pw = io.Pipe()
	var err error
	if l.host {
		s.mux, err = yamux.Client(s, muxConfig())
	} else {
		s.mux, err = yamux.Server(s, muxConfig())
	}
	if err != nil {
		panic("portmux: yamux refuses its configuration: " + err.Error()) // a constant: a test would see it
	}
	s.guard = guard{streams: s.mux.NumStreams, max: maxGuestStreams}
	go s.accept()
	return s
}

// Read and Write are yamux's side, with Close.
func (s *session) Read(p []byte) (int, error) { return s.pr.Read(p) }

func (s *session) Write(p []byte) (int, error) {
	select {
	case <-s.ready:
	case <-s.dead:
		return 0, ErrReset
	}
	if len(s.head) == 0 && len(p) == frameHeader && p[1] == typeData && binary.BigEndian.Uint32(p[8:]) > 0 {
		s.head = append(s.head, p...) // yamux writes the body next
		return len(p), nil
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), maxChunk-len(s.head))
		if err := s.link.out.chunk(s, s.head, rest[:n]); err != nil {
			if err != ErrReset {
				s.link.fail(fmt.Errorf("portmux: write: %w", err))
			}
			return 0, err
		}
		s.head, rest = s.head[:0], rest[n:]
	}
	return len(p), nil
}

// Close is called by yamux when it gives the session up, which it does when the peer breaks its protocol; after drop it
// says nothing.
func (s *session) Close() error {
	s.kill()
	if !s.dropped.Load() {
		s.link.broken(s, fmt.Errorf("%w: yamux gave the session up", ErrProtocol))
	}
	return nil
}

// kill wakes everything that waits for this session.
func (s *session) kill() {
	s.once.Do(func() {
		close(s.dead)
		s.pw.CloseWithError(ErrReset)
		s.pr.CloseWithError(ErrReset)
	})
}

// drop ends the session. yamux's own close waits for a write that may be stuck, so nobody waits for it.
func (s *session) drop() {
	s.dropped.Store(true)
	s.kill()
	go s.mux.Close()
}

func (s *session) accept() {
	for {
		stream, err := s.mux.AcceptStream()
		if err != nil {
			return
		}
		go s.link.incoming(s, stream)
	}
}

// open opens a connection to a port of the other end and waits for the answer.
func (s *session) open(ctx context.Context, port uint32) (*Conn, error) {
	stream, err := s.mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("portmux: dial port %d: %w", port, s.cause(err))
	}
	conn := newConn(s, stream, port)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = conn.introduce(port)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("portmux: dial port %d: %w", port, err)
	}
	return conn, nil
}

// cause translates yamux's errors.
func (s *session) cause(err error) error {
	select {
	case <-s.dead:
		if reason := s.link.reason(); reason != nil {
			return fmt.Errorf("%w (%w)", ErrReset, reason)
		}
		return ErrReset
	default:
	}
	if errors.Is(err, yamux.ErrConnectionReset) || errors.Is(err, yamux.ErrSessionShutdown) {
		return ErrReset
	}
	return err
}
