package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/emulator/machine"
	"smartvm/internal/portmux"
	"smartvm/internal/unixsock"
)

// vsock is Firecracker's hybrid socket in front of the multiplexer: docs/vsock.md and vsock/unix/muxer.rs there.
type vsock struct {
	spec   machine.Vsock
	host   *portmux.Host
	slots  chan struct{} // one per open connection
	port   atomic.Uint32 // of the next connection, as the host's end is numbered
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// newVsock serves the socket until close. It takes the agent's port and the listener over.
func newVsock(agent *net.UnixConn, spec *machine.Vsock, warn machine.Warner) *vsock {
	s := &vsock{spec: *spec, host: portmux.NewHost(agent), slots: make(chan struct{}, maxConnections)}
	s.port.Store(firstHostPort)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.work.Go(s.acceptClients)
	s.work.Go(s.acceptGuest)
	s.work.Go(func() {
		<-s.host.Done()
		if err := s.host.Err(); errors.Is(err, portmux.ErrProtocol) {
			warn("vsock: no connections any more: %v", err)
		}
	})
	return s
}

// close ends every connection and waits for that.
func (s *vsock) close() {
	s.cancel()
	s.spec.Listener.Close()
	s.host.Close()
	s.work.Wait()
}

// acceptClients serves those who connect on the host.
func (s *vsock) acceptClients() {
	for {
		conn, err := s.spec.Listener.Accept()
		if s.ctx.Err() != nil {
			if err == nil {
				conn.Close() // it came while we closed
			}
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say: it gets better when others close theirs
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
			}
			continue
		}
		s.serve(conn, func() net.Conn { return s.connectGuest(conn) })
	}
}

// acceptGuest serves what the guest connects to. Who does not listen on the host is refused.
func (s *vsock) acceptGuest() {
	for {
		conn, port, err := s.host.Accept()
		if err != nil {
			return
		}
		s.serve(conn, func() net.Conn {
			ctx, cancel := context.WithTimeout(s.ctx, connectTimeout)
			defer cancel()
			peer, err := unixsock.Dial(ctx, fmt.Sprintf("%s_%d", s.spec.Path, port))
			if err != nil {
				return nil
			}
			return peer
		})
	}
}

// serve finds conn's peer and carries bytes between them, in the background. Above the limit conn is closed at once.
func (s *vsock) serve(conn net.Conn, peer func() net.Conn) {
	select {
	case s.slots <- struct{}{}:
	default:
		conn.Close()
		return
	}
	s.work.Go(func() {
		defer func() { <-s.slots }()
		defer conn.Close()
		other := peer()
		if other == nil {
			return
		}
		defer other.Close()
		stop := context.AfterFunc(s.ctx, func() {
			conn.Close()
			other.Close()
		})
		defer stop()
		join(conn, other)
	})
}

// connectGuest reads the client's request, connects to the guest and says so; nil when any of that fails. A client that
// comes before the guest is up waits for it, as with Firecracker, or goes.
func (s *vsock) connectGuest(client net.Conn) net.Conn {
	stop := context.AfterFunc(s.ctx, func() { client.Close() })
	defer stop()
	port, err := readConnect(client)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	var watch sync.WaitGroup
	watch.Go(func() {
		if hungUp(client) {
			cancel()
		}
	})
	guest, err := s.host.Dial(ctx, port)
	client.SetReadDeadline(time.Unix(1, 0)) // ends the watch
	watch.Wait()
	client.SetReadDeadline(time.Time{})
	if err != nil {
		return nil
	}
	if _, err := fmt.Fprintf(client, "OK %d\n", s.port.Add(1)-1); err != nil {
		guest.Close()
		return nil
	}
	return guest
}

// readConnect reads `CONNECT <port>\n`, byte by byte, as what follows is the guest's.
func readConnect(client net.Conn) (uint32, error) {
	client.SetReadDeadline(time.Now().Add(connectTimeout))
	defer client.SetReadDeadline(time.Time{})
	line := make([]byte, 0, maxConnectLine)
	for len(line) < maxConnectLine {
		n, err := client.Read(line[len(line) : len(line)+1])
		if err != nil {
			return 0, err
		}
		line = line[:len(line)+n]
		if n == 1 && line[len(line)-1] == '\n' {
			return parseConnect(string(line))
		}
	}
	return parseConnect(string(line))
}

// parseConnect takes what Firecracker takes: the word in any case, white space, a port, and anything behind it.
func parseConnect(line string) (uint32, error) {
	words := strings.Fields(line)
	if len(words) < 2 || !strings.EqualFold(words[0], "connect") {
		return 0, errors.New("not a CONNECT line")
	}
	port, err := strconv.ParseUint(words[1], 10, 32)
	return uint32(port), err
}

// join carries bytes both ways until both ends are done, or one is gone. An end that closes one direction may go on
// with the other.
func join(a, b net.Conn) {
	var carried, watched sync.WaitGroup
	carry := func(dst, src net.Conn) {
		_, err := io.Copy(dst, src)
		if err == nil {
			err = dst.(interface{ CloseWrite() error }).CloseWrite()
		}
		if err != nil {
			dst.Close()
			src.Close()
			return
		}
		// A peer that closes wholly wants no more of what the other end may still send.
		watched.Go(func() {
			if hungUp(src) {
				dst.Close()
				src.Close()
			}
		})
	}
	carried.Go(func() { carry(a, b) })
	carried.Go(func() { carry(b, a) })
	carried.Wait()
	a.Close()
	b.Close()
	watched.Wait()
}

// hungUp waits until a Unix socket's peer has closed it wholly, and tells whether that, and no deadline or close of ours,
// ended the wait. For anything else it is false at once.
func hungUp(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	// Read calls back whenever something has happened at the socket; a half-close is no hang-up.
	err = raw.Read(func(fd uintptr) bool {
		polled := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(polled, 0)
		gone = err == nil && n > 0 && polled[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		return gone
	})
	return gone && (err == nil || errors.Is(err, os.ErrDeadlineExceeded))
}
