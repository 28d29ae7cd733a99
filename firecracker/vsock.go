package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"smartvm/internal/unixsock"
)

// VsockTimeout bounds the handshake of [DialVsock] when the context has no deadline. Firecracker itself gives the
// guest's driver 2 s.
const VsockTimeout = 3 * time.Second

// ErrNotListening tells that the guest has no listener at the port. It may have one later.
var ErrNotListening = errors.New("nobody listens at that port in the guest")

// DialVsock connects to a port in the guest through the VM's vsock socket at udsPath (Firecracker's docs/vsock.md). The
// context bounds connection and handshake, not the connection's life. While the guest's driver is not up the VMM gives no
// answer at all: use a short deadline and try again.
func DialVsock(ctx context.Context, udsPath string, port uint32) (net.Conn, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, VsockTimeout)
		defer cancel()
	}
	conn, err := unixsock.Dial(ctx, udsPath)
	if err != nil {
		return nil, fmt.Errorf("vsock port %d: %w", port, err)
	}
	// An end of the context wakes the handshake by a deadline in the past.
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = handshake(conn, port)
	if !stop() && err == nil {
		err = ctx.Err() // the deadline is being set, or was: the connection is not to be trusted
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer to CONNECT: %w", context.Cause(ctx))
		}
		return nil, fmt.Errorf("vsock port %d of %s: %w", port, udsPath, err)
	}
	return conn, nil
}

// ListenVsock listens for connections that the guest makes to the host (CID 2) at port: the VMM connects to
// <udsPath>_<port>. Accept promptly, as up to 1.16.1 the VMM waits while the backlog is full, and the VM with it.
func ListenVsock(udsPath string, port uint32) (net.Listener, error) {
	return unixsock.Listen(udsPath + "_" + strconv.FormatUint(uint64(port), 10))
}

// handshake asks for the port. The request goes out in one write and the reply is read byte by byte: what follows its
// line end is the guest's already.
func handshake(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return fmt.Errorf("send CONNECT: %w", err)
	}
	var line []byte
	const longest = len("OK 4294967295\n")
	for one := make([]byte, 1); len(line) < longest; {
		n, err := conn.Read(one)
		if n == 1 && one[0] == '\n' {
			return checkAnswer(string(line))
		}
		line = append(line, one[:n]...)
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return ErrNotListening
		case errors.Is(err, io.EOF):
			return fmt.Errorf("the answer to CONNECT ends in %q", line)
		case err != nil:
			return fmt.Errorf("read the answer to CONNECT: %w", err)
		}
	}
	return fmt.Errorf("the answer to CONNECT is no line but begins %q", line)
}

// checkAnswer takes "OK <the host's port>".
func checkAnswer(line string) error {
	number, ok := strings.CutPrefix(line, "OK ")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return fmt.Errorf("the answer to CONNECT is %q, not OK and a port", line)
	}
	return nil
}
