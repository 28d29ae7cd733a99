package emulator

import (
	"errors"
	"io"
	"os"
	"strings"
)

// system is what the API asks of the operating system and only Linux has.
type system interface {
	// openTAP attaches to the TAP of that name as Firecracker does: IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, one queue.
	// It returns the TAP's name as the kernel says it. The error is a fault.
	openTAP(name string) (tap *os.File, device string, err error)
	// openOutput opens a file or a FIFO for logs, metrics or the console: never waits for a reader, never truncates,
	// and drops what a full FIFO does not take.
	openOutput(path string) (io.WriteCloser, error)
	// cpu names the host's processor.
	cpu() cpuModel
}

// errNUL is Rust's word on a path that C cannot express.
var errNUL = errors.New("file name contained an unexpected NUL byte")

// openFile opens a file that must exist.
func openFile(path string, readOnly bool) (*os.File, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return nil, errNUL
	}
	if readOnly {
		return os.Open(path)
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

// socketPathFault tells why a Unix socket cannot be bound at path, in the words of Rust's standard library, which
// checks before it asks the system.
func socketPathFault(path string) error {
	switch {
	case strings.IndexByte(path, 0) >= 0:
		return errors.New("paths must not contain interior null bytes")
	case len(path) >= 108: // sizeof(sockaddr_un.sun_path), with room for the final NUL
		return errors.New("path must be shorter than SUN_LEN")
	}
	return nil
}
