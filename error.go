package smartvm

import (
	"errors"
	"fmt"
	"strings"
)

// Code names a kind of failure. It is itself an error, so that one test covers every wrapped form:
//
//	errors.Is(err, smartvm.VMNotFound)
type Code string

// Error makes a Code usable with errors.Is; the text is the code itself.
func (c Code) Error() string { return string(c) }

// The codes of this module. docs/errors.md has the same table for readers; a test holds both together.
const (
	InvalidConfig          Code = "INVALID_CONFIG"            // a configuration or an option is refused; the message lists every fault
	InvalidState           Code = "INVALID_STATE"             // the call does not fit the VM's state; names both
	NoClient               Code = "NO_CLIENT"                 // the call needs a running VMM and there is none
	APIError               Code = "API_ERROR"                 // the VMM refused: method, path, status and its own message
	SocketTimeout          Code = "SOCKET_TIMEOUT"            // the VMM's socket did not come up, or the VMM ended before it did
	APITimeout             Code = "API_TIMEOUT"               // the socket is there but the API did not answer in time
	SocketRequestFailed    Code = "SOCKET_REQUEST_FAILED"     // a request did not get through, or its reply did not come back whole
	VMExists               Code = "VM_EXISTS"                 // another VM has this id
	VMNotFound             Code = "VM_NOT_FOUND"              // no VM has this id
	VMLocked               Code = "VM_LOCKED"                 // another call on this VM, perhaps of another process, did not end in time; names it
	BaseImageResolveFailed Code = "BASE_IMAGE_RESOLVE_FAILED" // no such image
	BaseImagePrepareFailed Code = "BASE_IMAGE_PREPARE_FAILED" // an image could not be made, or is damaged
	InsecurePath           Code = "INSECURE_PATH"             // a folder has the wrong owner or mode, or is a link
	DriveStageFailed       Code = "DRIVE_STAGE_FAILED"        // a drive could not be prepared: missing, unreadable, no space
	UnsupportedField       Code = "UNSUPPORTED_FIELD"         // the running Firecracker does not know a field; names the first version that does
	UnsafeVersion          Code = "UNSAFE_VERSION"            // this Firecracker version has a known CVE
	VMMExited              Code = "VMM_EXITED"                // the VMM ended by itself; exit code and its meaning
	SnapshotFailed         Code = "SNAPSHOT_FAILED"           // a snapshot could not be written: no space, a file in the way
	SnapshotIncompatible   Code = "SNAPSHOT_INCOMPATIBLE"     // the snapshot cannot be loaded here: VMM kind, version, CPU or a missing part
	GuestUnreachable       Code = "GUEST_UNREACHABLE"         // the agent in the guest did not answer in time
)

// Error is the one error type of this package.
type Error struct {
	Code Code
	Op   string // the call that failed: "start", "pause", "create"
	VM   string // the VM's id, empty when no VM is concerned
	Err  error  // what happened; never nil
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.VM != "" {
		fmt.Fprintf(&b, "vm %q: ", e.VM)
	}
	if e.Op != "" {
		b.WriteString(e.Op)
		b.WriteString(": ")
	}
	fmt.Fprintf(&b, "%v (%s)", e.Err, e.Code)
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is this error's code.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// CodeOf returns the outermost code in err's chain, or "" when it has none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
