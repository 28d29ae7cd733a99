package microhttp

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// maxConnections is how many clients may be connected at once (micro_http's MAX_CONNECTIONS).
const maxConnections = 10

// Handler answers a request.
type Handler func(*Request) *Response

// Server listens on a Unix socket. Its methods must be called from one goroutine, but for Wake.
type Server struct {
	listener, epoll, wake int
	limit                 int
	clients               map[int]*client
}

type client struct {
	connection
	out     []byte // what is still to be written
	writing bool   // epoll watches for room to write, not for bytes to read
	closed  bool
}

// Listen makes a socket at path, which must not exist yet. payloadLimit bounds a request's body.
// An existing path gives an error that is unix.EADDRINUSE.
func Listen(path string, payloadLimit int) (*Server, error) {
	s := &Server{listener: -1, epoll: -1, wake: -1, limit: payloadLimit, clients: map[int]*client{}}
	if err := s.open(path); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) open(path string) (err error) {
	if s.listener, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if err := unix.Bind(s.listener, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	if err := unix.Listen(s.listener, 128); err != nil {
		return err
	}
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	for _, fd := range []int{s.listener, s.wake} {
		if err := s.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN); err != nil {
			return err
		}
	}
	return nil
}

// Serve answers requests one after the other until stop, which is asked after each of them and after Wake, says true.
// What was answered until then is written before it returns.
func (s *Server) Serve(handle Handler, stop func() bool) error {
	events := make([]unix.EpollEvent, maxConnections+3)
	for !stop() {
		n, err := unix.EpollWait(s.epoll, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("microhttp: wait: %w", err)
		}
		for _, e := range events[:n] {
			switch fd := int(e.Fd); fd {
			case s.wake:
				var count [8]byte
				_, _ = unix.Read(s.wake, count[:])
			case s.listener:
				s.accept()
			default:
				s.serve(fd, e.Events, handle, stop)
			}
		}
		for fd, c := range s.clients {
			if c.closed {
				delete(s.clients, fd)
				_ = unix.Close(fd)
			}
		}
	}
	s.flush()
	return nil
}

// Wake makes Serve ask stop again. It may be called from any goroutine.
func (s *Server) Wake() {
	_, _ = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// Close drops all clients and stops listening. The socket's file stays, as Firecracker leaves it.
func (s *Server) Close() {
	for fd := range s.clients {
		_ = unix.Close(fd)
	}
	clear(s.clients)
	for _, fd := range []*int{&s.listener, &s.epoll, &s.wake} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

func (s *Server) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(s.epoll, op, fd, &unix.EpollEvent{Events: events | unix.EPOLLRDHUP, Fd: int32(fd)})
}

func (s *Server) accept() {
	fd, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return // the client went away before it was served
	}
	if len(s.clients) == maxConnections {
		_, _ = unix.Write(fd, []byte(full))
		_ = unix.Close(fd)
		return
	}
	if s.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) != nil {
		_ = unix.Close(fd)
		return
	}
	s.clients[fd] = &client{connection: connection{limit: s.limit}}
}

// serve handles an event of a client. A client that hung up, even by half, gets no answer.
func (s *Server) serve(fd int, events uint32, handle Handler, stop func() bool) {
	c := s.clients[fd]
	if c == nil {
		return
	}
	switch {
	case events&(unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLRDHUP) != 0:
		c.closed = true
	case events&unix.EPOLLIN != 0:
		s.read(fd, c, handle, stop)
	case events&unix.EPOLLOUT != 0:
		s.write(fd, c)
	}
}

func (s *Server) read(fd int, c *client, handle Handler, stop func() bool) {
	if len(c.free()) == 0 {
		c.out = faultResponse(errOverflow).append(c.out, "HTTP/1.1")
		s.write(fd, c)
		return
	}
	n, err := unix.Read(fd, c.free())
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	if err != nil || n <= 0 {
		c.closed = true
		return
	}
	requests, continues, err := c.feed(n)
	for _, r := range continues {
		c.out = (&Response{Status: 100}).append(c.out, r.version)
	}
	if err != nil {
		// Requests that came whole in the same read are dropped with it.
		c.out = faultResponse(err).append(c.out, "HTTP/1.1")
		requests = nil
	}
	for _, r := range requests {
		if stop() {
			break
		}
		c.out = handle(r).append(c.out, "HTTP/1.1")
	}
	s.write(fd, c)
}

// write writes what it can, and watches for room when that was not all.
func (s *Server) write(fd int, c *client) {
	for len(c.out) > 0 {
		n, err := unix.SendmsgN(fd, c.out, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			c.closed = true
			return
		}
		c.out = c.out[n:]
	}
	if writing := len(c.out) > 0; writing != c.writing {
		c.writing = writing
		events := uint32(unix.EPOLLIN)
		if writing {
			events = unix.EPOLLOUT
		}
		if s.watch(unix.EPOLL_CTL_MOD, fd, events) != nil {
			c.closed = true
		}
	}
}

// flush gives every client its last answer once more; what does not fit into its socket is lost, as the process ends.
func (s *Server) flush() {
	for fd, c := range s.clients {
		if len(c.out) > 0 && !c.closed {
			s.write(fd, c)
		}
	}
}
