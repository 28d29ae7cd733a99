package qemu

import "time"

// Time-outs and limits of this package.
const (
	// commandTimeout is how long QEMU may take over a QMP command before it counts as hung. Its main loop waits for the
	// host's disk at times.
	commandTimeout = 30 * time.Second
	// heartbeat is how often QEMU is asked how it is. It finds one that hangs while nobody wants anything of it.
	heartbeat = 10 * time.Second
	// loadTimeout is how long an incoming state may take.
	loadTimeout = 60 * time.Second
	// quitTimeout is how long QEMU may take to end in good order before it is killed.
	quitTimeout = 5 * time.Second
	// drainTimeout is how long the last of the serial output may take to be written once QEMU is gone.
	drainTimeout = 2 * time.Second
	// connectTimeout is how long a client of the vsock may take over its `CONNECT` line.
	connectTimeout = 2 * time.Second

	// maxMessage bounds one QMP message, in bytes. The longest that we ask for has a few hundred.
	maxMessage = 1 << 20
	// maxState bounds the state of a snapshot, in bytes; it has some ten thousand.
	maxState = 64 << 20
	// maxOutput is how much of QEMU's own output is kept for error messages, in bytes.
	maxOutput = 8 << 10
	// maxConnectLine bounds a client's `CONNECT <port>\n`, in bytes: vsock/unix/muxer.rs.
	maxConnectLine = 32
	// maxConnections bounds the vsock connections that are open at once: Firecracker's MAX_CONNECTIONS.
	maxConnections = 1023
	// firstHostPort is the first port that Firecracker names in `OK <port>`: vsock/unix/muxer.rs.
	firstHostPort = 1 << 30
)
