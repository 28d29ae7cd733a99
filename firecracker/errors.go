package firecracker

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// APIError is a reply that is no success: the VMM refused the request.
type APIError struct {
	Method, Path string
	Status       int    // HTTP status; nearly always 400, 413 for too much metadata, 503 for too many connections
	Fault        string // Firecracker's own message, or the body's text when it is not JSON
	Body         []byte // the whole body as it came
}

func (e *APIError) Error() string {
	fault := e.Fault
	if fault == "" {
		fault = "no message"
	}
	return fmt.Sprintf("%s %s: the VMM answered %d: %s", e.Method, e.Path, e.Status, fault)
}

// TransportError is a request that got no whole, readable reply.
type TransportError struct {
	Method, Path string
	// Sent tells that the VMM may have got the request: whether it had an effect is unknown, and the state has to be
	// read again. Not sent means that nothing happened.
	Sent bool
	Err  error
}

func (e *TransportError) Error() string {
	what := e.Err.Error()
	switch {
	case errors.Is(e.Err, io.ErrUnexpectedEOF):
		what = "the connection ended in the middle of the reply"
	case errors.Is(e.Err, io.EOF):
		what = "the connection ended without a reply"
	}
	if !e.Sent {
		return fmt.Sprintf("%s %s: not sent: %s", e.Method, e.Path, what)
	}
	return fmt.Sprintf("%s %s: %s", e.Method, e.Path, what)
}

// Unwrap gives the cause; errors.Is(err, context.DeadlineExceeded) tells a reply that did not come in time.
func (e *TransportError) Unwrap() error { return e.Err }

// UnsupportedFieldError is a request that the running version does not know, as a whole or one field of it. It was not
// sent: Firecracker would refuse all of it.
type UnsupportedFieldError struct {
	Field   string  // "network-interfaces.mtu", or "PATCH /pmem/{id}" for an operation
	Since   Version // the first version that knows it
	Running Version
}

func (e *UnsupportedFieldError) Error() string {
	return fmt.Sprintf("%s needs Firecracker %s or newer, this is %s: leave it out or use a newer Firecracker",
		e.Field, e.Since, e.Running)
}

// UnsafeVersionError is a version with a known hole.
type UnsafeVersionError struct {
	Version Version
	CVE     string    // "CVE-2026-5747"
	FixedIn []Version // the first fixed release of each series
}

func (e *UnsafeVersionError) Error() string {
	fixed := make([]string, len(e.FixedIn))
	for i, v := range e.FixedIn {
		fixed[i] = v.String()
	}
	return fmt.Sprintf("Firecracker %s is affected by %s, fixed in %s: use a fixed one, or allow %s by name",
		e.Version, e.CVE, strings.Join(fixed, " and "), e.Version)
}

// UnsupportedVersionError is a version older than all that this package knows about.
type UnsupportedVersionError struct {
	Version, Oldest Version
}

func (e *UnsupportedVersionError) Error() string {
	return fmt.Sprintf("Firecracker %s is older than %s, the oldest supported one: use a newer one, or allow %s by name",
		e.Version, e.Oldest, e.Version)
}

// Stage is how far a start came.
type Stage string

// The stages of a start, in order.
const (
	StageCommand Stage = "command" // the command was refused: nothing was run
	StageSpawn   Stage = "spawn"   // the binary could not be run
	StageSocket  Stage = "socket"  // nobody listened at the API socket in time, or the VMM ended before
	StageAPI     Stage = "api"     // the API did not answer in time, or not as it should, or with an unsafe version
)

// StartError is a VMM that could not be started. It is ended and reaped.
type StartError struct {
	Stage  Stage
	Path   string // the binary
	Exit   *Exit  // set when the VMM ended by itself
	Output []byte // what it printed last, stderr preferred; at most 16 KiB, not to be trusted
	Err    error
}

func (e *StartError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "start %s: ", e.Path)
	switch e.Stage {
	case StageSocket:
		b.WriteString("wait for its socket: ")
	case StageAPI:
		b.WriteString("wait for its API: ")
	}
	b.WriteString(e.Err.Error())
	if e.Exit != nil {
		fmt.Fprintf(&b, " (%s)", e.Exit)
	}
	if said := lastLines(e.Output); said != "" {
		fmt.Fprintf(&b, "; its last output: %s", said)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *StartError) Unwrap() error { return e.Err }

// lastLines is the end of an output on one line, for a message.
func lastLines(output []byte) string {
	const lines, length = 3, 400
	all := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(output), "?")), "\n")
	text := strings.Join(all[max(0, len(all)-lines):], " | ")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f { // a terminal must not obey what a guest printed
			return -1
		}
		return r
	}, text)
	if len(text) > length {
		text = "…" + strings.ToValidUTF8(text[len(text)-length:], "")
	}
	return text
}
