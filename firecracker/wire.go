package firecracker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	maxReply   = 16 << 20 // bytes of a body; the largest reply is the metadata, 50 KiB unless allowed more
	maxHeader  = 64 << 10 // bytes of status line and headers
	maxInterim = 4        // interim replies (1xx) before the reply
)

// wire is one connection to the VMM: HTTP/1.1, one request at a time. It is not net/http's Transport, as that gives every
// connection two goroutines and logs what a VMM says unasked.
type wire struct {
	conn net.Conn
	from io.LimitedReader // conn, as much of it as a reply may take
	in   *bufio.Reader    // from
}

func newWire(conn net.Conn) *wire {
	w := &wire{conn: conn, from: io.LimitedReader{R: conn}}
	w.in = bufio.NewReader(&w.from)
	return w
}

// exchange sends a request and reads the reply. The connection may be used for another one only when it is reusable.
func (w *wire) exchange(ctx context.Context, method, path string, body []byte) (reply Reply, reusable bool, err error) {
	// An end of the context wakes reads and writes by a deadline in the past.
	stop := context.AfterFunc(ctx, func() { w.conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			reusable = false // the deadline is being set, or was
			if err != nil {
				err = context.Cause(ctx)
			}
		}
	}()
	// Header and body in one write. A failed one may still have an answer: of a VMM that refused early.
	_, unsent := w.conn.Write(encode(method, path, body))
	response, err := w.head(method)
	if err != nil {
		if unsent != nil {
			err = fmt.Errorf("%w; sent in part: %w", err, unsent)
		}
		return Reply{}, false, err
	}
	w.from.N += maxReply
	text, err := io.ReadAll(io.LimitReader(response.Body, maxReply+1))
	switch {
	case len(text) > maxReply || err != nil && w.from.N <= 0:
		return Reply{}, false, fmt.Errorf("the reply is longer than %d MiB", maxReply>>20)
	case err != nil:
		return Reply{}, false, err
	}
	reply = Reply{Status: response.StatusCode, Body: text, OK: response.StatusCode >= 200 && response.StatusCode < 300}
	reusable = !response.Close && w.in.Buffered() == 0 && unsent == nil && (reply.OK || fromAPI(text))
	return reply, reusable, nil
}

// encode makes what goes over the wire. There is always a Content-Length where there can be a body: Firecracker does not
// decode chunks. A GET has none: it is refused for one (micro_http).
func encode(method, path string, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n", method, path)
	if body != nil {
		b.WriteString("Content-Type: application/json\r\n")
	}
	if body != nil || method != http.MethodGet && method != http.MethodDelete {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// head reads status line and headers of the reply.
func (w *wire) head(method string) (*http.Response, error) {
	w.from.N = maxHeader
	for range maxInterim {
		if _, err := w.in.Peek(1); err != nil {
			return nil, err // io.EOF, which ReadResponse would not tell from an end in the middle
		}
		response, err := http.ReadResponse(w.in, &http.Request{Method: method})
		switch {
		case err != nil && w.from.N <= 0:
			return nil, fmt.Errorf("the reply's header is longer than %d KiB", maxHeader>>10)
		case err != nil && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isNet(err)):
			return nil, err
		case err != nil:
			return nil, fmt.Errorf("the reply is no HTTP: %.200s", err.Error()) // it quotes the reply, at any length
		case response.StatusCode >= 200:
			return response, nil
		}
	}
	return nil, errors.New("interim replies without end")
}

func isNet(err error) bool {
	var failed net.Error
	return errors.As(err, &failed)
}

// fromAPI tells a refusal of the API's from one of the HTTP server below it, which may have lost its place in the stream:
// after a body over its limit Firecracker takes the rest of it for requests and answers those, too.
func fromAPI(body []byte) bool {
	var refusal struct {
		Fault *string `json:"fault_message"`
	}
	return json.Unmarshal(body, &refusal) == nil && refusal.Fault != nil
}

// checkRequest refuses what would not be one request line.
func checkRequest(method, path string) error {
	const methods = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if method == "" || strings.Trim(method, methods) != "" {
		return fmt.Errorf("%.40q is no HTTP method", method)
	}
	if !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("%.200q is no path of a URL", path)
	}
	return nil
}
