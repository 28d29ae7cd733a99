package agent

import (
	"errors"
	"io"
	"sync"

	"smartvm/internal/agentwire"
)

// kept is what the main command wrote to one stream and no host has taken yet. While a host takes it the command waits
// when it is full; while none does the oldest bytes make room, so that the command never waits for a host.
type kept struct {
	mu      sync.Mutex
	changed sync.Cond
	ring    []byte // keepBytes, made at the first write
	start   int    // where the oldest byte is
	size    int
	taken   bool // a host takes it
	ended   bool // nothing more is written
}

// newKept begins as if a host took it, until the first dial has shown whether one does: the first output would be lost
// otherwise to the milliseconds that a connection takes.
func newKept() *kept {
	k := &kept{taken: true}
	k.changed.L = &k.mu
	return k
}

// errNotTaken says that no host takes the stream any more.
var errNotTaken = errors.New("nobody takes this stream")

// Write keeps p. It never fails.
func (k *kept) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for rest := p; len(rest) > 0; {
		for k.taken && k.size == keepBytes {
			k.changed.Wait()
		}
		n := min(len(rest), keepBytes)
		if k.taken {
			n = min(n, keepBytes-k.size)
		}
		k.add(rest[:n])
		rest = rest[n:]
	}
	return len(p), nil
}

// add puts p, which is no longer than the ring, behind what there is, over the oldest bytes where there is no room.
func (k *kept) add(p []byte) {
	if k.ring == nil {
		k.ring = make([]byte, keepBytes)
	}
	if over := k.size + len(p) - keepBytes; over > 0 {
		k.start = (k.start + over) % keepBytes
		k.size -= over
	}
	k.set((k.start+k.size)%keepBytes, p)
	k.size += len(p)
	k.changed.Broadcast()
}

// set copies p into the ring at a place.
func (k *kept) set(at int, p []byte) {
	n := copy(k.ring[at:], p)
	copy(k.ring, p[n:])
}

// End says that nothing more is written.
func (k *kept) End() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	k.changed.Broadcast()
	return nil
}

// give lets a host take the stream, or none.
func (k *kept) give(taken bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.taken = taken
	k.changed.Broadcast()
}

// take waits for bytes and takes out as many as p holds. At the stream's end it returns io.EOF, without a host
// errNotTaken.
func (k *kept) take(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.taken && k.size == 0 && !k.ended {
		k.changed.Wait()
	}
	if !k.taken {
		return 0, errNotTaken
	}
	if k.size == 0 {
		return 0, io.EOF
	}
	n := min(len(p), k.size)
	first := copy(p[:n], k.ring[k.start:])
	copy(p[first:n], k.ring)
	k.start = (k.start + n) % keepBytes
	k.size -= n
	k.changed.Broadcast()
	return n, nil
}

// putBack returns the end of what was taken last and could not be sent, as far as there is still room for it.
func (k *kept) putBack(p []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := min(len(p), keepBytes-k.size)
	k.start = (k.start - n + keepBytes) % keepBytes
	k.size += n
	k.set(k.start, p[len(p)-n:])
	k.changed.Broadcast()
}

// send sends the stream to a host until its end, or until no host takes it. What the host does not want (its end frame
// fails the outlet with errUnwanted) is dropped.
func (k *kept) send(to *agentwire.Outlet) {
	buf := make([]byte, agentwire.MaxData)
	wanted := true
	for {
		n, err := k.take(buf)
		if err == io.EOF {
			to.End() // a failure shows at the connection's reader
		}
		if err != nil {
			return
		}
		if !wanted {
			continue
		}
		sent, err := to.Write(buf[:n])
		if errors.Is(err, errUnwanted) {
			wanted = false
		} else if err != nil {
			k.putBack(buf[sent:n])
			return
		}
	}
}

// errUnwanted says that the host wants no more of a stream.
var errUnwanted = errors.New("the host wants no more of this stream")
