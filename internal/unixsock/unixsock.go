// Package unixsock dials and listens on Unix sockets whose path may be longer than the kernel takes.
//
// A socket's address holds 107 bytes of path (sun_path in unix(7), less the NUL). On Linux a longer path is reached
// through the descriptor of its folder, as /proc/self/fd/<n>/<name>; elsewhere it is an error.
package unixsock

import (
	"context"
	"fmt"
	"net"
)

// MaxPath is the longest path that fits into a socket's address, in bytes.
const MaxPath = 107

// Dial connects to the stream socket at path. errors.Is tells os.ErrNotExist (no such file) and syscall.ECONNREFUSED
// (nobody listens) apart.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	if len(path) > MaxPath {
		return dialLong(ctx, path)
	}
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

// Listen listens on a stream socket that it makes at path. Nothing may be there before. Closing the listener removes it.
func Listen(path string) (net.Listener, error) {
	if len(path) > MaxPath {
		return listenLong(path)
	}
	return net.Listen("unix", path)
}

func tooLong(path string) error {
	return fmt.Errorf("socket path %q is %d bytes long, more than the %d of a socket's address", path, len(path), MaxPath)
}
