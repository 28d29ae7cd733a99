package portmux

import (
	"io"
	"sync"
)

// order is what the writer shall do between two chunks: write bytes, then turn to a session.
type order struct {
	bytes   []byte
	session *session // nil: no session's chunks until the next order
}

// writer owns the outgoing half of the stream. The reader never writes: it posts orders, and only the last one counts, so
// that an end that is not being read from goes on reading.
type writer struct {
	w      io.Writer
	closed <-chan struct{}

	mu      sync.Mutex // held while writing
	current *session
	buf     []byte

	posting sync.Mutex
	orders  chan order // at most one
}

func newWriter(w io.Writer, closed <-chan struct{}) *writer {
	return &writer{w: w, closed: closed, orders: make(chan order, 1), buf: make([]byte, 0, fillerLen)}
}

// post replaces the order that still waits.
func (w *writer) post(o order) {
	w.posting.Lock()
	defer w.posting.Unlock()
	select {
	case <-w.orders:
	default:
	}
	w.orders <- o
}

// run carries the orders out until the link closes or the stream fails.
func (w *writer) run() error {
	for {
		select {
		case o := <-w.orders:
			if err := w.do(o); err != nil {
				return err
			}
		case <-w.closed:
			return nil
		}
	}
}

func (w *writer) do(o order) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = o.session
	if len(o.bytes) > 0 {
		if _, err := w.w.Write(o.bytes); err != nil {
			return err
		}
	}
	if o.session != nil {
		close(o.session.ready)
	}
	return nil
}

// chunk writes one chunk of a session; ErrReset if the writer has turned to another.
func (w *writer) chunk(s *session, head, body []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.current != s {
		return ErrReset
	}
	w.buf = appendChunk(w.buf[:0], s.id, head, body)
	_, err := w.w.Write(w.buf)
	return err
}

// filled is a mark behind enough filler to be found by a receiver that waits for the rest of a chunk.
func filled(m mark) []byte { return m.append(make([]byte, fillerLen, fillerLen+markSize)) }
