package firecracker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An awful server says what it likes on the first connection.
func awful(t *testing.T, answer func(net.Conn)) *Client {
	t.Helper()
	path := filepath.Join(shortDir(t), "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			answer(conn)
		}
	}()
	client := NewClient(path)
	t.Cleanup(func() { client.Close(); l.Close(); <-done })
	return client
}

func TestAnAwfulReplyIsAClearError(t *testing.T) {
	t.Parallel()
	say := func(s string) func(net.Conn) { return func(c net.Conn) { io.WriteString(c, s) } }
	for name, test := range map[string]struct {
		answer func(net.Conn)
		want   string
	}{
		"garbage":       {say("\x00\x01\x02 garbage\r\n\r\n"), "the reply is no HTTP: malformed"},
		"nothing":       {func(net.Conn) {}, "the connection ended without a reply"},
		"half a header": {say("HTTP/1.1 200 \r\nContent-Length: 2\r\n"), "the connection ended in the middle of the reply"},
		"half a body": {say("HTTP/1.1 200 \r\nContent-Length: 40\r\n\r\n{\"id\":"),
			"the connection ended in the middle of the reply"},
		"interim alone":  {flood("", "HTTP/1.1 102 \r\n\r\n"), "interim replies without end"},
		"another shape":  {say("HTTP/1.1 200 \r\nContent-Length: 6\r\n\r\n[1, 2]"), "the reply is not what it should be"},
		"no JSON":        {say("HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\nyes"), "the reply is not what it should be"},
		"endless header": {flood("HTTP/1.1 200 \r\n", "X-Header: and so on and so forth\r\n"), "the reply's header is longer than 64 KiB"},
		"100 MB": {flood("HTTP/1.1 200 \r\nContent-Length: 104857600\r\n\r\n", strings.Repeat("x", 32<<10)),
			"the reply is longer than 16 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := awful(t, test.answer).Info(t.Context())
			var lost *TransportError
			if !errors.As(err, &lost) || !lost.Sent || lost.Method != "GET" || lost.Path != "/" {
				t.Fatalf("got %#v", err)
			}
			if !strings.HasPrefix(err.Error(), "GET /: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q does not say GET /: … %s", err, test.want)
			}
			if len(err.Error()) > 500 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

// flood sends a beginning, and then the same until nobody takes it any more.
func flood(begin, more string) func(net.Conn) {
	return func(c net.Conn) {
		io.WriteString(c, begin)
		for {
			if _, err := io.WriteString(c, more); err != nil {
				return
			}
		}
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, err, want error) {
		t.Helper()
		var lost *TransportError
		if !errors.As(err, &lost) || !lost.Sent || !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		if !strings.HasPrefix(err.Error(), "PUT /boot-source: ") {
			t.Error(err)
		}
	}
	t.Run("deadline", func(t *testing.T) {
		t.Parallel()
		client := awful(t, func(c net.Conn) { io.Copy(io.Discard, c) }) // says nothing until the client hangs up
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		check(t, client.PutBootSource(ctx, BootSource{}), context.DeadlineExceeded)
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		client := awful(t, func(c net.Conn) { cancel(); io.Copy(io.Discard, c) })
		check(t, client.PutBootSource(ctx, BootSource{}), context.Canceled)
	})
}

func FuzzReply(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.1 200 \r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 400 \r\nContent-Length: 21\r\n\r\n{\"fault_message\":\"x\"}",
		"HTTP/1.1 400 \r\nContent-Length: 20\r\n\r\n{ \"error\": \"a\nb.\" }",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"HTTP/1.1 200 \r\nContent-Length: 99999999999999999999\r\n\r\n",
		"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n{\"ba",
		"\x00\xff", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, reply []byte) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			if _, err := http.ReadRequest(bufio.NewReader(far)); err == nil {
				far.Write(reply)
			}
		}()
		client := NewClient("/nowhere")
		defer client.Close()
		client.adopt(near)
		_, err := client.GetVMConfig(t.Context())
		var refused *APIError
		var lost *TransportError
		if err != nil && !errors.As(err, &refused) && !errors.As(err, &lost) {
			t.Errorf("%T: %v", err, err)
		}
		if err != nil && len(err.Error()) > 3*len(reply)+5<<10 {
			t.Errorf("the message has %d bytes", len(err.Error()))
		}
	})
}
