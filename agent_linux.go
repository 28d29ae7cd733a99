package smartvm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"smartvm/firecracker"
	"smartvm/guest"
	"smartvm/internal/filewatch"
	"smartvm/record"
)

// How a restored guest is greeted: one try may take this long, and the next follows after the interval.
const (
	greetTimeout  = 5 * time.Second
	greetInterval = 20 * time.Millisecond
)

// maxGreetings is how many connections a guest may have open to one port of the host. It needs one.
const maxGreetings = 8

// defaultGuestCID is the guest's vsock address where the configuration gives none: the first that is a guest's. Every VM
// has a vsock of its own, so all may have the same.
const defaultGuestCID = 3

// pingEvery is how often a guest is asked whether it is up whose monitor is gone, which would know.
const pingEvery = time.Second

// Agent returns the guest's agent once the guest is up, for running commands in it: when the agent has said so, or, in a
// guest that was restored, has answered. It waits as long as ctx allows: GuestUnreachable then, with the last lines of the
// console. VMMExited when the VM ended meanwhile, with how and the last lines; InvalidConfig for a VM without our init;
// InvalidState when it does not run.
func (vm *VM) Agent(ctx context.Context) (*guest.Agent, error) {
	const op = "agent"
	if vm.Config().Guest == nil {
		return nil, vm.fail(op, InvalidConfig, errors.New("the VM does not run our init, so there is no agent; configure `guest`"))
	}
	look := vm.look()
	switch state := look.state(); {
	case state == Running:
	case look.active && look.jour.State != journalStarting && !look.alive:
		return nil, vm.fail(op, VMMExited, fmt.Errorf("the guest ended before its agent was up: %w", noteOf(ctx, look.folder, look.jour.Instance).cause()))
	default:
		return nil, vm.stateError(op, state, []State{Running})
	}
	in, err := vm.attach(look.rec, look.jour)
	if err == nil {
		err = awaitReady(ctx, look, in)
	}
	switch {
	case err == nil:
		return agentAt(look.rec.Home), nil
	case errors.Is(err, errVMMGone), errors.Is(err, os.ErrProcessDone):
		return nil, vm.fail(op, VMMExited, fmt.Errorf("the guest ended before its agent was up: %w", noteOf(ctx, look.folder, look.jour.Instance).cause()))
	}
	err = fmt.Errorf("the guest's agent did not come up: %w", err)
	if hint := consoleHint(tailOf(look.folder.path(consoleLog), hintBytes)); hint != "" {
		err = fmt.Errorf("%w; last on the console: %s", err, hint)
	}
	return nil, vm.fail(op, GuestUnreachable, err)
}

// AwaitCommand returns when the guest runs the VM's own command. A command that it cannot run is a *CommandError; a VM that
// ends before is VMMExited, one without a command InvalidConfig. Only ctx bounds the wait (GuestUnreachable).
func (vm *VM) AwaitCommand(ctx context.Context) error {
	const op = "await command"
	look := vm.look()
	if look.rec.Command == nil {
		return vm.fail(op, InvalidConfig, errors.New("the VM has no command of its own"))
	}
	in, err := vm.attach(look.rec, look.jour)
	if err == nil {
		err = awaitMark(ctx, look, in, commandName, func() bool { return false })
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return vm.fail(op, GuestUnreachable, fmt.Errorf("the command did not start: %w", context.Cause(ctx)))
	}
	instance := look.rec.Instance
	note := noteOf(ctx, look.folder, instance)
	switch exit := note.Command; {
	case exit != nil && exit.Code >= 0 && exit.Error != "":
		return vm.fail(op, VMMExited, &CommandError{Exit: *exit})
	case exit != nil && exit.Code >= 0:
		return nil // it has come and gone
	}
	return vm.fail(op, VMMExited, note.cause())
}

// CommandError is a command that the guest could not run.
type CommandError struct{ Exit CommandExit }

func (e *CommandError) Error() string { return e.Exit.Error }

// NoteCommand notes how the VM's command ended, for whoever ran it in the monitor's place, once the VM has ended. A VM that
// was started again, or removed, is left alone.
func (vm *VM) NoteCommand(ctx context.Context, exit CommandExit) error {
	instance := vm.look().rec.Instance
	h, ok, err := vm.existing(ctx, "note command")
	if !ok || err != nil {
		return err
	}
	defer h.release()
	note, err := readExit(h.folder)
	if err != nil || note == nil || note.Instance != instance || h.rec.Instance != instance {
		return vm.wrap("note command", err)
	}
	note.Command = &exit
	return vm.wrap("note command", writeExit(h.folder, *note))
}

// awaitReady waits until the guest is known to be up.
func awaitReady(ctx context.Context, l look, in *instance) error {
	return awaitMark(ctx, l, in, readyName, func() bool {
		held, _ := record.Held(filepath.Join(l.folder.runtime, monitorName))
		return !held && greet(ctx, l) == nil
	})
}

