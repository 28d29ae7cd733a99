package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"smartvm/internal/agentwire"
)

// detached is a main command that belongs to no connection. The agent dials the host for it, and dials again whenever the
// connection ends, until the host knows the command's status or nobody wants to know it.
type detached struct {
	*process
	server         *Server
	stdout, stderr *kept
	pumps          [2]*pump

	ended  chan struct{} // closed when status is final
	status agentwire.Exit

	again chan struct{} // a token: dial anew at once
	mu    sync.Mutex
	conn  net.Conn // the connection to the host, if there is one
}

// detach starts the main command without a connection.
func (s *Server) detach(request agentwire.Exec) (*detached, error) {
	p, user, err := prepare(request)
	if err != nil {
		return nil, err
	}
	d := &detached{process: p, server: s, stdout: newKept(), stderr: newKept(),
		ended: make(chan struct{}), again: make(chan struct{}, 1)}
	ends, err := pipes(user, 2)
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = ends[1], ends[3] // stdin is /dev/null
	d.pumps[0] = &pump{from: ends[0], to: d.stdout, exited: p.exited, lasting: true}
	d.pumps[1] = &pump{from: ends[2], to: d.stderr, exited: p.exited, lasting: true}
	if err := p.start([]*os.File{ends[1], ends[3]}, nil); err != nil {
		ends[0].Close()
		ends[2].Close()
		return nil, err
	}
	return d, nil
}

// run lasts as long as the command, and then until the host knows its status or was looked for in vain.
func (d *detached) run() agentwire.Exit {
	for _, p := range d.pumps {
		defer p.from.Close()
		go p.run()
	}
	go func() {
		d.status = d.wait()
		for _, p := range d.pumps {
			p.ended()
		}
		close(d.ended)
	}()
	d.tell()
	<-d.ended
	return d.status
}

// tell brings output and status to the host, on as many connections as it takes.
func (d *detached) tell() {
	pause := redialPause
	ended := d.ended
	var giveUp <-chan time.Time
	for {
		answered, told := d.visit()
		if told {
			return
		}
		if answered {
			pause = redialPause
			if giveUp != nil {
				giveUp = time.After(tellTimeout)
			}
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, redialPauseMax)
		case <-d.again:
			pause = redialPause
		case <-ended:
			ended, pause = nil, redialPause
			giveUp = time.After(tellTimeout)
		case <-giveUp:
			return
		}
	}
}

// redial drops the connection, which is of a time before a restore, and dials anew at once.
func (d *detached) redial() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		d.conn.Close()
	}
	select {
	case d.again <- struct{}{}:
	default:
	}
}

// hold makes a connection the one that redial drops; nil for none.
func (d *detached) hold(conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn = conn
}

// visit dials the host and serves it until the connection ends or the host has acknowledged the status. When it returns,
// the command waits for no host.
func (d *detached) visit() (answered, told bool) {
	defer d.stdout.give(false)
	defer d.stderr.give(false)
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	conn, err := d.server.config.DialMain(ctx)
	if err != nil {
		return false, false
	}
	defer conn.Close()
	d.hold(conn)
	defer d.hold(nil)
	c := agentwire.NewConn(conn)
	deadline, _ := ctx.Deadline()
	if err := d.introduce(c, deadline); err != nil {
		return false, false
	}
	return true, newLine(d, c).serve()
}

// introduce says who is there and waits for the host to take the connection. Until it has, nothing is sent that would be
// missing later, and the command does not wait for it.
func (d *detached) introduce(c *agentwire.Conn, deadline time.Time) error {
	c.SetDeadline(deadline)
	if err := c.Send(agentwire.KindHello, agentwire.Encode(d.server.Hello())); err != nil {
		return err
	}
	f, err := c.Next()
	if err != nil {
		return err
	}
	if err := f.Expect(agentwire.KindHello, nil); err != nil {
		return err
	}
	c.SetDeadline(time.Time{})
	tellStarted(c, d.process)
	return nil
}

// line is one connection of a detached command to the host.
type line struct {
	*detached
	conn         *agentwire.Conn
	toOut, toErr *agentwire.Outlet
	sending      sync.WaitGroup
	gone         chan struct{} // closed when the connection has ended
	acked        chan struct{} // closed when the host has acknowledged the status
}

func newLine(d *detached, c *agentwire.Conn) *line {
	return &line{detached: d, conn: c, toOut: agentwire.NewOutlet(c, agentwire.KindStdout), toErr: agentwire.NewOutlet(c, agentwire.KindStderr),
		gone: make(chan struct{}), acked: make(chan struct{})}
}

// serve tells whether the host has acknowledged the status.
func (l *line) serve() (told bool) {
	l.stdout.give(true)
	l.stderr.give(true)
	l.sending.Go(func() { l.stdout.send(l.toOut) })
	l.sending.Go(func() { l.stderr.send(l.toErr) })
	go l.read()
	defer func() {
		l.conn.Close()
		<-l.gone
		l.sending.Wait()
	}()
	select {
	case <-l.ended:
	case <-l.gone:
		return false
	}
	l.conn.Send(agentwire.KindExit, l.status.Payload())
	l.sending.Wait()
	timeout := time.NewTimer(ackTimeout)
	defer timeout.Stop()
	select {
	case <-l.acked:
		return true
	case <-timeout.C:
		return false
	case <-l.gone:
	}
	select {
	case <-l.acked:
		return true
	default:
		return false
	}
}

// read takes the host's frames until the connection ends.
func (l *line) read() {
	err := l.frames()
	l.stdout.give(false)
	l.stderr.give(false)
	l.toOut.Fail(err)
	l.toErr.Fail(err)
	l.conn.Close() // wakes who writes now
	close(l.gone)
}

func (l *line) frames() error {
	acked := false
	for {
		f, err := l.conn.Next()
		if err != nil {
			return err
		}
		switch f.Kind {
		case agentwire.KindStdinEnd, agentwire.KindResize: // it has neither input nor terminal
		case agentwire.KindStdoutEnd:
			l.toOut.Fail(errUnwanted)
		case agentwire.KindStderrEnd:
			l.toErr.Fail(errUnwanted)
		case agentwire.KindCredit:
			err = grant(f, l.toOut, l.toErr)
		case agentwire.KindSignal:
			var number int
			if number, err = agentwire.DecodeSignal(f); err == nil {
				l.signal(syscall.Signal(number))
			}
		case agentwire.KindExitAck:
			if !acked {
				acked = true
				close(l.acked)
			}
		default:
			err = errors.New("a frame that the host does not send here")
		}
		if err != nil {
			return err
		}
	}
}
