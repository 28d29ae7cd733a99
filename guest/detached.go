package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"smartvm/internal/agentwire"
)

// StartDetached starts a command that belongs to no connection and returns its process id in the guest. cmd.Detach is
// set by it; Stdin, Stdout and Stderr must be nil and TTY false. ctx bounds the call. Errors are those of Start; the error
// wraps ErrUnsupported where the guest's agent is too old.
//
// Without Main the command runs on its own: its streams are /dev/null and nobody learns its status.
//
// With Main the agent brings its output and status to the host: it dials MainPort, where AcceptMain makes a Session of
// the connection. Such a connection ends when the VM is paused and resumed, when it is restored from a snapshot (and again
// when Resume raises the epoch), and when the host's process ends. The agent then dials again, after 20 ms, then twice as
// long each time up to 2 s, for as long as the command lasts. Meanwhile the command goes on: the agent keeps the last
// 256 KiB of each stream and sends them on the next connection. What was on its way when a connection broke may be lost.
// While a host listens, the command waits for it as it does after Start; so it does, for at most 5 s, for the answer to the
// first dial, so that a host that listens already gets all of the output.
//
// The guest shuts down when the command has ended and a host has acknowledged its status, which Session does by itself, or
// when no host took it for 10 s.
func (a *Agent) StartDetached(ctx context.Context, cmd Command) (pid int, err error) {
	if cmd.Stdin != nil || cmd.Stdout != nil || cmd.Stderr != nil || cmd.TTY {
		return 0, errors.New("guest: a detached command has neither streams nor a terminal")
	}
	cmd.Detach = true
	if err := a.require(ctx, agentwire.FeatureDetach); err != nil {
		return 0, err
	}
	c, pid, err := a.exec(ctx, cmd)
	if err != nil {
		return 0, err
	}
	c.Close()
	return pid, nil
}

// AcceptMain takes a connection that the guest's agent opened to MainPort over and returns the session of the main
// command. Its Wait gives the exit status after all output was written; ErrLost when the connection ended first: the agent
// dials again, unless the guest has stopped. ctx bounds the call alone, beside a limit of 30 s for the agent's words.
//
// nil writers drop the output. A writer that fails does not end the command: what it writes to that stream is dropped
// until the next connection. On an error the connection is closed.
func AcceptMain(ctx context.Context, conn net.Conn, stdout, stderr io.Writer) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	c, done := bound(ctx, conn)
	hello, err := readHello(c)
	if err == nil {
		err = c.Send(agentwire.KindHello, nil)
	}
	var started agentwire.Started
	if err == nil {
		started, err = readStarted(c)
	}
	if err != nil {
		done()
		conn.Close()
		return nil, fmt.Errorf("guest: main command: %w", cause(ctx, err))
	}
	done()
	s := newSession(c, started.PID, Command{Stdout: stdout, Stderr: stderr})
	s.hello = hello
	return s, nil
}

// SignalMain sends a signal, by its number in the guest (ParseSignal knows names), to the process group of the main
// command, detached or not. Where none runs the error is a *StartError with the Reason NoMain; it wraps ErrUnsupported
// where the guest's agent is too old.
func (a *Agent) SignalMain(ctx context.Context, number int) error {
	if number < 1 || number > 64 {
		return fmt.Errorf("guest: there is no signal %d", number)
	}
	if err := a.require(ctx, agentwire.FeatureSignalMain); err != nil {
		return err
	}
	_, err := a.ask(ctx, "signal the main command", agentwire.KindSignal, []byte{byte(number)})
	if refused := (*StartError)(nil); errors.As(err, &refused) {
		return refused
	}
	return err
}

// require asks the agent whether it has a feature. What an agent does with a request that it does not know is not always
// to refuse it: an old one runs a command that shall be detached attached.
func (a *Agent) require(ctx context.Context, feature string) error {
	hello, err := a.Hello(ctx)
	if err == nil && !slices.Contains(hello.Features, feature) {
		err = fmt.Errorf("guest: feature %q: %w", feature, ErrUnsupported)
	}
	return err
}
