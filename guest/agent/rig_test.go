//go:build linux

package agent_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"smartvm/guest"
	"smartvm/guest/agent"
	"smartvm/internal/agentwire"
)

// patience bounds every test: nothing in here takes as long.
const patience = 60 * time.Second

// rig is an agent in this process, with commands on this machine, reached over a Unix socket.
type rig struct {
	*guest.Agent
	server  *agent.Server
	down    chan string
	resumed chan agentwire.Resume
	sock    string
	main    string // the host's socket for the detached main command, when a test listens there
}

func newRig(tb testing.TB) *rig {
	tb.Helper()
	r := &rig{down: make(chan string, 1), resumed: make(chan agentwire.Resume, 1)}
	dir := tb.TempDir()
	r.sock, r.main = filepath.Join(dir, "agent.sock"), filepath.Join(dir, "main.sock")
	l, err := net.Listen("unix", r.sock)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	r.server = agent.NewServer(agent.Config{
		Boot:   "00112233445566778899aabbccddeeff",
		Kernel: "6.1.0-test",
		Resume: func(m agentwire.Resume) error { r.resumed <- m; return nil },
		DialMain: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", r.main)
		},
		Shutdown: func(why string) { r.down <- why },
	})
	go r.server.Serve(l)
	r.Agent = guest.New(func(ctx context.Context, port uint32) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.sock)
	})
	return r
}

// goesDown waits until the agent has asked for the guest's shutdown.
func (r *rig) goesDown(tb testing.TB) {
	tb.Helper()
	select {
	case <-r.down:
	case <-time.After(patience):
		tb.Fatal("the guest is not shut down")
	}
}

func bounded(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	return ctx
}

// run runs a command to its end.
func (r *rig) run(tb testing.TB, cmd guest.Command) (guest.ExitStatus, error) {
	tb.Helper()
	ctx := bounded(tb)
	s, err := r.Start(ctx, cmd)
	if err != nil {
		return guest.ExitStatus{}, err
	}
	defer s.Close()
	return s.Wait(ctx)
}

// BenchmarkAgent measures an agent in this process over a Unix socket, both directions and one `true`.
func BenchmarkAgent(b *testing.B) {
	const size = 64 << 20
	r := newRig(b)
	b.Run("stdin", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			r.run(b, guest.Command{Args: []string{"cat"}, Stdin: io.LimitReader(endless{}, size)})
		}
	})
	b.Run("stdout", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			r.run(b, guest.Command{Args: []string{"head", "-c", fmt.Sprint(size), "/dev/zero"}, Stdout: io.Discard})
		}
	})
	b.Run("true", func(b *testing.B) {
		for b.Loop() {
			if _, err := r.run(b, guest.Command{Args: []string{"true"}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
