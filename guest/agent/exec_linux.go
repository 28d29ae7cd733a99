package agent

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"smartvm/internal/agentwire"
)

// mainCommand is the command that the guest lives for.
type mainCommand struct {
	mu       sync.Mutex
	taken    bool      // there is one, or was
	process  *process  // nil until it runs
	detached *detached // nil unless it is detached
}

// take takes the place, unless it is taken.
func (m *mainCommand) take() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.taken {
		return false
	}
	m.taken = true
	return true
}

// free gives the place back: the command did not start.
func (m *mainCommand) free() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taken = false
}

func (m *mainCommand) set(p *process, d *detached) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.process, m.detached = p, d
}

// redial makes the detached command's connection a new one, if there is such a command.
func (m *mainCommand) redial() {
	m.mu.Lock()
	d := m.detached
	m.mu.Unlock()
	if d != nil {
		d.redial()
	}
}

// exec runs one command for as long as it, or its connection, lasts. The connection of a detached command is over when it
// has started.
func (s *Server) exec(c *agentwire.Conn, request agentwire.Exec) {
	if request.Main && !s.main.take() {
		fail(c, &startError{agentwire.MainTaken, errors.New("this guest has a main command already")})
		return
	}
	run, err := s.begin(c, request)
	if err != nil {
		if request.Main {
			s.main.free()
		}
		fail(c, err)
		return
	}
	finish := func() {
		status := run()
		if request.Main {
			s.config.Shutdown(fmt.Sprintf("the main command has ended: code %d, signal %d", status.Code, status.Signal))
		}
	}
	if request.Detach {
		go finish()
		return
	}
	finish()
}

// begin starts a command and tells the host. What it returns sees the command to its end.
func (s *Server) begin(c *agentwire.Conn, request agentwire.Exec) (run func() agentwire.Exit, err error) {
	switch {
	case !request.Detach:
		m, err := start(c, request)
		if err != nil {
			return nil, err
		}
		if request.Main {
			s.main.set(m.process, nil)
		}
		return m.run, nil
	case !request.Main:
		p, _, err := prepare(request)
		if err != nil {
			return nil, err
		}
		if err := p.start(nil, nil); err != nil { // its streams are /dev/null
			return nil, err
		}
		tellStarted(c, p)
		return p.wait, nil
	case s.config.DialMain == nil:
		return nil, errors.New("this agent cannot reach the host: no main command can be detached")
	}
	d, err := s.detach(request)
	if err != nil {
		return nil, err
	}
	s.main.set(d.process, d)
	tellStarted(c, d.process)
	return d.run, nil
}

// signalMain sends a signal to the main command's process group.
func (s *Server) signalMain(f agentwire.Frame) error {
	number, err := agentwire.DecodeSignal(f)
	if err != nil {
		return err
	}
	s.main.mu.Lock()
	p := s.main.process
	s.main.mu.Unlock()
	if p == nil || !p.signal(syscall.Signal(number)) {
		return &startError{agentwire.NoMain, errors.New("no main command runs in this guest")}
	}
	return nil
}

// features are what this agent can do beyond the protocol's base.
func (s *Server) features() []string {
	return []string{agentwire.FeatureDetach, agentwire.FeatureSignalMain, agentwire.FeatureCopy}
}
