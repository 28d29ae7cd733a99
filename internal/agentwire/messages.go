package agentwire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"
)

// Hello is what an agent says about itself.
type Hello struct {
	Protocol int    `json:"protocol"`
	Boot     string `json:"boot"`  // 32 hex digits, chosen at each boot; clones of a snapshot share it
	Epoch    uint64 `json:"epoch"` // 0 after boot, then what the last resume request said
	// Features are names of what this agent can do beyond the protocol's base.
	Features []string `json:"features,omitempty"`
	Kernel   string   `json:"kernel,omitempty"` // the guest's kernel release
}

// The features.
const (
	FeatureDetach     = "detach"      // Exec.Detach
	FeatureSignalMain = "signal-main" // a connection that begins with a signal
	FeatureCopy       = "copy"        // a connection that begins with Copy
)

// maxFeatures and maxText bound a hello's list.
const (
	maxFeatures = 64
	maxText     = 128
)

// DecodeHello reads and checks a hello from an agent.
func DecodeHello(f Frame) (Hello, error) {
	var h Hello
	if err := f.Expect(KindHello, &h); err != nil {
		return Hello{}, err
	}
	if h.Protocol != Protocol {
		return Hello{}, fmt.Errorf("agentwire: the guest's agent speaks protocol %d, this program %d: use an image of the same release", h.Protocol, Protocol)
	}
	if len(h.Boot) == 0 || len(h.Boot) > maxText || len(h.Kernel) > maxText || len(h.Features) > maxFeatures {
		return Hello{}, fmt.Errorf("%w: hello out of bounds", ErrInvalid)
	}
	for _, name := range h.Features {
		if len(name) > maxText {
			return Hello{}, fmt.Errorf("%w: hello out of bounds", ErrInvalid)
		}
	}
	return h, nil
}

// Resume tells the agent that the guest was restored from a snapshot.
type Resume struct {
	Epoch   uint64    `json:"epoch"`
	Now     time.Time `json:"now"`
	Entropy []byte    `json:"entropy,omitempty"` // at most MaxEntropy bytes, credited in full
}

// MaxEntropy is the most entropy that a Resume takes, in bytes. The kernel's pool is 32 bytes wide.
const MaxEntropy = 512

