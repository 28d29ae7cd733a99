// Package agentwire is what host and guest agent say to each other on a connection, over vsock or over the emulator's
// serial port alike. Both sides read it strictly: whatever comes is bounded, and what does not fit is an error.
//
// A connection carries one request. The host speaks first:
//
//	host                          agent
//	hello                       → hello {protocol, boot nonce, epoch, features}
//	resume {epoch, now, …}      → hello
//	shutdown                    → hello, then the guest reboots
//	exec {args, env, …}         → started {pid} or failed {reason}
//	  stdin*, stdin end         → stdout*, stderr*, stdout end, stderr end
//	  resize*, signal*          → exit {code, signal}
//	  credit*                   → credit*
//	  exit ack
//	exec {detach, …}            → started {pid} or failed {reason}
//	signal                      → hello, or failed when no main command runs
//	copy {put, path, …}         → credit*, stdin end when it has failed
//	  stdin*, stdin end         → copied {what, reason, …} or failed {reason}
//	copy {path, …}              → stdout*, stdout end, copied {what, reason, …} or failed {reason}
//	  credit*
//
// On the connection that says "up" the guest speaks first: it sends its hello, the host answers with exit ack. So it does
// on the connections of a detached main command, one after the other until an exit was acknowledged:
//
//	host                          agent
//	                            ← hello
//	hello                       → started {pid}
//	  stdin end                 → stdout*, stderr*, stdout end, stderr end
//	  signal*, credit*          → exit {code, signal}
//	  exit ack
//
// The receiver of a stream ends it early with the same end frame in the opposite direction: nobody wants more of it.
//
// Output never holds anything else up: each of stdin, stdout and stderr has a window of Window bytes, and its receiver
// gives credit as it hands the bytes on. So a receiver can always read its connection, keeps at most a window per stream,
// and a signal or an exit status passes a stalled stdout.
package agentwire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Protocol is the version in a hello. Another version is refused by the host.
const Protocol = 1

const (
	// Window is how many bytes of a stream may be on the way without credit.
	Window = 256 << 10
	// MaxData is the longest payload of a data frame.
	MaxData = 32 << 10
	// maxRequest is the longest exec request: arguments and environment as JSON. Linux's own limit is 2 MiB by default
	// (a quarter of the stack's limit, execve(2)).
	maxRequest = 1 << 20
	maxJSON    = 16 << 10
	// MaxCopied is the longest report of a copy, which names what was skipped.
	MaxCopied  = 128 << 10
	headerSize = 5
)

// Kind is a frame's first byte.
type Kind uint8

// The kinds, with what their payloads hold.
const (
	KindHello     Kind = 1 + iota // from the host empty, from the agent Hello
	KindResume                    // Resume
	KindShutdown                  // empty
	KindExec                      // Exec
	KindStarted                   // Started
	KindFailed                    // Failed
	KindStdin                     // 1…MaxData bytes
	KindStdout                    // 1…MaxData bytes
	KindStderr                    // 1…MaxData bytes
	KindStdinEnd                  // empty
	KindStdoutEnd                 // empty
	KindStderrEnd                 // empty
	KindCredit                    // Credit
	KindResize                    // Size
	KindSignal                    // one byte: the signal's number, 1…64
	KindExit                      // Exit
	KindExitAck                   // empty
	KindCopy                      // Copy
	KindCopied                    // Copied
	kinds
)

// bounds are the shortest and the longest payload of each kind.
var bounds = [kinds]struct {
	name     string
	min, max int
}{
	KindHello:     {"hello", 0, maxJSON},
	KindResume:    {"resume", 2, maxJSON},
	KindShutdown:  {"shutdown", 0, 0},
	KindExec:      {"exec", 2, maxRequest},
	KindStarted:   {"started", 2, maxJSON},
	KindFailed:    {"failed", 2, maxJSON},
	KindStdin:     {"stdin", 1, MaxData},
	KindStdout:    {"stdout", 1, MaxData},
	KindStderr:    {"stderr", 1, MaxData},
	KindStdinEnd:  {"stdin end", 0, 0},
	KindStdoutEnd: {"stdout end", 0, 0},
	KindStderrEnd: {"stderr end", 0, 0},
	KindCredit:    {"credit", 5, 5},
	KindResize:    {"resize", 4, 4},
	KindSignal:    {"signal", 1, 1},
	KindExit:      {"exit", 8, 8},
	KindExitAck:   {"exit ack", 0, 0},
	KindCopy:      {"copy", 2, maxJSON},
	KindCopied:    {"copied", 2, MaxCopied},
}

func (k Kind) String() string {
	if k > 0 && k < kinds {
		return bounds[k].name
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// ErrInvalid is in the chain of every error about bytes that are no valid frame.
var ErrInvalid = errors.New("agentwire: invalid frame")

// Frame is one frame. Payload is valid until the Reader's next call.
type Frame struct {
	Kind    Kind
	Payload []byte
}

// Reader takes frames from a connection. It keeps one frame, of the length that its kind allows.
type Reader struct {
	r   io.Reader
	buf []byte
}

// NewReader reads from r, which should be buffered when frames are small.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next waits for a frame. At the end of the stream between two frames it returns io.EOF, within one
// io.ErrUnexpectedEOF.
func (r *Reader) Next() (Frame, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return Frame{}, err
	}
	kind, n := Kind(head[0]), int64(binary.BigEndian.Uint32(head[1:]))
	if kind == 0 || kind >= kinds {
		return Frame{}, fmt.Errorf("%w: %v", ErrInvalid, kind)
	}
	if limit := bounds[kind]; n < int64(limit.min) || n > int64(limit.max) {
		return Frame{}, fmt.Errorf("%w: %v of %d bytes, %d to %d are allowed", ErrInvalid, kind, n, limit.min, limit.max)
	}
	if int64(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	return Frame{Kind: kind, Payload: r.buf}, nil
}

// Append adds a frame's bytes to b. It is an error of the caller to give a payload that the kind does not allow.
func Append(b []byte, kind Kind, payload []byte) ([]byte, error) {
	if kind == 0 || kind >= kinds {
		return b, fmt.Errorf("%w: %v", ErrInvalid, kind)
	}
	if limit := bounds[kind]; len(payload) < limit.min || len(payload) > limit.max {
		return b, fmt.Errorf("%w: %v of %d bytes, %d to %d are allowed", ErrInvalid, kind, len(payload), limit.min, limit.max)
	}
	b = append(b, byte(kind))
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...), nil
}

// Encode returns v as JSON, for the kinds that carry it.
func Encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("agentwire: a message that JSON cannot hold: " + err.Error()) // our own plain structs
	}
	return b
}

// Expect checks the frame's kind and decodes its JSON into v, which may be nil for a kind without payload.
func (f Frame) Expect(kind Kind, v any) error {
	if f.Kind != kind {
		return fmt.Errorf("%w: %v where %v was expected", ErrInvalid, f.Kind, kind)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(f.Payload, v); err != nil {
		return fmt.Errorf("%w: %v: %v", ErrInvalid, kind, err)
	}
	return nil
}
