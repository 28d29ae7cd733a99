package unixsock

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// folder is a folder whose path has exactly the given length; 0 is as short as can be.
func folder(t *testing.T, length int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "us")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for length > 0 && len(dir) < length {
		part := min(length-len(dir)-1, 200)
		if rest := length - len(dir) - 1 - part; rest == 1 {
			part-- // a part of its own needs two bytes
		}
		dir = filepath.Join(dir, strings.Repeat("d", part))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestASocketIsReachedWhateverItsPathsLength(t *testing.T) {
	t.Parallel()
	for _, length := range []int{0, MaxPath, MaxPath + 1, 250, 1000} {
		if length > MaxPath && runtime.GOOS != "linux" {
			continue
		}
		const name = "/s.sock"
		path := folder(t, max(0, length-len(name))) + name
		if length > 0 && len(path) != length {
			t.Fatalf("the path has %d bytes, want %d", len(path), length)
		}
		l, err := Listen(path)
		if err != nil {
			t.Errorf("%d: %v", length, err)
			continue
		}
		if got := l.Addr().String(); got != path {
			t.Errorf("%d: listens at %q", length, got)
		}
		if _, err := Listen(path); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%d: a second listener: %v", length, err)
		}
		accepted := make(chan error, 1)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				_, err = io.WriteString(conn, "hello")
				conn.Close()
			}
			accepted <- err
		}()
		conn, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatalf("%d: %v", length, err)
		}
		if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
			t.Errorf("%d: %q %v", length, got, err)
		}
		conn.Close()
		if err := <-accepted; err != nil {
			t.Errorf("%d: %v", length, err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("%d: %v", length, err)
		}
		l.Close() // a second time
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%d: the socket is still there: %v", length, err)
		}
		if _, err := Dial(t.Context(), path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%d: nothing there: %v", length, err)
		}
	}
}

func TestAnAbandonedSocketRefuses(t *testing.T) {
	t.Parallel()
	for _, length := range []int{0, 300} {
		if length > MaxPath && runtime.GOOS != "linux" {
			continue
		}
		dir := folder(t, length)
		path := filepath.Join(dir, "s.sock")
		short := filepath.Join(folder(t, 0), "s.sock")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		if err := os.Rename(short, path); err != nil {
			t.Fatal(err)
		}
		if _, err := Dial(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%d: %v", length, err)
		}
	}
}

func TestAPathThatCannotBeShortenedIsRefused(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		strings.Repeat("s", MaxPath+1),              // in the working folder
		"/tmp/" + strings.Repeat("s", MaxPath),      // the name alone is too long
		"/nowhere/" + strings.Repeat("s/", MaxPath), // no such folder
	} {
		if _, err := Dial(t.Context(), path); err == nil {
			t.Errorf("dialled %s", path)
		}
		if _, err := Listen(path); err == nil {
			t.Errorf("listens at %s", path)
		}
	}
}

func TestADialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, length := range []int{0, 300} {
		if _, err := Dial(ctx, filepath.Join(folder(t, length), "s")); err == nil {
			t.Errorf("%d: dialled", length)
		}
	}
}

func FuzzDial(f *testing.F) {
	f.Add("/tmp/x")
	f.Add(strings.Repeat("/a", 200))
	f.Add("\x00" + strings.Repeat("b", 200))
	f.Fuzz(func(t *testing.T, path string) {
		if strings.HasPrefix(path, "@") || strings.Contains(path, "\x00") {
			return // an abstract socket: somebody may listen there
		}
		conn, err := Dial(t.Context(), "/nowhere/"+path)
		if err == nil {
			conn.Close()
			t.Errorf("dialled %q", path)
		}
	})
}
