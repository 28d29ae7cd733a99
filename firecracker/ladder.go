package firecracker

import (
	"time"
)

// Method is a way to end a VMM.
type Method string

// The methods, gentlest first.
const (
	ByCtrlAltDel Method = "Ctrl-Alt-Del" // asks the guest; x86_64 only, and not while it is paused
	BySIGTERM    Method = "SIGTERM"      // ends the VMM; the guest gets no word
	BySIGKILL    Method = "SIGKILL"      // the kernel ends the VMM
	ByItself     Method = "itself"       // nothing was needed: it had ended
)

// Rung is one step of a ladder: a method, and how long to wait for the end before the next.
type Rung struct {
	Method Method
	Limit  time.Duration
}

// Ladder is how to end a VMM: rung after rung, until one works.
type Ladder []Rung

// DefaultLadder asks the guest first, where its architecture ("x86_64" or "aarch64") has keys for that, then ends the VMM.
func DefaultLadder(arch string) Ladder {
	l := Ladder{{ByCtrlAltDel, 5 * time.Second}, {BySIGTERM, 5 * time.Second}, {BySIGKILL, time.Second}}
	if arch == "aarch64" {
		return l.WithoutGuest()
	}
	return l
}

// Kill ends the VMM at once.
func Kill() Ladder { return Ladder{{BySIGKILL, time.Second}} }

// WithoutGuest leaves out the rungs that need the guest to act.
func (l Ladder) WithoutGuest() Ladder { return l.Without(ByCtrlAltDel) }

// Without leaves out a method, such as SIGTERM for a VMM that is process 1 of a PID namespace.
func (l Ladder) Without(method Method) Ladder {
	var rest Ladder
	for _, rung := range l {
		if rung.Method != method {
			rest = append(rest, rung)
		}
	}
	return rest
}
