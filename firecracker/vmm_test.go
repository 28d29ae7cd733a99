package firecracker

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// request is what a client sent.
type request struct {
	method, path string
	header       http.Header
	length       int64 // Content-Length, -1 without one
	body         []byte
}

// vmm is an API server in this process that notes what it is sent. It knows nothing of Firecracker: that is what the
// descriptions and the real one are for.
type vmm struct {
	path string

	mu          sync.Mutex
	request     *request
	connections int
}

// startVMM listens on a socket and answers by answer, or every request with an empty object.
func startVMM(t testing.TB, answer http.HandlerFunc) *vmm {
	t.Helper()
	s := &vmm{path: filepath.Join(shortDir(t), "api.sock")}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.connections++
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			s.mu.Lock()
			s.request = &request{r.Method, r.URL.Path, r.Header, r.ContentLength, body}
			s.mu.Unlock()
			if answer != nil {
				answer(w, r)
				return
			}
			w.Write([]byte("{}"))
		}),
	}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
	return s
}

// client connects to the server for the time of the test.
func (s *vmm) client(t testing.TB) *Client {
	c := NewClient(s.path)
	t.Cleanup(c.Close)
	return c
}

// last is the request that came since the last call, or nil.
func (s *vmm) last() *request {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.request
	s.request = nil
	return r
}

// shortDir is a folder for sockets: t.TempDir's path grows with the test's name, over what a socket's address takes.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
