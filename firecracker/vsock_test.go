package firecracker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"smartvm/internal/unixsock"
)

// guestPort plays the VMM's end of the vsock socket: it reads the request and answers.
func guestPort(t *testing.T, answer func(request string, c net.Conn)) (path string) {
	t.Helper()
	path = filepath.Join(shortDir(t), "v.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		request := make([]byte, 64) // Firecracker takes it from one read, too
		n, _ := c.Read(request)
		answer(string(request[:n]), c)
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return path
}

func TestDialVsockLosesNoByteAfterTheHandshake(t *testing.T) {
	t.Parallel()
	path := guestPort(t, func(request string, c net.Conn) {
		if request != "CONNECT 4294967295\n" {
			t.Errorf("asked %q", request)
		}
		io.WriteString(c, "OK 1073741824\nOK and more\n") // in one piece
		io.Copy(c, c)
	})
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := DialVsock(ctx, path, 1<<32-1)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // bounds the dial, not the connection
	defer conn.Close()
	io.WriteString(conn, "echo")
	conn.(*net.UnixConn).CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "OK and more\necho" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

func TestDialVsockTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer, want string
		is           error
	}{
		"nobody listens": {"", "vsock port 52 of ", ErrNotListening},
		"half a line":    {"OK 10", `ends in "OK 10"`, nil},
		"no OK":          {"NO 52\n", `"NO 52"`, nil},
		"no number":      {"OK \x1b[2J\n", `\x1b[2J`, nil},
		"a large number": {"OK 4294967296\n", "not OK and a port", nil},
		"no line":        {strings.Repeat("A", 1000), "is no line", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := guestPort(t, func(_ string, c net.Conn) { io.WriteString(c, test.answer) })
			_, err := DialVsock(t.Context(), path, 52)
			if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("got %v", err)
			}
			if test.is == nil && errors.Is(err, ErrNotListening) {
				t.Errorf("%v is taken for nobody listening", err)
			}
		})
	}
	_, err := DialVsock(t.Context(), filepath.Join(shortDir(t), "none"), 1)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}

func TestDialVsockEndsWithItsContextWhileTheGuestIsNotUp(t *testing.T) {
	t.Parallel()
	silent := func(_ string, c net.Conn) { io.Copy(io.Discard, c) }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := DialVsock(ctx, guestPort(t, silent), 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	path := guestPort(t, func(_ string, c net.Conn) { stop(); io.Copy(io.Discard, c) })
	if _, err := DialVsock(ctx, path, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestListenVsockListensWhereTheVMMDials(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "v.sock")
	l, err := ListenVsock(path, 1024)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := unixsock.Dial(t.Context(), path+"_1024")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func FuzzVsockAnswer(f *testing.F) {
	for _, seed := range []string{"OK 52\n", "OK 52\nrest", "", "OK", "\n", "OK 99999999999\n", "\x00\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		near, far := net.Pipe()
		defer near.Close()
		go func() {
			defer far.Close()
			far.Read(make([]byte, 64))
			far.Write(answer)
		}()
		err := handshake(near, 52)
		line, _, whole := strings.Cut(string(answer), "\n")
		if ok := whole && checkAnswer(line) == nil; ok != (err == nil) && len(line) < 14 {
			t.Errorf("%q: %v", answer, err)
		}
	})
}
