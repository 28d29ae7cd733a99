package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"smartvm/internal/agentwire"
)

// Command is what shall run in the guest.
type Command struct {
	Args []string // the program and its arguments; a program without a slash is looked up in the command's PATH
	Env  []string // KEY=value, on top of the guest's default environment; the last of a key counts
	Dir  string   // "" means "/"
	User string   // name or uid, with ":group" or ":gid" if wanted; "" means root

	TTY        bool   // with a terminal: its output comes on Stdout alone
	Rows, Cols uint16 // the terminal's size, zero for the guest's default

	Stdin          io.Reader // nil: empty
	Stdout, Stderr io.Writer // nil: dropped

	// Main makes it the command that the guest lives for: when it has ended and the status was acknowledged, the guest
	// shuts down. There is one.
	Main bool

	// Detach is set by StartDetached; Start refuses it.
	Detach bool
}

// ExitStatus is how a command ended.
type ExitStatus struct {
	Code   int // 0 to 255; 0 when a signal killed it
	Signal int // the signal that killed it, or 0
}

// ExitCode is what a shell would report: the code, or 128 and the signal.
func (s ExitStatus) ExitCode() int {
	if s.Signal != 0 {
		return 128 + s.Signal
	}
	return s.Code
}

// String says it in words.
func (s ExitStatus) String() string {
	if s.Signal != 0 {
		return fmt.Sprintf("killed by signal %d", s.Signal)
	}
	return fmt.Sprintf("exit code %d", s.Code)
}

// Session is a command that was started.
type Session struct {
	pid    int
	hello  Hello
	conn   *agentwire.Conn
	stdin  *agentwire.Outlet
	stdout *agentwire.Inlet
	stderr *agentwire.Inlet

	exit   chan agentwire.Exit // the status, when it came; closed when the connection has ended
	lost   error               // why it ended; set before exit is closed
	done   chan struct{}       // closed when status and err are final
	status ExitStatus
	err    error

	once sync.Once
}

