package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// qmp is a client of QEMU's machine protocol: docs/interop/qmp-spec.txt in QEMU's source. Commands may be given by
// several goroutines; QEMU works them off one by one.
type qmp struct {
	conn    *net.UnixConn
	onEvent func(event)
	timeout atomic.Int64 // in nanoseconds; tests shorten it

	mu      sync.Mutex
	next    uint64
	pending map[uint64]chan message
	err     error         // why the client ended
	done    chan struct{} // closed then
}

// event is something that QEMU tells unasked.
type event struct {
	Name string
	Data json.RawMessage
}

// message is anything that QEMU sends.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	ID       *uint64         `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// request is what QEMU is sent.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// commandError is QEMU's refusal of a command.
type commandError struct {
	Command string
	Reason  string // QEMU's words
}

func (e *commandError) Error() string { return fmt.Sprintf("QEMU refused %s: %s", e.Command, e.Reason) }

// errHung says that QEMU did not answer in time.
var errHung = errors.New("QEMU hangs")

// newQMP takes conn over. onEvent is called in the order of the events, by the goroutine that reads, so it must not wait
// for a command.
func newQMP(conn *net.UnixConn, onEvent func(event)) *qmp {
	q := &qmp{conn: conn, onEvent: onEvent, pending: make(map[uint64]chan message), done: make(chan struct{})}
	q.timeout.Store(int64(commandTimeout))
	go q.read()
	return q
}

// execute gives a command and waits for its answer. file, if not nil, goes along with it. When ctx ends first the
// command's outcome is unknown. errHung: QEMU took longer than its time.
func (q *qmp) execute(ctx context.Context, command string, arguments any, file *os.File) (json.RawMessage, error) {
	answer, err := q.send(command, arguments, file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	limit := time.Duration(q.timeout.Load())
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case m := <-answer:
		if m.Error != nil {
			return nil, &commandError{Command: command, Reason: m.Error.Desc}
		}
		return m.Return, nil
	case <-q.done:
		return nil, fmt.Errorf("%s: %w", command, q.reason())
	case <-timer.C:
		return nil, fmt.Errorf("%w: no answer to %s within %v", errHung, command, limit)
	case <-ctx.Done():
		return nil, fmt.Errorf("QEMU's answer to %s: %w", command, ctx.Err())
	}
}

// send writes a command and returns where its answer will come. An answer that nobody waits for any more is dropped.
func (q *qmp) send(command string, arguments any, file *os.File) (<-chan message, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return nil, q.err
	}
	q.next++
	text, err := json.Marshal(request{command, arguments, q.next})
	if err != nil {
		return nil, err
	}
	var rights []byte
	if file != nil {
		conn, err := file.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := conn.Control(func(fd uintptr) { rights = unix.UnixRights(int(fd)) }); err != nil {
			return nil, err
		}
	}
	// A QEMU that does not read would block us here, with the lock held.
	limit := time.Duration(q.timeout.Load())
	q.conn.SetWriteDeadline(time.Now().Add(limit))
	n, _, err := q.conn.WriteMsgUnix(text, rights, nil)
	if err == nil && n < len(text) {
		_, err = q.conn.Write(text[n:])
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: it took no command for %v", errHung, limit)
	}
	if err != nil {
		q.failLocked(err)
		return nil, err
	}
	answer := make(chan message, 1)
	q.pending[q.next] = answer
	return answer, nil
}

// read dispatches what comes until the stream ends or breaks.
func (q *qmp) read() {
	lines := bufio.NewScanner(q.conn)
	lines.Buffer(make([]byte, 0, 4<<10), maxMessage)
	for lines.Scan() {
		if err := q.dispatch(lines.Bytes()); err != nil {
			q.fail(err)
			return
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		q.fail(fmt.Errorf("QEMU broke its protocol: a message of more than %d bytes", maxMessage))
	case err != nil:
		q.fail(fmt.Errorf("QEMU's control socket: %w", err))
	default:
		q.fail(errors.New("QEMU closed its control socket"))
	}
}

func (q *qmp) dispatch(line []byte) error {
	var m message
	if len(bytes.TrimSpace(line)) == 0 {
		return nil
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return fmt.Errorf("QEMU broke its protocol: %.80q: %w", line, err)
	}
	switch {
	case m.Event != "":
		q.onEvent(event{m.Event, m.Data})
		return nil
	case m.Greeting != nil:
		return nil
	case m.ID == nil || m.Return == nil && m.Error == nil:
		return fmt.Errorf("QEMU broke its protocol: %.80q is no answer, event or greeting", line)
	}
	q.mu.Lock()
	answer := q.pending[*m.ID]
	delete(q.pending, *m.ID)
	q.mu.Unlock()
	if answer == nil {
		return fmt.Errorf("QEMU broke its protocol: an answer to a command %d that was not given", *m.ID)
	}
	answer <- m
	return nil
}

// reason says why the client ended.
func (q *qmp) reason() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

// fail ends the client; only the first reason counts.
func (q *qmp) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failLocked(err)
}

func (q *qmp) failLocked(err error) {
	if q.err == nil {
		q.err = err
		close(q.done)
		q.conn.Close()
	}
}
