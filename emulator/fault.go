package emulator

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// A fault is an error whose text goes to the client as `fault_message`. The texts are Firecracker's; each layer puts its
// own words before those of the layer below, as Firecracker's error types do.

var (
	errBeforeStart = errors.New("The requested operation is not supported before starting the microVM.")
	errAfterStart  = errors.New("The requested operation is not supported after starting the microVM.")

	errPCINotEnabled  = errors.New("PCI is not enabled")
	errDeviceIDInUse  = errors.New("Device ID in use")
	errDeviceNotFound = errors.New("Device not found")
	errUnplugRoot     = errors.New("Cannot unplug root device")

	// errNoSuchDevice is how Firecracker says that an update names a device that is not there.
	errNoSuchDevice = errors.New("Failed perform action on device: Device not found")
	// errResourceGone is its allocator's word for "no more of them".
	errResourceGone = errors.New("The requested resource is not available.")
)

// errf makes a fault. (It is fmt.Errorf without the linter's wish for errors in lower case: these are Firecracker's.)
func errf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// prefix puts words before a fault, and keeps nil.
func prefix(words string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s%w", words, err)
}

// osText renders an error of the system as Rust's std::io::Error does: `No such file or directory (os error 2)`.
func osText(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	text := errno.Error()
	return fmt.Sprintf("%s%s (os error %d)", strings.ToUpper(text[:1]), text[1:], int(errno))
}

// osFault is an error of the system in Rust's words, behind those given.
func osFault(words string, err error) error {
	if err == nil {
		return nil
	}
	return errors.New(words + osText(err))
}

// debugOS renders an error of the system as Rust's {:?} does, for the log.
func debugOS(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return fmt.Sprintf("%q", err.Error())
	}
	text, _, _ := strings.Cut(osText(errno), " (os error")
	return fmt.Sprintf("Os { code: %d, kind: %s, message: %q }", int(errno), ioKind(errno), text)
}

// ioKind names an errno as Rust's ErrorKind does.
func ioKind(errno syscall.Errno) string {
	switch errno {
	case syscall.ENOENT:
		return "NotFound"
	case syscall.EACCES, syscall.EPERM:
		return "PermissionDenied"
	case syscall.EADDRINUSE:
		return "AddrInUse"
	case syscall.EEXIST:
		return "AlreadyExists"
	case syscall.EISDIR:
		return "IsADirectory"
	case syscall.ENOTDIR:
		return "NotADirectory"
	case syscall.EINVAL:
		return "InvalidInput"
	}
	return "Uncategorized"
}
