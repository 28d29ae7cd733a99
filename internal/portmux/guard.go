package portmux

import (
	"encoding/binary"
	"fmt"
)

// yamux's frames (its spec.md): version u8, type u8, flags u16, stream id u32, length u32, and for data the payload.
const (
	frameHeader   = 12
	typeData      = 0
	typeWindow    = 1
	typeGoAway    = 3
	flagSYN       = 1
	window        = 256 << 10 // yamux's initial and smallest window, in bytes
	goAwayMessage = "the other end gave the session up"
)

// guard reads along a session's incoming bytes and stops what yamux would take badly from a hostile peer: pings, each of
// which costs it a goroutine that waits for the peer to read; and streams without end, as an accepted stream may keep a
// whole window.
type guard struct {
	head    [frameHeader]byte
	have    int // bytes of head
	payload int // bytes of a data frame that are still to come
	// streams tells how many streams are open.
	streams func() int
	max     int
}

// check reads the next bytes.
func (g *guard) check(p []byte) error {
	for len(p) > 0 {
		if g.payload > 0 {
			n := min(g.payload, len(p))
			g.payload -= n
			p = p[n:]
			continue
		}
		n := copy(g.head[g.have:], p)
		g.have += n
		p = p[n:]
		if g.have < frameHeader {
			return nil
		}
		g.have = 0
		if err := g.frame(); err != nil {
			return err
		}
	}
	return nil
}

// frame judges the header that is complete now.
func (g *guard) frame() error {
	kind, flags, length := g.head[1], binary.BigEndian.Uint16(g.head[2:]), binary.BigEndian.Uint32(g.head[8:])
	switch {
	case g.head[0] != 0:
		return fmt.Errorf("%w: a frame of version %d", ErrProtocol, g.head[0])
	case kind == typeGoAway:
		return fmt.Errorf("%w: %s", ErrProtocol, goAwayMessage)
	case kind != typeData && kind != typeWindow:
		return fmt.Errorf("%w: a frame of type %d", ErrProtocol, kind)
	case length > window:
		return fmt.Errorf("%w: a frame for %d bytes, the window is %d", ErrProtocol, length, window)
	case flags&flagSYN != 0 && g.streams() >= g.max:
		return fmt.Errorf("%w: more than %d connections", ErrProtocol, g.max)
	}
	if kind == typeData {
		g.payload = int(length)
	}
	return nil
}
