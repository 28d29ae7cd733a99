package agent

import (
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"smartvm/internal/agentwire"
)

// process is a command's process, and the process group that it leads.
type process struct {
	cmd    *exec.Cmd
	name   string        // the program's name as it was asked for
	exited chan struct{} // closed when the process has ended

	mu     sync.Mutex
	reaped bool // the process id is no longer ours to signal
}

// start starts the process, unless its streams could not be made, and closes the streams' ends that are the process's own.
func (p *process) start(theirs []*os.File, err error) error {
	if err == nil {
		if err = p.cmd.Start(); err != nil {
			err = refusal(p.name, err)
		}
	}
	for _, f := range theirs {
		f.Close()
	}
	return err
}

// wait reaps the process. The status is looked at before it is taken, so that the process id stays ours until signal
// knows that it is not.
func (p *process) wait() agentwire.Exit {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	p.mu.Lock()
	p.cmd.Wait()
	p.reaped = true
	p.mu.Unlock()
	close(p.exited)
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return agentwire.Exit{Signal: int32(status.Signal())}
	}
	return agentwire.Exit{Code: int32(status.ExitStatus())}
}

// signal sends a signal to the command's process group, unless the command has ended; it tells whether it has not.
func (p *process) signal(number syscall.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return false
	}
	syscall.Kill(-p.cmd.Process.Pid, number)
	return true
}