// Start runs a command. ctx bounds the start alone. A command that could not be started gives a *StartError.
//
// When the connection ends before the command (Close, or this process ends), the command's process group gets SIGHUP and
// a little later SIGKILL. To keep the guest from holding anything up, Stdout and Stderr are written from goroutines of
// their own; a writer that blocks stops only its own stream, at the cost of a window of 256 KiB on each side. A writer
// that fails closes the stream for the command (SIGPIPE).
func (a *Agent) Start(ctx context.Context, cmd Command) (*Session, error) {
	if cmd.Detach {
		return nil, errors.New("guest: a detached command has no session: use StartDetached")
	}
	c, pid, err := a.exec(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return newSession(c, pid, cmd), nil
}

// exec starts a command and returns the connection on which the agent said so.
func (a *Agent) exec(ctx context.Context, cmd Command) (*agentwire.Conn, int, error) {
	request := agentwire.Exec{Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, User: cmd.User, TTY: cmd.TTY,
		Size: agentwire.Size{Rows: cmd.Rows, Cols: cmd.Cols}, Main: cmd.Main, Detach: cmd.Detach}
	if err := request.Check(); err != nil {
		return nil, 0, fmt.Errorf("guest: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	conn, err := a.dial(ctx, AgentPort)
	if err != nil {
		return nil, 0, fmt.Errorf("guest: run %q: connect to the agent: %w", cmd.Args[0], err)
	}
	c, done := bound(ctx, conn)
	var started agentwire.Started
	payload := agentwire.Encode(request)
	if err = c.Send(agentwire.KindExec, payload); err == nil {
		started, err = readStarted(c)
	}
	if err != nil {
		conn.Close()
		if _, refused := err.(*StartError); refused {
			return nil, 0, err
		}
		return nil, 0, fmt.Errorf("guest: run %q: %w", cmd.Args[0], cause(ctx, err))
	}
	done()
	return c, started.PID, nil
}

func readStarted(c *agentwire.Conn) (agentwire.Started, error) {
	var started agentwire.Started
	f, err := c.Next()
	if err != nil {
		return started, err
	}
	if f.Kind == agentwire.KindFailed {
		return started, decodeFailed(f)
	}
	return started, f.Expect(agentwire.KindStarted, &started)
}

// newSession takes the connection over once the command has started.
func newSession(c *agentwire.Conn, pid int, cmd Command) *Session {
	s := &Session{
		pid: pid, conn: c,
		stdin:  agentwire.NewOutlet(c, agentwire.KindStdin),
		stdout: agentwire.NewInlet(c, agentwire.KindStdout),
		stderr: agentwire.NewInlet(c, agentwire.KindStderr),
		exit:   make(chan agentwire.Exit, 1),
		done:   make(chan struct{}),
	}
	go s.feed(cmd.Stdin)
	go s.read()
	go s.collect(cmd)
	return s
}

// PID is the command's process id in the guest.
func (s *Session) PID() int { return s.pid }

// Hello is what the agent said about itself on the connection that AcceptMain took; zero after Start.
func (s *Session) Hello() Hello { return s.hello }

// Wait returns the command's exit status, after all its output was written. When ctx ends first, the command goes on.
// Without a status the error wraps ErrLost; an error of Stdout or Stderr comes along with the status.
func (s *Session) Wait(ctx context.Context) (ExitStatus, error) {
	select {
	case <-s.done:
		return s.status, s.err
	default:
	}
	select {
	case <-s.done:
		return s.status, s.err
	case <-ctx.Done():
		return ExitStatus{}, ctx.Err()
	}
}

// Signal sends a signal to the command's process group, by its number in the guest (ParseSignal knows names). A command
// that has ended takes none, without an error.
func (s *Session) Signal(number int) error {
	if number < 1 || number > 64 {
		return fmt.Errorf("guest: there is no signal %d", number)
	}
	return s.send(agentwire.KindSignal, []byte{byte(number)})
}

// Resize tells the terminal's new size.
func (s *Session) Resize(rows, cols uint16) error {
	return s.send(agentwire.KindResize, agentwire.Size{Rows: rows, Cols: cols}.Payload())
}

// Close ends the connection and with it the command, if it still runs; a detached main command goes on, and its agent
// dials again. Safe to call more than once.
func (s *Session) Close() error {
	s.once.Do(func() { s.conn.Close() })
	return nil
}

func (s *Session) send(kind agentwire.Kind, payload []byte) error {
	select {
	case <-s.done:
		return nil
	default:
	}
	if err := s.conn.Send(kind, payload); err != nil {
		return fmt.Errorf("guest: send %v: %w", kind, err)
	}
	return nil
}

// feed sends the command's input. It may outlive the session by one Read of stdin, which nobody can interrupt.
func (s *Session) feed(stdin io.Reader) {
	if stdin != nil {
		// Nothing is said of an error of stdin but the end: the command sees what there was. Only Write is shown to
		// io.CopyBuffer, so that frames have our length.
		io.CopyBuffer(struct{ io.Writer }{s.stdin}, struct{ io.Reader }{stdin}, make([]byte, agentwire.MaxData))
	}
	s.stdin.End()
}

// read takes the connection's frames until it ends. It never waits for anything but the next frame.
func (s *Session) read() {
	err := s.frames()
	if err == io.EOF {
		err = ErrLost
	} else {
		err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	s.lost = err
	s.stdin.Fail(err)
	s.stdout.End(err)
	s.stderr.End(err)
	close(s.exit)
	s.Close()
}

func (s *Session) frames() error {
	exited := false
	for {
		f, err := s.conn.Next()
		if err != nil {
			return err
		}
		switch f.Kind {
		case agentwire.KindStdout:
			err = s.stdout.Put(f.Payload)
		case agentwire.KindStderr:
			err = s.stderr.Put(f.Payload)
		case agentwire.KindStdoutEnd:
			s.stdout.End(io.EOF)
		case agentwire.KindStderrEnd:
			s.stderr.End(io.EOF)
		case agentwire.KindStdinEnd:
			s.stdin.Fail(io.ErrClosedPipe)
		case agentwire.KindCredit:
			err = s.grant(f)
		case agentwire.KindExit:
			var e agentwire.Exit
			if e, err = agentwire.DecodeExit(f); err == nil && !exited {
				exited = true
				s.exit <- e
			}
		default:
			err = fmt.Errorf("%w: %v from the agent", agentwire.ErrInvalid, f.Kind)
		}
		if err != nil {
			return err
		}
	}
}

func (s *Session) grant(f agentwire.Frame) error {
	credit, err := agentwire.DecodeCredit(f)
	if err != nil {
		return err
	}
	if credit.Stream != agentwire.KindStdin {
		return fmt.Errorf("%w: credit for %v from the agent", agentwire.ErrInvalid, credit.Stream)
	}
	return s.stdin.Grant(credit.Bytes)
}

// collect writes the output, then acknowledges the status and makes it known.
func (s *Session) collect(cmd Command) {
	var wg sync.WaitGroup
	var outErr, errErr error
	wg.Go(func() { outErr = output("stdout", s.stdout, cmd.Stdout) })
	wg.Go(func() { errErr = output("stderr", s.stderr, cmd.Stderr) })
	wg.Wait()
	e, ok := <-s.exit
	if ok {
		s.status = ExitStatus{int(e.Code), int(e.Signal)}
		s.conn.SetWriteDeadline(time.Now().Add(ackTimeout))
		s.conn.Send(agentwire.KindExitAck, nil) // a guest that does not get it gives up waiting after a while
		s.err = first(outErr, errErr)
	} else {
		s.err = first(outErr, errErr, s.lost)
		if !errors.Is(s.err, ErrLost) {
			s.err = errors.Join(s.lost, s.err)
		}
	}
	s.Close()
	close(s.done)
}

// first returns the first error. A connection that is lost gives both streams the same one.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func output(stream string, in *agentwire.Inlet, w io.Writer) error {
	if w == nil {
		w = io.Discard
	}
	err := in.Copy(w)
	if err == nil || errors.Is(err, ErrLost) {
		return err
	}
	return fmt.Errorf("guest: write %s: %w", stream, err)
}