// Exec asks for a command.
type Exec struct {
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`  // KEY=value, on top of the agent's default environment
	Dir  string   `json:"dir,omitempty"`  // "" = "/"
	User string   `json:"user,omitempty"` // name or uid, with :group or :gid if wanted; "" = root
	TTY  bool     `json:"tty,omitempty"`
	Size Size     `json:"size,omitzero"`
	Main bool     `json:"main,omitempty"` // the guest reboots when the command has ended
	// Detach makes Started the connection's end. The command goes on: the main command with connections that the agent
	// dials, any other with /dev/null for its streams.
	Detach bool `json:"detach,omitempty"`
}

// Check says what is wrong with a request; both sides ask.
func (e Exec) Check() error {
	if len(e.Args) == 0 || e.Args[0] == "" {
		return fmt.Errorf("agentwire: exec: no command")
	}
	if e.Detach && e.TTY {
		return fmt.Errorf("agentwire: exec: a detached command has no terminal")
	}
	for _, list := range [][]string{e.Args, e.Env, {e.Dir, e.User}} {
		for _, s := range list {
			for i := range len(s) {
				if s[i] == 0 {
					return fmt.Errorf("agentwire: exec: a NUL byte in %q", s)
				}
			}
		}
	}
	return nil
}

// Size is a terminal's size in characters; zero leaves it as it is.
type Size struct {
	Rows uint16 `json:"rows,omitempty"`
	Cols uint16 `json:"cols,omitempty"`
}

// Started tells that the command runs.
type Started struct {
	PID int `json:"pid"`
}

// Reason is why a command did not start.
type Reason string

// The reasons.
const (
	NotFound      Reason = "not-found"      // no such program
	NotExecutable Reason = "not-executable" // it is there and cannot be run
	BadUser       Reason = "bad-user"       // no such user or group
	BadDir        Reason = "bad-dir"        // no such folder
	TooBig        Reason = "too-big"        // arguments and environment are longer than the kernel takes
	MainTaken     Reason = "main-taken"     // there is a main command already
	NoMain        Reason = "no-main"        // no main command runs
	NoSpace       Reason = "no-space"       // a file system of the guest is full
	Stopped       Reason = "stopped"        // the host wanted no more
	Internal      Reason = "internal"       // anything else
)

// Failed tells that the command did not start.
type Failed struct {
	Reason  Reason `json:"reason"`
	Message string `json:"message"`
}

// Copy asks for files: a tar archive as the data of stdin into the guest, or of stdout out of it. Paths are bytes, as file
// names in Linux need not be UTF-8.
type Copy struct {
	Put     bool   `json:"put,omitempty"`     // into the guest
	Path    []byte `json:"path"`              // what is copied from, or to; relative to "/"
	Base    []byte `json:"base,omitempty"`    // of a put: the archive's top-level name, "." for a folder's contents, "" for any names
	Archive bool   `json:"archive,omitempty"` // of a put: with numeric owners and set-id bits
}

// Check says what is wrong with a request; both sides ask.
func (c Copy) Check() error {
	const maxPath = 4096 // PATH_MAX
	for _, p := range [][]byte{c.Path, c.Base} {
		if len(p) > maxPath || bytes.IndexByte(p, 0) >= 0 {
			return fmt.Errorf("agentwire: copy: a path with a NUL byte, or of more than %d bytes", maxPath)
		}
	}
	if len(c.Path) == 0 {
		return fmt.Errorf("agentwire: copy: no path")
	}
	return nil
}

// Copied is how a copy ended in the guest.
type Copied struct {
	Files   int      `json:"files,omitempty"`
	Dirs    int      `json:"dirs,omitempty"`
	Links   int      `json:"links,omitempty"`
	Bytes   int64    `json:"bytes,omitempty"`
	Skipped []string `json:"skipped,omitempty"`
	Reason  Reason   `json:"reason,omitempty"` // "" when all of it was copied
	Message string   `json:"message,omitempty"`
}

// Exit is how the command ended: Signal is 0, or what killed it.
type Exit struct {
	Code   int32
	Signal int32
}

// Payload is the exit's frame payload.
func (e Exit) Payload() []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(e.Code)), uint32(e.Signal))
}

// DecodeExit reads an exit. A code is 0 to 255, a signal 0 to 64.
func DecodeExit(f Frame) (Exit, error) {
	if err := f.Expect(KindExit, nil); err != nil {
		return Exit{}, err
	}
	e := Exit{int32(binary.BigEndian.Uint32(f.Payload)), int32(binary.BigEndian.Uint32(f.Payload[4:]))}
	if e.Code < 0 || e.Code > 255 || e.Signal < 0 || e.Signal > maxSignal {
		return Exit{}, fmt.Errorf("%w: exit code %d, signal %d", ErrInvalid, e.Code, e.Signal)
	}
	return e, nil
}

const maxSignal = 64

// Payload is the size's frame payload.
func (s Size) Payload() []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, s.Rows), s.Cols)
}

// DecodeSize reads a resize.
func DecodeSize(f Frame) (Size, error) {
	if err := f.Expect(KindResize, nil); err != nil {
		return Size{}, err
	}
	return Size{binary.BigEndian.Uint16(f.Payload), binary.BigEndian.Uint16(f.Payload[2:])}, nil
}

// DecodeSignal reads a signal's number.
func DecodeSignal(f Frame) (int, error) {
	if err := f.Expect(KindSignal, nil); err != nil {
		return 0, err
	}
	n := int(f.Payload[0])
	if n < 1 || n > maxSignal {
		return 0, fmt.Errorf("%w: signal %d", ErrInvalid, n)
	}
	return n, nil
}

// Credit allows the other side Bytes more of a stream: KindStdin, KindStdout or KindStderr.
type Credit struct {
	Stream Kind
	Bytes  uint32
}

// Payload is the credit's frame payload.
func (c Credit) Payload() []byte {
	return binary.BigEndian.AppendUint32([]byte{byte(c.Stream)}, c.Bytes)
}

// DecodeCredit reads a credit; more than a window at once is none.
func DecodeCredit(f Frame) (Credit, error) {
	if err := f.Expect(KindCredit, nil); err != nil {
		return Credit{}, err
	}
	c := Credit{Kind(f.Payload[0]), binary.BigEndian.Uint32(f.Payload[1:])}
	if c.Stream < KindStdin || c.Stream > KindStderr || c.Bytes == 0 || c.Bytes > Window {
		return Credit{}, fmt.Errorf("%w: credit of %d for %v", ErrInvalid, c.Bytes, c.Stream)
	}
	return c, nil
}
