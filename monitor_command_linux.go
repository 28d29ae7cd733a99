package smartvm

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"time"

	"smartvm/firecracker"
	"smartvm/guest"
)

// commandWatch takes the output and the exit status of the VM's own command. The guest connects for it, again after every
// break, so that a command is bound neither to this process nor to a connection.
type commandWatch struct {
	listener net.Listener
	log      *logWriter
	told     chan struct{} // closed when the status is known

	mu   sync.Mutex
	exit *CommandExit // nil while nothing is known
	wait sync.WaitGroup
}

// watchCommand listens for the guest's command from before the guest starts.
func (m *monitor) watchCommand() (*commandWatch, error) {
	listener, err := firecracker.ListenVsock(m.spec.Vsock, guest.MainPort)
	if err != nil {
		return nil, err
	}
	w := &commandWatch{listener: listener, told: make(chan struct{}), log: newLogWriter(filepath.Join(m.spec.Folder, agentLog), maxAgentLog)}
	if m.spec.Command != nil {
		w.exit = &CommandExit{Code: -1, Error: "the VM ended before the command did"}
	}
	w.wait.Go(func() { serveGuest(listener, w.serve) })
	return w, nil
}

// serve takes what one connection brings. A connection that broke is followed by another.
func (w *commandWatch) serve(conn net.Conn) {
	session, err := guest.AcceptMain(context.Background(), conn, w.log, w.log)
	if err != nil {
		conn.Close() // whatever that was: a guest is free to say nonsense
		return
	}
	if status, err := session.Wait(context.Background()); !errors.Is(err, guest.ErrLost) {
		w.tell(CommandExit{Code: status.Code, Signal: status.Signal})
	}
}

func (w *commandWatch) tell(exit CommandExit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.told:
	default:
		w.exit = &exit
		close(w.told)
	}
}

// start has the guest run the command, and tells whether it does. When it cannot, the guest has nothing to live for.
func (w *commandWatch) start(agent *guest.Agent, command Command) bool {
	ctx := context.Background()
	_, err := agent.StartDetached(ctx, guest.Command{Args: command.Args, Env: command.Env, Dir: command.Dir, User: command.User, Main: true})
	if err == nil {
		return true
	}
	exit := CommandExit{Code: 125, Error: printableText(err.Error())}
	var refused *guest.StartError
	if errors.As(err, &refused) {
		exit.Code = refused.ExitCode()
	}
	w.tell(exit)
	_ = agent.Shutdown(ctx) // a guest that does not obey runs on, and its status tells why
	return false
}

// status is what is known of the command once the VM has ended. The status may still be on its way then.
func (w *commandWatch) status() *CommandExit {
	w.mu.Lock()
	expected := w.exit != nil
	w.mu.Unlock()
	if expected {
		grace := time.NewTimer(commandGrace)
		defer grace.Stop()
		drained := make(chan struct{})
		go func() {
			w.listener.Close() // nobody comes any more; what came is read to its end
			w.wait.Wait()
			close(drained)
		}()
		select {
		case <-w.told:
		case <-drained:
		case <-grace.C:
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.exit
}

func (w *commandWatch) close() error {
	err := w.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, w.log.Close())
}