// awaitMark waits for a mark of the monitor's; once in a while it asks whether it is true without one.
func awaitMark(ctx context.Context, l look, in *instance, name string, isTrue func() bool) error {
	mark := filepath.Join(l.folder.runtime, name)
	isThere := func() bool {
		_, err := os.Lstat(mark)
		return err == nil
	}
	if isThere() {
		return nil
	}
	watch, err := filewatch.New(l.folder.runtime)
	if errors.Is(err, fs.ErrNotExist) {
		return errVMMGone // and settled
	}
	if err != nil {
		return err
	}
	defer watch.Close()
	ask := time.NewTicker(pingEvery)
	defer ask.Stop()
	for !isThere() {
		select {
		case <-watch.Changed():
		case <-in.process.Done():
			return errVMMGone
		case <-ask.C:
			if isTrue() {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// greet asks a guest whether it is up, in the monitor's place.
func greet(ctx context.Context, l look) error {
	ctx, cancel := context.WithTimeout(ctx, pingEvery)
	defer cancel()
	agent := agentAt(l.rec.Home)
	if l.rec.Home.Restored == "" {
		return agent.Ping(ctx)
	}
	return sendResume(ctx, agent)
}

// dialer reaches a guest's ports through its VM's vsock socket.
func dialer(vsockPath string) guest.DialFunc {
	return func(ctx context.Context, port uint32) (net.Conn, error) {
		return firecracker.DialVsock(ctx, vsockPath, port)
	}
}

// guestLink is the host's end of the guest's agent.
type guestLink struct {
	listener net.Listener
	agent    *guest.Agent
	up       chan struct{} // closed when the guest has said that it is up, or has answered after a restore
	answered sync.Once     // closes up
	greeting sync.Once
	restored bool          // the guest goes on from a snapshot: only its answer to the greeting counts
	idle     chan struct{} // closed when the listener is, and nothing it accepted is under way
}

// listenForGuest waits in the background for the one connection by which the guest says that it is up. The socket is
// there before the VMM starts: a guest that finds nobody listening would have to try again.
func listenForGuest(vsockPath string, restored bool) (*guestLink, error) {
	listener, err := firecracker.ListenVsock(vsockPath, guest.UpPort)
	if err != nil {
		return nil, err
	}
	link := &guestLink{listener: listener, up: make(chan struct{}), restored: restored, idle: make(chan struct{})}
	link.agent = guest.New(dialer(vsockPath))
	go link.accept()
	return link, nil
}

// accept takes greetings. Only a proper hello counts; whatever else the guest sends is dropped.
//
// In the emulator a restored guest says that it is up once more. Its agent is not handed out for that: until it was
// greeted its clock is wrong, and it draws the same random numbers as every other guest of the snapshot.
func (l *guestLink) accept() {
	defer close(l.idle)
	serveGuest(l.listener, func(conn net.Conn) {
		if _, err := guest.ReadUp(context.Background(), conn); err == nil && !l.restored {
			l.answered.Do(func() { close(l.up) })
		}
	})
}

// serveGuest has every connection dealt with that the guest opens to a port of the host, and returns when the listener is
// closed and the last is through. A connection that stays silent does not keep the others waiting, but a guest may open as
// many as it likes, so there are only so many at a time.
func serveGuest(listener net.Listener, serve func(net.Conn)) {
	places := make(chan struct{}, maxGreetings)
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		select {
		case places <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		connections.Go(func() {
			defer func() { <-places }()
			serve(conn)
		})
	}
}

// greet tells a restored guest, in the background, the time and gives it fresh entropy: what it has of both is from when
// the snapshot was taken. It tries until the guest answers or the VM ends.
func (l *guestLink) greet(ended <-chan struct{}) {
	l.greeting.Do(func() {
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			select {
			case <-ended:
				cancel()
			case <-ctx.Done():
			}
		}()
		go func() {
			defer cancel()
			retry := time.NewTicker(greetInterval)
			defer retry.Stop()
			for l.resume(ctx) != nil {
				select {
				case <-retry.C: // a vsock that nobody serves yet gives no sign when that changes
				case <-ctx.Done():
					return
				}
			}
			l.answered.Do(func() { close(l.up) })
		}()
	})
}

func (l *guestLink) resume(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	return sendResume(ctx, l.agent)
}

func sendResume(ctx context.Context, agent *guest.Agent) error {
	now := time.Now()
	request := guest.ResumeRequest{Epoch: uint64(now.UnixNano()), Now: now, Entropy: make([]byte, 64)}
	rand.Read(request.Entropy) // never fails
	_, err := agent.Resume(ctx, request)
	return err
}

func (l *guestLink) close() error {
	if err := l.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
