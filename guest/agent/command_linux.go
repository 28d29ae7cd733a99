package agent

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/internal/agentwire"
)

// command is one command with its connection.
type command struct {
	conn *agentwire.Conn
	cmd  *exec.Cmd
	main bool
	tty  *os.File // the terminal's master, nil without one

	input  *os.File // the command's stdin, or the terminal
	stdin  *agentwire.Inlet
	stdout *pump
	stderr *pump // ends at once with a terminal

	exited chan struct{} // closed when the process has ended
	acked  chan struct{} // closed when the host has acknowledged the status
	gone   chan struct{} // closed when the connection has ended

	mu     sync.Mutex
	reaped bool // the process id is no longer ours to signal
}

// start starts the command and tells the host.
func start(c *agentwire.Conn, request agentwire.Exec) (*command, error) {
	cmd, user, err := prepare(request)
	if err != nil {
		return nil, err
	}
	m := &command{conn: c, cmd: cmd, main: request.Main, stdin: agentwire.NewInlet(c, agentwire.KindStdin),
		exited: make(chan struct{}), acked: make(chan struct{}), gone: make(chan struct{})}
	theirs, err := m.connect(user, request)
	if err == nil {
		if err = cmd.Start(); err != nil {
			err = refusal(request.Args[0], err)
		}
	}
	for _, f := range theirs {
		f.Close()
	}
	if err != nil {
		m.disconnect()
		return nil, err
	}
	// A failure to tell shows at once when the connection is read.
	c.Send(agentwire.KindStarted, agentwire.Encode(agentwire.Started{PID: cmd.Process.Pid}))
	return m, nil
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
		m.stdout = newPump(m, agentwire.KindStdout, master)
		m.stderr = newPump(m, agentwire.KindStderr, nil)
		return []*os.File{slave}, nil
	}
	var ends [6]*os.File
	for i := 0; i < len(ends); i += 2 {
		if ends[i], ends[i+1], err = os.Pipe(); err != nil {
			for _, f := range ends[:i] {
				f.Close()
			}
			return nil, err
		}
	}
	m.cmd.Stdin, m.input = ends[0], ends[1]
	m.cmd.Stdout, m.stdout = ends[3], newPump(m, agentwire.KindStdout, ends[2])
	m.cmd.Stderr, m.stderr = ends[5], newPump(m, agentwire.KindStderr, ends[4])
	// A pipe of a user's command belongs to the user, so that /dev/stdout can be opened again.
	for _, f := range []*os.File{ends[0], ends[3], ends[5]} {
		if os.Geteuid() == 0 {
			f.Chown(int(user.uid), int(user.gid))
		}
	}
	return []*os.File{ends[0], ends[3], ends[5]}, nil
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
	go func() { ended <- m.wait() }()

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

// wait reaps the process. The status is looked at before it is taken, so that the process id stays ours until signal
// knows that it is not.
func (m *command) wait() agentwire.Exit {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, m.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	m.mu.Lock()
	m.cmd.Wait()
	m.reaped = true
	m.mu.Unlock()
	close(m.exited)
	m.stdout.ended()
	m.stderr.ended()
	status := m.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return agentwire.Exit{Signal: int32(status.Signal())}
	}
	return agentwire.Exit{Code: int32(status.ExitStatus())}
}

// signal sends a signal to the command's process group, unless the command has ended.
func (m *command) signal(number syscall.Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.reaped {
		syscall.Kill(-m.cmd.Process.Pid, number)
	}
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
	m.stdout.lose(err)
	m.stderr.lose(err)
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
		case agentwire.KindStderrEnd:
			m.stderr.unwanted()
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

func (m *command) grant(f agentwire.Frame) error {
	credit, err := agentwire.DecodeCredit(f)
	if err != nil {
		return err
	}
	switch credit.Stream {
	case agentwire.KindStdout:
		return m.stdout.to.Grant(credit.Bytes)
	case agentwire.KindStderr:
		return m.stderr.to.Grant(credit.Bytes)
	}
	return errors.New("credit for stdin from the host")
}

func (m *command) resize(f agentwire.Frame) error {
	size, err := agentwire.DecodeSize(f)
	if err == nil && m.tty != nil {
		_ = setSize(m.tty, size) // a terminal that is gone has no size
	}
	return err
}
