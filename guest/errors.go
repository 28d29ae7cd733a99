package guest

import (
	"errors"
	"fmt"
	"strings"

	"smartvm/internal/agentwire"
)

// ErrLost says that the connection to the agent ended before the command's exit status came: the guest stopped, its
// agent died, or the guest was restored. The command is gone, or will be soon; but a main command goes on, and the agent
// dials again for one that is detached (AcceptMain).
var ErrLost = errors.New("guest: connection to the agent lost before the command's exit status came")

// ErrUnsupported says that the agent of this guest lacks what a call needs: its image was made by an older release. The
// error around it names the feature.
var ErrUnsupported = errors.New("the guest's agent is of an older release and cannot do this: make its image again")

// StartError says why a command did not start.
type StartError struct {
	Reason  Reason
	Message string // the agent's words, made printable
}

// Reason is why a command did not start.
type Reason string

// The reasons.
const (
	NotFound      Reason = Reason(agentwire.NotFound)      // no such program in the guest
	NotExecutable Reason = Reason(agentwire.NotExecutable) // it is there and cannot be run
	BadUser       Reason = Reason(agentwire.BadUser)       // no such user or group in the guest
	BadDir        Reason = Reason(agentwire.BadDir)        // no such folder in the guest
	TooBig        Reason = Reason(agentwire.TooBig)        // arguments and environment are longer than the kernel takes
	MainTaken     Reason = Reason(agentwire.MainTaken)     // the guest has a main command already
	NoMain        Reason = Reason(agentwire.NoMain)        // no main command runs in the guest (SignalMain)
	NoSpace       Reason = Reason(agentwire.NoSpace)       // a file system of the guest is full (CopyTo)
	Internal      Reason = Reason(agentwire.Internal)      // anything else
)

func (e *StartError) Error() string { return fmt.Sprintf("guest: %s", e.Message) }

// ExitCode is what a shell would exit with: 127 for a program that was not found, 126 for anything else.
func (e *StartError) ExitCode() int {
	if e.Reason == NotFound {
		return 127
	}
	return 126
}

// maxMessage bounds what we repeat of a guest's words, in bytes.
const maxMessage = 1024

func decodeFailed(f agentwire.Frame) error {
	var failed agentwire.Failed
	if err := f.Expect(agentwire.KindFailed, &failed); err != nil {
		return err
	}
	e := &StartError{Reason: Reason(failed.Reason), Message: printable(failed.Message)}
	switch e.Reason {
	case NotFound, NotExecutable, BadUser, BadDir, TooBig, MainTaken, NoMain:
	default:
		e.Reason = Internal
	}
	if e.Message == "" {
		e.Message = string(e.Reason)
	}
	return e
}

// printable takes control characters out: the text comes from the guest and may go to a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "")
	}
	return strings.TrimSpace(s)
}
