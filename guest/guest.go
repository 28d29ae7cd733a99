// Package guest is what runs inside a guest, seen from the host: the agent that runs commands there (Agent), our init
// that starts it (Init, BootArgs), and the names that both sides share.
//
// The agent listens on AgentPort. The host reaches it through a DialFunc: over Firecracker's vsock socket, or over the
// emulator's, which looks the same. One connection carries one command, several can be open at once. When the agent has
// come up it opens one connection itself, to UpPort of the host (ReadUp); and for a main command that was started with
// StartDetached it opens one after the other to MainPort, as long as the command lasts (AcceptMain).
//
// The guest is not trusted. What it sends is bounded and checked, and a guest that says nothing costs a time-out.
package guest

import (
	"context"
	"net"
	"time"
)

const (
	// AgentPort is the port in the guest on which the agent listens.
	AgentPort uint32 = 5386
	// UpPort is the port of the host to which the agent says that it is up. With Firecracker the host listens on the
	// Unix socket <uds_path>_5387 for it.
	UpPort uint32 = 5387
	// MainPort is the port of the host to which the agent brings the output and the exit status of a detached main
	// command (AcceptMain). With Firecracker the host listens on the Unix socket <uds_path>_5388 for it.
	MainPort uint32 = 5388
)

// DialFunc connects to a port of the guest.
type DialFunc func(ctx context.Context, port uint32) (net.Conn, error)

const (
	// replyTimeout bounds every answer of the agent to anything but a command that runs.
	replyTimeout = 30 * time.Second
	// ackTimeout bounds the writing of the last frame of a connection.
	ackTimeout = 5 * time.Second
)
