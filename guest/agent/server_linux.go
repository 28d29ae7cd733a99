package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"smartvm/internal/agentwire"
)

// Config is what an agent needs of the guest around it.
type Config struct {
	Boot   string // the boot nonce, for hellos
	Kernel string // the kernel's release, for hellos
	// Resume sets the clock and feeds the random number generator; Restore does it for real.
	Resume func(agentwire.Resume) error
	// DialMain connects to the host's port for the detached main command. nil: no command can be detached as main.
	DialMain func(context.Context) (net.Conn, error)
	// Shutdown begins a clean shutdown. It is called when the host asks, and when the main command has ended.
	Shutdown func(why string)
}

// Server is the agent.
type Server struct {
	config Config
	epoch  atomic.Uint64
	main   mainCommand
	resume sync.Mutex
	slots  chan struct{}
}

// NewServer returns an agent that serves nothing yet.
func NewServer(c Config) *Server {
	return &Server{config: c, slots: make(chan struct{}, maxConns)}
}

// Hello is what the agent says about itself now.
func (s *Server) Hello() agentwire.Hello {
	return agentwire.Hello{Protocol: agentwire.Protocol, Boot: s.config.Boot, Epoch: s.epoch.Load(),
		Features: s.features(), Kernel: s.config.Kernel}
}

// Serve answers the connections of a listener until that is closed, whose error it returns.
func (s *Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		s.slots <- struct{}{}
		go func() {
			defer func() { <-s.slots }()
			defer conn.Close()
			s.answer(agentwire.NewConn(conn))
		}()
	}
}

// SayUp sends the hello on a connection to the host's port for it and waits for the acknowledgement.
func (s *Server) SayUp(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(requestTimeout))
	c := agentwire.NewConn(conn)
	if err := c.Send(agentwire.KindHello, agentwire.Encode(s.Hello())); err != nil {
		return err
	}
	f, err := c.Next()
	if err != nil {
		return err
	}
	return f.Expect(agentwire.KindExitAck, nil)
}

// answer serves one connection.
func (s *Server) answer(c *agentwire.Conn) {
	c.SetReadDeadline(time.Now().Add(requestTimeout))
	f, err := c.Next()
	if err != nil {
		return
	}
	c.SetReadDeadline(time.Time{})
	switch f.Kind {
	case agentwire.KindHello:
		s.hello(c)
	case agentwire.KindResume:
		if err := s.restored(f); err != nil {
			fail(c, err)
			return
		}
		s.hello(c)
	case agentwire.KindShutdown:
		s.hello(c)
		s.config.Shutdown("the host asked for it")
	case agentwire.KindExec:
		var request agentwire.Exec
		if err := f.Expect(agentwire.KindExec, &request); err != nil {
			fail(c, err)
			return
		}
		s.exec(c, request)
	case agentwire.KindCopy:
		var request agentwire.Copy
		err := f.Expect(agentwire.KindCopy, &request)
		if err == nil {
			err = request.Check()
		}
		if err != nil {
			fail(c, err)
			return
		}
		newTransfer(c, request).run()
	case agentwire.KindSignal:
		if err := s.signalMain(f); err != nil {
			fail(c, err)
			return
		}
		s.hello(c)
	default:
		fail(c, fmt.Errorf("a connection cannot begin with %v", f.Kind))
	}
}

func (s *Server) hello(c *agentwire.Conn) {
	c.Send(agentwire.KindHello, agentwire.Encode(s.Hello()))
}

// restored raises the epoch, once the guest's clock and random numbers are right.
func (s *Server) restored(f agentwire.Frame) error {
	var r agentwire.Resume
	if err := f.Expect(agentwire.KindResume, &r); err != nil {
		return err
	}
	s.resume.Lock()
	defer s.resume.Unlock()
	if r.Epoch <= s.epoch.Load() {
		return fmt.Errorf("resume: epoch %d is not above the agent's %d", r.Epoch, s.epoch.Load())
	}
	if len(r.Entropy) > agentwire.MaxEntropy {
		return fmt.Errorf("resume: %d bytes of entropy, %d are the most", len(r.Entropy), agentwire.MaxEntropy)
	}
	if err := s.config.Resume(r); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	s.epoch.Store(r.Epoch)
	s.main.redial()
	return nil
}

// startError is an error with the reason that the host is told.
type startError struct {
	reason agentwire.Reason
	err    error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

func fail(c *agentwire.Conn, err error) {
	failed := agentwire.Failed{Reason: agentwire.Internal, Message: err.Error()}
	var refused *startError
	if errors.As(err, &refused) {
		failed.Reason = refused.reason
	}
	if len(failed.Message) > 1024 {
		failed.Message = failed.Message[:1024]
	}
	c.Send(agentwire.KindFailed, agentwire.Encode(failed))
}
