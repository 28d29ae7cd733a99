package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/internal/unixsock"
)

const (
	endGrace  = 500 * time.Millisecond // from a broken connection until the kernel reports the end of the VMM
	killLimit = 5 * time.Second        // from SIGKILL to the end, when a start failed

	eager      = 50 * time.Millisecond  // for so long, which is nearly always enough, a connection is tried
	eagerRetry = 100 * time.Microsecond // this often
	retry      = time.Millisecond       // and then this often
)

// Start runs a VMM and returns when its API answers. The context bounds the start alone: when it ends before, the VMM is
// killed and reaped; afterwards it is of no account. Errors are *[StartError].
//
// The VMM runs in a session of its own, without a terminal, and outlives the caller. No signal handler is set.
func Start(ctx context.Context, command Command) (*Process, error) {
	p, err := Spawn(ctx, command)
	if err != nil {
		return nil, err
	}
	if err := p.Ready(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Spawn runs a VMM and returns at once: the first half of [Start]. Errors are *[StartError] of the stages command and
// spawn.
func Spawn(ctx context.Context, command Command) (*Process, error) {
	fail := func(stage Stage, err error) error {
		return &StartError{Stage: stage, Path: command.Path, Err: err}
	}
	socket, err := command.check()
	if err != nil {
		return nil, fail(StageCommand, err)
	}
	if err := removeSocket(ctx, socket); err != nil {
		return nil, fail(StageCommand, err)
	}
	p, err := spawn(command, socket)
	if err != nil {
		return nil, fail(StageSpawn, err)
	}
	return p, nil
}

// Ready waits until the VMM's API answers: the second half of [Start]. It is for whoever starts a VM, which need not be
// the VMM's parent (see [Attach]). When it fails the VMM is killed. Errors are *[StartError] of the stages socket and API.
func (p *Process) Ready(ctx context.Context) error {
	if err := p.waitForSocket(ctx); err != nil {
		return p.abort(StageSocket, err)
	}
	if err := p.waitForAPI(ctx); err != nil {
		return p.abort(StageAPI, err)
	}
	return nil
}

// check refuses what cannot work before anything is touched, and returns the socket's path as we see it.
func (c Command) check() (socket string, err error) {
	switch {
	case c.Path == "":
		return "", errors.New("no binary is named")
	case c.Dir == "":
		return "", errors.New("no working folder is named")
	case c.Socket == "":
		return "", errors.New("no API socket is named")
	case len(c.Socket) > unixsock.MaxPath:
		return "", fmt.Errorf("the API socket's path %q is %d bytes long; a socket's address takes %d",
			c.Socket, len(c.Socket), unixsock.MaxPath)
	}
	if c.Jail != nil && c.Cgroup != "" {
		return "", errors.New("the cgroup of a VMM in a jail is named by the jail")
	}
	if c.Jail != nil {
		if err := c.Jail.check(c); err != nil {
			return "", err
		}
	}
	socket = c.Socket
	if !filepath.IsAbs(socket) {
		socket = filepath.Join(c.Dir, socket)
	}
	switch info, err := os.Stat(filepath.Dir(socket)); {
	case err != nil:
		return "", fmt.Errorf("the API socket's folder: %w", err)
	case !info.IsDir():
		return "", fmt.Errorf("the API socket's folder %s is no folder", filepath.Dir(socket))
	}
	return socket, nil
}

// removeSocket removes a socket at which nobody listens. Firecracker refuses to start over one.
func removeSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is there and is no socket: it is left alone, choose another path or remove it", path)
	}
	ctx, cancel := context.WithTimeout(ctx, APITimeout)
	defer cancel()
	conn, err := unixsock.Dial(ctx, path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("somebody listens at %s: another VMM uses it", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		err = os.Remove(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func spawn(command Command, socket string) (*Process, error) {
	path, argv, err := command.program()
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	files := []*os.File{null, null, null}
	if command.Stdin != nil {
		files[0] = command.Stdin
	}
	if command.Console != nil {
		files[1], files[2] = command.Console.File(), command.Console.File()
	}
	if command.Stderr != nil {
		files[2] = command.Stderr.File()
	}
	// A session of its own: the VMM gets neither our terminal nor its signals. No parent-death signal, as that fires when
	// the thread ends that happened to start it.
	attributes := &syscall.SysProcAttr{Setsid: true}
	if command.Cgroup != "" {
		group, err := os.Open(command.Cgroup)
		if err != nil {
			return nil, err
		}
		defer group.Close()
		attributes.UseCgroupFD, attributes.CgroupFD = true, int(group.Fd())
	}
	process, err := os.StartProcess(path, argv, &os.ProcAttr{
		Dir:   command.Dir,
		Env:   append([]string{}, command.Env...), // never nil, which would be our own
		Files: files,
		Sys:   attributes,
	})
	if err != nil {
		return nil, err
	}
	if command.Jail != nil && command.Jail.NewPIDNS {
		if process, err = command.Jail.forked(process, command); err != nil {
			return nil, err
		}
	}
	p := &Process{process: process, client: NewClient(socket), command: command, socket: socket,
		done: make(chan struct{}), stopping: make(chan struct{}, 1)}
	go p.reap()
	return p, nil
}

// program is what is executed, the VMM or its jailer, and with which arguments.
func (c Command) program() (path string, argv []string, err error) {
	if path, err = filepath.Abs(c.Path); err != nil { // relative to our folder, not to the VMM's
		return "", nil, err
	}
	argv = []string{path, "--api-sock", c.Socket}
	switch {
	case c.Jail != nil: // which passes the id on
		jailer, err := filepath.Abs(c.Jail.Jailer)
		if err != nil {
			return "", nil, err
		}
		argv = append(append([]string{jailer}, c.Jail.args(path, c.ID)...), argv[1:]...)
		path = jailer
	case c.ID != "":
		argv = append(argv, "--id", c.ID)
	}
	return path, append(argv, c.Args...), nil
}

// ErrEnded is the VMM's end while a start waited for it.
var ErrEnded = errors.New("the VMM ended")

// waitForSocket connects to the API socket and keeps the connection for the client. The socket's file appears when the
// VMM binds it, and a connection is refused until it listens, so only connecting tells, and no event of the kernel's
// does. (An inotify watch tells of the file; to close it takes the kernel 16 ms, three times as long as Firecracker needs
// to come up.)
func (p *Process) waitForSocket(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, SocketTimeout,
		fmt.Errorf("nobody listens at %s after %v", p.socket, SocketTimeout))
	defer cancel()
	patient := time.NewTicker(retry)
	defer patient.Stop()
	for began := time.Now(); ; {
		conn, err := unixsock.Dial(ctx, p.socket)
		if err == nil {
			p.client.adopt(conn)
			return nil
		}
		if errors.Is(err, context.DeadlineExceeded) { // the context's own, which the dial may notice first
			<-ctx.Done()
		}
		if ctx.Err() == nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		if time.Since(began) < eager {
			// Not a timer: Go's have a grain of 1 ms when nothing else is going on.
			_ = unix.Nanosleep(&unix.Timespec{Nsec: eagerRetry.Nanoseconds()}, nil)
		} else {
			select {
			case <-patient.C:
			case <-p.done:
			case <-ctx.Done():
			}
		}
		select {
		case <-p.done:
			return ErrEnded
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
		}
	}
}

// waitForAPI asks for the version, which the client needs to know, and refuses an unsafe one.
func (p *Process) waitForAPI(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, APITimeout,
		fmt.Errorf("no answer after %v: %w", APITimeout, context.DeadlineExceeded))
	defer cancel()
	version, err := p.client.GetVersion(ctx)
	if err == nil {
		return CheckVersion(version, p.command.AllowVersions)
	}
	if !brokenOff(err) {
		return err
	}
	// Perhaps because the VMM ended, which the kernel reports a moment later.
	grace := time.NewTimer(endGrace)
	defer grace.Stop()
	select {
	case <-p.done:
		return ErrEnded
	case <-grace.C:
		return err
	case <-ctx.Done():
		return err
	}
}

// brokenOff tells whether a call failed because the VMM's end of the connection went away.
func brokenOff(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNREFUSED} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// abort ends the VMM and makes the error of a start that failed at stage.
func (p *Process) abort(stage Stage, err error) error {
	failed := &StartError{Stage: stage, Path: p.command.Path, Err: err}
	if errors.Is(err, ErrEnded) && !p.attached {
		exit := p.Exit()
		failed.Exit = &exit
	}
	if undo := p.end(); undo != nil {
		failed.Err = errors.Join(err, undo)
	}
	p.client.Close()
	failed.Output = p.command.lastOutput()
	return failed
}

// lastOutput is what the VMM printed last, on stderr if there is any.
func (c Command) lastOutput() []byte {
	for _, c := range []*Console{c.Stderr, c.Console} {
		if c == nil {
			continue
		}
		c.Settle()
		if tail := c.Tail(); lastLines(tail) != "" {
			return tail
		}
	}
	return nil
}
