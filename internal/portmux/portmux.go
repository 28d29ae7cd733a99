// Package portmux carries many connections over one virtio-serial port.
//
// The emulator has no vsock. It reaches the agent in the guest through a virtio-serial port instead: one byte stream, with
// the emulator at one end (Host) and our init at the other (Guest). Connections are addressed by a port number, as with
// vsock, and each has its own flow control (yamux, a window of 256 KiB), so that a reader that stalls stops its own
// connection only.
//
// A serial port knows no hang-up. What the host writes before the guest has opened it may be dropped; and after a
// snapshot was restored, a new host meets a guest whose stream stopped anywhere, with old bytes still queued in both
// directions. So yamux does not run on the bare stream but on sessions, and a session begins with a handshake that finds
// its place in any stream (see wire.go):
//
//	guest → host   announce        "I have just opened the port": begin anew
//	host → guest   sync(id)        drop what you had; the session is id from here on
//	guest → host   echo(id)        all before this is of another session
//
// After that both sides send chunks. A chunk is delivered only whole and valid, and valid means of this session: the id
// goes into its checksum. A chunk that is not valid ends the session, and the host syncs again.
package portmux

import (
	"errors"
	"io"
	"math"
	"time"

	"github.com/hashicorp/yamux"
)

var (
	// ErrRefused says that nothing listens on the port that was dialled, or that the listener's queue is full.
	ErrRefused = errors.New("portmux: connection refused: nothing listens on this port")
	// ErrReset says that the session under a connection ended: the other end was restarted or restored, or the stream
	// between them broke. A new connection can be dialled.
	ErrReset = errors.New("portmux: connection reset: the session with the other end has ended")
	// ErrClosed says that this end was closed.
	ErrClosed = errors.New("portmux: closed")
	// ErrProtocol says that the other end broke the protocol in a way that no accident explains. The host closes then.
	ErrProtocol = errors.New("portmux: protocol violation")
)

const (
	// handshakeTimeout is how long a new connection may take to name its port.
	handshakeTimeout = 30 * time.Second
	// closeTimeout is how long a closed connection waits for the other side to close too before it is reset.
	closeTimeout = time.Minute
	// writeTimeout switches yamux's own time-out off: a paused guest reads nothing, for as long as it is paused, and
	// that is no fault.
	writeTimeout = time.Duration(math.MaxInt64)

	// backlog bounds the connections that wait to be accepted.
	backlog = 64
	// maxGuestStreams bounds the connections of a session that the host tolerates; a guest that opens more breaks the
	// protocol. Firecracker's vsock has 1023.
	maxGuestStreams = 1023
)

// muxConfig is yamux's configuration at both ends. The window is yamux's smallest; keepalives are off, as a paused guest
// answers none.
func muxConfig() *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          backlog,
		EnableKeepAlive:        false,
		KeepAliveInterval:      time.Hour, // yamux refuses 0, even when it is off
		ConnectionWriteTimeout: writeTimeout,
		MaxStreamWindowSize:    window,
		StreamCloseTimeout:     closeTimeout,
		LogOutput:              io.Discard,
	}
}
