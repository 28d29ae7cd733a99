package firecracker

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Attachment names a VMM that runs already and that somebody else started.
type Attachment struct {
	PID  int
	Path string // the binary, for messages
	// Socket is the API socket's path as this process sees it, of any length.
	Socket string
	// Check is called once the process can no longer be mistaken for another: it tells whether this is the one that is
	// meant, as process ids are used again. Nil trusts the PID.
	Check func() error
	// AllowVersions names versions that are run in spite of known holes: see CheckVersion.
	AllowVersions []string
}

// Attach returns a VMM that is not this process's child: Done and Stop work as for one that is, but nobody but its parent
// is told how it ended, so Exit has code -1 and no signal. Neither its socket nor anything else of it is removed when it
// ends. A VMM that is gone is an error that wraps os.ErrProcessDone. Release lets go of it.
func Attach(a Attachment) (*Process, error) {
	fd, err := unix.PidfdOpen(a.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		if err == unix.ESRCH {
			err = os.ErrProcessDone
		}
		return nil, fmt.Errorf("VMM %d: %w", a.PID, err)
	}
	pidfd := os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", a.PID))
	process, err := os.FindProcess(a.PID)
	if err == nil && a.Check != nil {
		err = a.Check()
	}
	if err != nil {
		pidfd.Close()
		return nil, fmt.Errorf("VMM %d: %w", a.PID, err)
	}
	p := &Process{process: process, client: NewClient(a.Socket), command: Command{Path: a.Path, AllowVersions: a.AllowVersions},
		socket: a.Socket, done: make(chan struct{}), stopping: make(chan struct{}, 1), attached: true, pidfd: pidfd}
	go p.await()
	return p, nil
}

// await waits for the end of a process that is not our child: its pidfd becomes readable (pidfd_open(2)).
func (p *Process) await() {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		ended = err == nil && n > 0
		return ended
	})
	if err != nil && !ended {
		return // released
	}
	p.exit = Exit{Code: -1, At: time.Now()}
	p.client.Close()
	close(p.done)
}

// Release lets go of an attached VMM, which runs on: Done stays open for ever, unless it is closed already.
func (p *Process) Release() {
	p.client.Close()
	if p.pidfd != nil {
		p.pidfd.Close()
		_ = p.process.Release()
	}
}

// AwaitEnd waits until the VMM has ended, or ctx has.
func (p *Process) AwaitEnd(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("VMM %d still runs: %w", p.PID(), context.Cause(ctx))
	}
}
