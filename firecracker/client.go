package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"smartvm/internal/unixsock"
)

// The limits of calls whose context has no deadline. They start when the call is sent, not while it waits for another.
const (
	CallTimeout     = 10 * time.Second // an ordinary call takes well below a second (Firecracker's own tests: 700 ms)
	StateTimeout    = 45 * time.Second // pause and resume: Firecracker itself gives the vCPUs 30 s (vmm/lib.rs)
	StartTimeout    = time.Minute      // actions: a start maps and may prefault the guest's memory
	SnapshotTimeout = 10 * time.Minute // creating syncs the whole memory to the disk
)

// Client speaks Firecracker's API over its Unix socket. Calls may come from several goroutines; they are sent one at a
// time over one connection, as the VMM has one API thread and few connections, and never closes one. Close it.
type Client struct {
	path string
	turn chan struct{} // holds a token while a call is under way

	mu      sync.Mutex
	version Version // zero: not known
	idle    *wire   // the connection between two calls; nil when there is none
	closes  int     // how often Close was called
}

// NewClient returns a client of the socket at path, of any length. It connects with the first call.
func NewClient(path string) *Client {
	return &Client{path: path, turn: make(chan struct{}, 1)}
}

// SetVersion tells the client which version is running, so that it need not ask when a request has a field that not
// every version knows.
func (c *Client) SetVersion(v Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = v
}

// Version is the running version as far as the client knows it, else the zero Version.
func (c *Client) Version() Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// Path is the socket's path.
func (c *Client) Path() string { return c.path }

// Reply is what the VMM answered, whatever it was.
type Reply struct {
	Status int
	Body   []byte // as it came, JSON or not; empty for most successes
	OK     bool   // a status from 200 to 299
}

// Do sends any request, also one that has no typed call. The body is marshalled to JSON; nil sends none. A refusal is a
// Reply that is not OK and no error; errors are *[TransportError] and *[UnsupportedFieldError].
func (c *Client) Do(ctx context.Context, method, path string, body any) (Reply, error) {
	if err := checkRequest(method, path); err != nil {
		return Reply{}, err
	}
	var encoded []byte
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			return Reply{}, fmt.Errorf("%s %s: the body cannot be made JSON: %w", method, path, err)
		}
	}
	if err := c.gate(ctx, method, path, encoded); err != nil {
		return Reply{}, err
	}
	return c.send(ctx, method, path, encoded)
}

// Close closes the connection, at once or after the call that is under way. The client can be used again and then
// connects anew.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closes++
	if c.idle != nil {
		c.idle.conn.Close()
		c.idle = nil
	}
}

func (c *Client) put(ctx context.Context, path string, body any) error {
	_, err := c.call(ctx, http.MethodPut, path, body)
	return err
}

func (c *Client) patch(ctx context.Context, path string, body any) error {
	_, err := c.call(ctx, http.MethodPatch, path, body)
	return err
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var value T
	body, err := c.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return value, err
	}
	if err := json.Unmarshal(body, &value); err != nil {
		var none T
		return none, &TransportError{Method: http.MethodGet, Path: path, Sent: true,
			Err: fmt.Errorf("the reply is not what it should be: %w (it begins %.80q)", err, body)}
	}
	return value, nil
}

func (c *Client) call(ctx context.Context, method, path string, body any) ([]byte, error) {
	reply, err := c.Do(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	if !reply.OK {
		return nil, &APIError{Method: method, Path: path, Status: reply.Status, Fault: fault(reply.Body), Body: reply.Body}
	}
	return reply.Body, nil
}

// gate refuses what the running version does not know. Only then is the version needed, and asked for if unknown.
func (c *Client) gate(ctx context.Context, method, path string, body []byte) error {
	additions := asked(method, path, body)
	if len(additions) == 0 {
		return nil
	}
	running := c.Version()
	if running.IsZero() {
		var err error
		if running, err = c.GetVersion(ctx); err != nil {
			return fmt.Errorf("%s %s: which version is running? %w", method, path, err)
		}
	}
	return gate(running, additions)
}

func (c *Client) send(ctx context.Context, method, path string, body []byte) (Reply, error) {
	fail := func(sent bool, err error) (Reply, error) {
		return Reply{}, &TransportError{Method: method, Path: path, Sent: sent, Err: err}
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return fail(false, fmt.Errorf("another call is still under way: %w", context.Cause(ctx)))
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit(path),
			fmt.Errorf("no reply within %v: %w", limit(path), context.DeadlineExceeded))
		defer cancel()
	}

	w, closes, err := c.connection(ctx)
	if err != nil {
		return fail(false, err)
	}
	reply, reusable, err := w.exchange(ctx, method, path, body)
	c.release(w, closes, reusable)
	if err != nil {
		return fail(true, err)
	}
	return reply, nil
}

// connection takes the idle connection or makes one.
func (c *Client) connection(ctx context.Context) (w *wire, closes int, err error) {
	c.mu.Lock()
	w, closes, c.idle = c.idle, c.closes, nil
	c.mu.Unlock()
	if w != nil && w.alive() {
		return w, closes, nil
	}
	if w != nil {
		w.conn.Close()
	}
	conn, err := unixsock.Dial(ctx, c.path)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, 0, err
	}
	return newWire(conn), closes, nil
}

// release keeps a connection for the next call, or closes it.
func (c *Client) release(w *wire, closes int, reusable bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !reusable || closes != c.closes {
		w.conn.Close()
		return
	}
	c.idle = w
}

// adopt takes over a connection that was made already.
func (c *Client) adopt(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = newWire(conn)
}

// limit is how long a call may take when its context does not say.
func limit(path string) time.Duration {
	switch path {
	case "/snapshot/create", "/snapshot/load":
		return SnapshotTimeout
	case "/actions":
		return StartTimeout
	case "/vm":
		return StateTimeout
	}
	return CallTimeout
}

// fault finds the message in a refusal's body. Firecracker answers {"fault_message": …} for what the API refuses, and
// for what its HTTP server refuses { "error": "…" } with a raw line end, which is no JSON (micro_http, server.rs).
func fault(body []byte) string {
	var reply struct {
		Fault string `json:"fault_message"`
		Error string `json:"error"`
	}
	text := bytes.TrimSpace(body)
	if json.Unmarshal(text, &reply) == nil {
		if reply.Fault != "" {
			return reply.Fault
		}
		if reply.Error != "" {
			return reply.Error
		}
	}
	if rest, ok := bytes.CutPrefix(text, []byte(`{ "error": "`)); ok {
		text = bytes.TrimSuffix(rest, []byte(`" }`))
	}
	return clip(text)
}

// clip bounds a text from the other side for an error message.
func clip(text []byte) string {
	const most = 4 << 10
	if len(text) > most {
		return string(bytes.ToValidUTF8(text[:most], nil)) + "…"
	}
	return string(bytes.ToValidUTF8(text, nil))
}
