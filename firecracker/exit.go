package firecracker

import (
	"fmt"
	"syscall"
	"time"
)

// Exit is how a VMM ended.
type Exit struct {
	Code   int            // exit code, -1 when a signal ended it
	Signal syscall.Signal // 0 when it ended by itself
	At     time.Time
}

// Meaning says what the exit code or signal tells.
func (e Exit) Meaning() string { return ExitMeaning(e.Code, e.Signal) }

// String is for messages: "exit code 153: wrong command line arguments".
func (e Exit) String() string {
	if e.Signal != 0 {
		return fmt.Sprintf("signal %d: %s", int(e.Signal), e.Meaning())
	}
	return fmt.Sprintf("exit code %d: %s", e.Code, e.Meaning())
}

// ExitMeaning explains how a VMM ended: by signal, or when that is 0 with code. The codes are Firecracker's
// (FcExitCode in src/vmm/src/lib.rs).
func ExitMeaning(code int, signal syscall.Signal) string {
	if signal != 0 {
		switch signal {
		case syscall.SIGKILL:
			return "killed by SIGKILL: by hand, by a stop that had to, or by the kernel for want of memory"
		case syscall.SIGTERM:
			return "ended by SIGTERM"
		case syscall.SIGABRT:
			return "aborted: the VMM panicked"
		}
		return "ended by a signal: " + signal.String()
	}
	switch code {
	case 0:
		return "ended in order: the guest rebooted, or panicked with panic=1"
	case 1:
		return "a general error: the VMM's last output says which; also a failed snapshot load, a triple fault, a KVM error"
	case 2:
		return "an error that the VMM did not expect"
	case 134:
		return "aborted: the VMM panicked"
	case 148:
		return "a system call that the seccomp filter forbids: a filter that does not fit this build"
	case 149:
		return "SIGBUS: the pool of huge pages is exhausted, or a file behind the guest's memory or a drive was cut short"
	case 150:
		return "SIGSEGV: the VMM touched memory that is not its own"
	case 151:
		return "SIGXFSZ: a file grew over the limit on its size (fsize)"
	case 152:
		return "a bad configuration file"
	case 153:
		return "wrong command line arguments"
	case 154:
		return "SIGXCPU: the limit on CPU time was reached"
	case 155:
		return "SIGPIPE"
	case 156:
		return "SIGHUP: its terminal was closed; the VMM was not started in a session of its own"
	case 157:
		return "SIGILL: an instruction that this CPU does not have"
	}
	return "not a code of Firecracker's"
}
