package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"smartvm/internal/agentwire"
)

// command is one command with its connection.
type command struct {
	*process
	conn *agentwire.Conn
	main bool
	tty  *os.File // the terminal's master, nil without one

	input          *os.File // the command's stdin, or the terminal
	stdin          *agentwire.Inlet
	stdout, stderr *pump // stderr ends at once with a terminal
	out, err       *agentwire.Outlet

	acked chan struct{} // closed when the host has acknowledged the status
	gone  chan struct{} // closed when the connection has ended
}

// start starts the command and tells the host.
func start(c *agentwire.Conn, request agentwire.Exec) (*command, error) {
	p, user, err := prepare(request)
	if err != nil {
		return nil, err
	}
	m := &command{process: p, conn: c, main: request.Main, stdin: agentwire.NewInlet(c, agentwire.KindStdin),
		out: agentwire.NewOutlet(c, agentwire.KindStdout), err: agentwire.NewOutlet(c, agentwire.KindStderr),
		acked: make(chan struct{}), gone: make(chan struct{})}
	theirs, err := m.connect(user, request)
	if err = p.start(theirs, err); err != nil {
		m.disconnect()
		return nil, err
	}
	tellStarted(c, p)
	return m, nil
}

// tellStarted tells the host that the command runs. A failure to tell shows at once when the connection is read.
func tellStarted(c *agentwire.Conn, p *process) {
	c.Send(agentwire.KindStarted, agentwire.Encode(agentwire.Started{PID: p.cmd.Process.Pid}))
}

// connect makes the command's streams and returns the ends that are the command's own.
func (m *command) connect(user *account, request agentwire.Exec) (theirs []*os.File, err error) {
	if request.TTY {
		master, slave, err := terminal(user, request.Size)
		if err != nil {
			return nil, err
		}
		m.cmd.Stdin, m.cmd.Stdout, m.cmd.Stderr = slave, slave, slave
		m.cmd.SysProcAttr.Setctty = true // on descriptor 0
		m.tty, m.input = master, master
		m.stdout = &pump{from: master, to: m.out, exited: m.exited, lasting: m.main}
		m.stderr = &pump{to: m.err}
		return []*os.File{slave}, nil
	}
	ends, err := pipes(user, 3)
	if err != nil {
		return nil, err
	}
	m.cmd.Stdin, m.input = ends[0], ends[1]
	m.cmd.Stdout, m.stdout = ends[3], &pump{from: ends[2], to: m.out, exited: m.exited, lasting: m.main}
	m.cmd.Stderr, m.stderr = ends[5], &pump{from: ends[4], to: m.err, exited: m.exited, lasting: m.main}
	return []*os.File{ends[0], ends[3], ends[5]}, nil
}

// pipes makes n pipes: the reading end of each, then its writing end. A pipe of a user's command belongs to the user, so
// that /dev/stdout can be opened again.
func pipes(user *account, n int) ([]*os.File, error) {
	ends := make([]*os.File, 2*n)
	for i := 0; i < len(ends); i += 2 {
		var err error
		if ends[i], ends[i+1], err = os.Pipe(); err != nil {
			for _, f := range ends[:i] {
				f.Close()
			}
			return nil, err
		}
		if os.Geteuid() == 0 {
			ends[i].Chown(int(user.uid), int(user.gid)) // both ends are one inode
		}
	}
	return ends, nil
}

// disconnect closes our ends of the streams.
func (m *command) disconnect() {
	for _, f := range []*os.File{m.input, m.tty} {
		if f != nil {
			f.Close()
		}
	}
	for _, p := range []*pump{m.stdout, m.stderr} {
		if p != nil && p.from != nil {
			p.from.Close()
		}
	}
}

// run serves the command until it has ended and the host knows, or the connection is gone.
func (m *command) run() agentwire.Exit {
	defer m.disconnect()
	go m.read()
	go m.feed()
	var output sync.WaitGroup
	output.Go(m.stdout.run)
	output.Go(m.stderr.run)
	ended := make(chan agentwire.Exit, 1)
	go func() {
		status := m.wait()
		m.stdout.ended()
		m.stderr.ended()
		ended <- status
	}()

	var status agentwire.Exit
	select {
	case status = <-ended:
	case <-m.gone:
		if !m.main {
			m.hangUp()
		}
		status = <-ended
	}
	m.conn.Send(agentwire.KindExit, status.Payload())
	output.Wait()
	timeout := time.NewTimer(ackTimeout)
	defer timeout.Stop()
	select {
	case <-m.acked:
	case <-m.gone:
	case <-timeout.C:
	}
	return status
}

// hangUp ends a command whose connection is gone.
func (m *command) hangUp() {
	m.signal(syscall.SIGHUP)
	timeout := time.NewTimer(hangupGrace)
	defer timeout.Stop()
	select {
	case <-m.exited:
	case <-timeout.C:
		m.signal(syscall.SIGKILL)
	}
}

// feed hands the host's input on.
func (m *command) feed() {
	err := m.stdin.Copy(m.input)
	if m.tty == nil {
		m.input.Close()
	} else if err == nil {
		m.tty.Write([]byte{4}) // what a user types for "no more": Ctrl-D
	}
}

// read takes the host's frames until the connection ends. It never waits for anything but the next frame.
func (m *command) read() {
	err := m.frames()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	m.stdin.End(err)
	m.out.Fail(err)
	m.err.Fail(err)
	close(m.gone)
}

func (m *command) frames() error {
	acked := false
	for {
		f, err := m.conn.Next()
		if err != nil {
			return err
		}
		switch f.Kind {
		case agentwire.KindStdin:
			err = m.stdin.Put(f.Payload)
		case agentwire.KindStdinEnd:
			m.stdin.End(io.EOF)
		case agentwire.KindStdoutEnd:
			m.stdout.unwanted()
			m.out.Fail(os.ErrClosed)
		case agentwire.KindStderrEnd:
			m.stderr.unwanted()
			m.err.Fail(os.ErrClosed)
		case agentwire.KindCredit:
			err = m.grant(f)
		case agentwire.KindResize:
			err = m.resize(f)
		case agentwire.KindSignal:
			var number int
			if number, err = agentwire.DecodeSignal(f); err == nil {
				m.signal(syscall.Signal(number))
			}
		case agentwire.KindExitAck:
			if !acked {
				acked = true
				close(m.acked)
			}
		default:
			err = errors.New("a frame that the host does not send here")
		}
		if err != nil {
			return err
		}
	}
}

func (m *command) grant(f agentwire.Frame) error { return grant(f, m.out, m.err) }

// grant gives the host's credit to the stream that it is for. stderr is nil where there is none.
func grant(f agentwire.Frame, stdout, stderr *agentwire.Outlet) error {
	credit, err := agentwire.DecodeCredit(f)
	if err != nil {
		return err
	}
	switch {
	case credit.Stream == agentwire.KindStdout:
		return stdout.Grant(credit.Bytes)
	case credit.Stream == agentwire.KindStderr && stderr != nil:
		return stderr.Grant(credit.Bytes)
	}
	return fmt.Errorf("credit for %v from the host", credit.Stream)
}

func (m *command) resize(f agentwire.Frame) error {
	size, err := agentwire.DecodeSize(f)
	if err == nil && m.tty != nil {
		_ = setSize(m.tty, size) // a terminal that is gone has no size
	}
	return err
}
