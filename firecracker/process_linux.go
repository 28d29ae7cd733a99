package firecracker

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The limits of [Start].
const (
	SocketTimeout = 10 * time.Second // from the spawn until somebody listens at the API socket
	APITimeout    = 5 * time.Second  // from then until GET /version is answered
)

// Command says how to run a VMM.
type Command struct {
	Path string   // the binary; relative to the caller's working folder, never looked up in PATH
	ID   string   // --id: letters, digits and -, at most 64; "" leaves it to the VMM
	Args []string // what else is on the command line
	Dir  string   // the VMM's working folder: all paths that it is given are relative to it

	// Socket is the API socket's path as the VMM sees it, relative to Dir, at most 107 bytes. Dir itself may have any
	// length. A stale socket is removed, anything else that is there refused.
	Socket string

	Env   []string // the whole environment; nil is an empty one
	Stdin *os.File // nil is /dev/null
	// Console takes stdout, which is also the guest's serial console, and stderr unless Stderr is set; nil is /dev/null.
	// Both stay the caller's, who drains and closes them; what they got last is part of the error when the VMM ends early.
	Console, Stderr *Console

	// Jail has the VMM run by the jailer, with Dir for its `/`; nil runs it as this user, with all that this user may do.
	Jail *Jail

	// Cgroup is the folder of a cgroup (v2) in which the VMM starts, without ever having been in another (CLONE_INTO_CGROUP of
	// clone(2), Linux 5.7); "" leaves it where its parent is. A jail has its own.
	Cgroup string

	// AllowVersions names versions that are run in spite of known holes: see CheckVersion.
	AllowVersions []string
}

// Process is a VMM that runs, or ran. Its life is bound to no context. Stop it when it is no longer needed: that also
// frees what it holds when it has ended by itself.
type Process struct {
	process *os.Process
	client  *Client
	command Command
	socket  string // the API socket as this process sees it

	attached bool     // not our child: how it ends is told to its parent alone
	pidfd    *os.File // of an attached one

	done chan struct{} // closed when the VMM has ended, is reaped, and its socket is removed
	exit Exit          // how; to be read after done

	stopping chan struct{} // holds a token while a Stop is under way
	stopped  Method        // the rung that ended it; under the token
}

// PID is the VMM's process id. It may belong to another process after Done.
func (p *Process) PID() int { return p.process.Pid }

// Client speaks to the VMM's API, over the connection that Start made. Stop closes it.
func (p *Process) Client() *Client { return p.client }

// Done is closed when the VMM has ended, however it did, and is reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit tells how the VMM ended, once Done is closed. Before that it is the zero Exit.
func (p *Process) Exit() Exit {
	select {
	case <-p.done:
		return p.exit
	default:
		return Exit{}
	}
}

// Running asks the kernel whether the VMM still runs. One that has ended and waits to be reaped does not.
func (p *Process) Running() bool {
	var ready int
	var failed error
	err := p.process.WithHandle(func(pidfd uintptr) {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		// A pending signal interrupts even a poll that does not wait.
		for ready, failed = unix.Poll(fds, 0); failed == unix.EINTR; {
			ready, failed = unix.Poll(fds, 0)
		}
	})
	if errors.Is(err, os.ErrNoHandle) { // kernels before 5.4
		return p.process.Signal(syscall.Signal(0)) == nil
	}
	return err == nil && failed == nil && ready == 0
}

// Signal sends a signal to the VMM, by its pidfd: never to another process that got its number. After the end it is
// os.ErrProcessDone.
func (p *Process) Signal(s syscall.Signal) error { return p.process.Signal(s) }

// reap waits for the end and tells it.
func (p *Process) reap() {
	state, err := p.process.Wait()
	p.exit = Exit{Code: -1, At: time.Now()}
	if err == nil {
		status := state.Sys().(syscall.WaitStatus)
		if status.Signaled() {
			p.exit.Signal = status.Signal()
		} else {
			p.exit.Code = status.ExitStatus()
		}
	}
	// Firecracker's seccomp filter keeps it from removing its own socket.
	_ = removeSocket(context.Background(), p.socket)
	p.client.Close()
	close(p.done)
}
