package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Seccomp is what a VMM's seccomp filters hold.
type Seccomp string

// A build for a libc that Firecracker has no filters for has one that holds nothing (resources/seccomp/unimplemented.json,
// src/firecracker/build.rs): to the kernel it looks like any other.
const (
	SeccompNone  Seccomp = "none"  // there is no filter
	SeccompOpen  Seccomp = "open"  // there is one, and it lets through what Firecracker never needs
	SeccompHolds Seccomp = "holds" // there is one, and it holds that back
)

// apiThread is the name of Firecracker's thread that serves its API (src/firecracker/src/api_server_adapter.rs). It puts its
// filter on before it serves; the other threads do so when a VM starts.
const apiThread = "fc_api"

// ErrSeccompUntried means that there is a filter, and that the kernel lets nobody try whether it holds anything.
var ErrSeccompUntried = errors.New("the seccomp filter could not be tried")

// TrySeccomp starts a VMM without a VM, has its API thread make a system call that Firecracker's filters forbid, and ends the
// VMM again. The call is getppid(2), which changes nothing: the thread is traced (ptrace(2)) and its next call replaced.
// Errors are *[StartError], [ErrSeccompUntried], and what the kernel says.
func TrySeccomp(ctx context.Context, command Command) (held Seccomp, err error) {
	p, err := Start(ctx, command)
	if err != nil {
		return "", err
	}
	// Whatever comes to pass, and whenever the context ends: a thread that was ended lets go of who waits for it.
	stop := context.AfterFunc(ctx, func() { _ = p.end() })
	defer func() {
		stop()
		err = errors.Join(err, p.end())
	}()
	tid, err := threadNamed(p.PID(), apiThread)
	if err != nil {
		return "", err
	}
	held, err = tryThread(p.PID(), tid)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return held, err
}

// threadNamed finds a thread beside the first. That one's stops would be taken by whoever waits for the process's end.
func threadNamed(pid int, name string) (int, error) {
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", pid))
	if err != nil {
		return 0, err
	}
	for _, path := range names {
		tid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || tid == pid {
			continue
		}
		if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == name {
			return tid, nil
		}
	}
	return 0, fmt.Errorf("the VMM (process %d) has no thread %q: is it Firecracker?", pid, name)
}

// tryThread tries the filters of one thread of a process that is killed afterwards: it is never to go on.
func tryThread(pid, tid int) (Seccomp, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, tid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		// proc_pid_status(5): 2 is SECCOMP_MODE_FILTER.
		if mode, ok := strings.CutPrefix(line, "Seccomp:"); ok && strings.TrimSpace(mode) != "2" {
			return SeccompNone, nil
		}
	}
	// Only the thread that traces another may give it orders.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(tid); err != nil {
		return "", fmt.Errorf("%w: ptrace: %w", ErrSeccompUntried, err)
	}
	defer func() {
		// The process is not gone before its tracer knows of each thread's end.
		_ = unix.Kill(pid, unix.SIGKILL)
		for {
			var status unix.WaitStatus
			_, err := unix.Wait4(tid, &status, unix.WALL, nil)
			if err != nil && err != unix.EINTR || status.Exited() || status.Signaled() {
				return
			}
		}
	}()
	return forbidden(tid)
}

// forbidden replaces the next system call of a traced thread and tells what becomes of it.
func forbidden(tid int) (Seccomp, error) {
	const callStop = unix.SIGTRAP | 0x80 // PTRACE_O_TRACESYSGOOD
	if err := unix.PtraceInterrupt(tid); err != nil {
		return "", err
	}
	if _, err := awaitStop(tid); err != nil {
		return "", err
	}
	if err := unix.PtraceSetOptions(tid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_EXITKILL); err != nil {
		return "", err
	}
	// Entered: the call is replaced, which is before the filters see it (Linux 4.8). Left: what it returned. Then a filter's
	// SIGSYS, or the next call.
	const entered, left, next = 1, 2, 3
	for at, pass := 0, unix.Signal(0); ; {
		if err := unix.PtraceSyscall(tid, int(pass)); err != nil {
			return "", err
		}
		stop, err := awaitStop(tid)
		if errors.Is(err, errSIGSYS) || stop == unix.SIGSYS {
			return SeccompHolds, nil
		}
		if err != nil {
			return "", err
		}
		if pass = stop; stop != callStop {
			continue // another signal, which the thread gets
		}
		pass = 0
		switch at++; at {
		case entered:
			if err := replaceCall(tid, unix.SYS_GETPPID); err != nil {
				return "", err
			}
		case left:
			if result, err := callResult(tid); err != nil || result < 0 { // getppid(2) is always successful
				return SeccompHolds, err
			}
		case next:
			return SeccompOpen, nil
		}
	}
}

// errSIGSYS is the end of a process by a filter that kills.
var errSIGSYS = errors.New("killed by its seccomp filter")

// awaitStop waits until a traced thread stops and returns the signal that it stopped for, 0 for none.
func awaitStop(tid int) (unix.Signal, error) {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(tid, &status, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case status.Signaled() && status.Signal() == unix.SIGSYS:
			return 0, errSIGSYS
		case status.Exited() || status.Signaled():
			return 0, ErrEnded
		case status.TrapCause() > 0: // PTRACE_EVENT_STOP: our own interruption
			return 0, nil
		default:
			return status.StopSignal(), nil
		}
	}
}
