package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"smartvm/emulator/machine"
	"smartvm/internal/portmux"
	"smartvm/internal/proof"
)

// portPair is a vsock with a guest's end in this process.
type portPair struct {
	path  string
	vsock *vsock
	agent *os.File // the guest's end of the port
}

func newPortPair(t *testing.T) portPair {
	t.Helper()
	spec := listenVsock(t)
	ours, theirs, err := socketpair("agent")
	do(t, "socketpair", err)
	p := portPair{path: spec.Path, vsock: newVsock(ours, spec, t.Logf), agent: theirs}
	t.Cleanup(func() {
		p.vsock.close()
		theirs.Close()
	})
	return p
}

func (p portPair) guest(t *testing.T) *portmux.Guest {
	t.Helper()
	conn, err := net.FileConn(p.agent)
	do(t, "FileConn", err)
	guest := portmux.NewGuest(conn)
	t.Cleanup(func() { conn.Close() })
	return guest
}

func listenVsock(t testing.TB) *machine.Vsock {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v.sock")
	listener, err := net.Listen("unix", path)
	do(t, "listen", err)
	t.Cleanup(func() { listener.Close() })
	return &machine.Vsock{CID: 3, Path: path, Listener: listener}
}

// client connects on the host. Its reads are bounded.
func client(t testing.TB, path, line string) *net.UnixConn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	do(t, "dial", err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(guestTimeout))
	if line != "" {
		_, err = io.WriteString(conn, line)
		do(t, "write", err)
	}
	return conn.(*net.UnixConn)
}

func TestAClientReachesTheGuestAndBothClose(t *testing.T) {
	t.Parallel()
	p := newPortPair(t)
	early := client(t, p.path, "CONNECT 52\nhello") // before the guest is up, and with bytes behind the line
	guest := p.guest(t)
	listener, err := guest.Listen(52)
	do(t, "listen", err)
	for _, dial := range []func() *net.UnixConn{
		func() *net.UnixConn { return early },
		func() *net.UnixConn { return client(t, p.path, "connect\t52 \nhello") },
	} {
		conn := dial()
		inside, err := listener.Accept()
		do(t, "accept", err)
		in, out := bufio.NewReader(conn), make([]byte, 5)
		if _, err := io.ReadFull(inside, out); err != nil || string(out) != "hello" {
			t.Fatalf("the guest reads %q, %v", out, err)
		}
		line, err := in.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "OK 10737418") {
			t.Fatalf("the client reads %q, %v", line, err)
		}
		do(t, "CloseWrite", conn.CloseWrite())
		if rest, err := io.ReadAll(inside); len(rest) != 0 || err != nil {
			t.Errorf("after the client's half-close the guest reads %q, %v", rest, err)
		}
		_, err = io.WriteString(inside, "still here")
		do(t, "write", err)
		do(t, "close", inside.Close())
		if rest, err := io.ReadAll(in); string(rest) != "still here" || err != nil {
			t.Errorf("after its half-close the client reads %q, %v", rest, err)
		}
	}
}

func TestAClientThatIsNotUnderstoodOrRefusedIsClosed(t *testing.T) {
	t.Parallel()
	p := newPortPair(t)
	p.guest(t)
	for _, line := range []string{"CONNECT 52\n", "HELLO 52\n", "CONNECT\n\n\n\n", "CONNECT -1\n", "CONNECT 4294967296\n", "CONNECT " + strings.Repeat("1", 100), "\n"} {
		if text, err := io.ReadAll(client(t, p.path, line)); len(text) != 0 {
			t.Errorf("to %q the answer is %q, %v", line, text, err)
		}
	}
}

func TestAClientThatLeavesIsForgotten(t *testing.T) {
	t.Parallel()
	p := newPortPair(t)
	client(t, p.path, "CONNECT 52\n").Close() // it never saw a guest
	guest := p.guest(t)
	listener, err := guest.Listen(53)
	do(t, "listen", err)
	conn := client(t, p.path, "CONNECT 53\n")
	inside, err := listener.Accept()
	do(t, "accept", err)
	_, err = inside.Write([]byte("x"))
	do(t, "write", err)
	_, err = bufio.NewReader(conn).ReadString('x')
	do(t, "read", err)
	do(t, "close", conn.Close())
	if _, err := io.Copy(io.Discard, inside); err != nil && !errors.Is(err, portmux.ErrReset) {
		t.Errorf("the guest reads %v", err)
	}
	// All slots come free again: so many connections as there are can be made.
	for range maxConnections {
		select {
		case p.vsock.slots <- struct{}{}:
		case <-time.After(guestTimeout):
			t.Fatal("a connection that is gone still counts")
		}
	}
	if text, _ := io.ReadAll(client(t, p.path, "")); len(text) != 0 {
		t.Errorf("above the limit the answer is %q", text)
	}
}

func TestTheGuestReachesWhoListensOnTheHost(t *testing.T) {
	t.Parallel()
	p := newPortPair(t)
	listener, err := net.Listen("unix", p.path+"_1024")
	do(t, "listen", err)
	defer listener.Close()
	guest := p.guest(t)
	ctx, cancel := context.WithTimeout(t.Context(), guestTimeout)
	defer cancel()
	// The answer comes with the first use: a guest that dials waits for it.
	dialled := make(chan error, 1)
	do(t, "Ready", p.vsock.host.Ready(ctx)) // before, the guest may be reset: it announced itself to a host that was there
	go func() {
		conn, err := guest.Dial(ctx, 1024)
		if err == nil {
			_, err = conn.Write([]byte("up"))
		}
		dialled <- err
	}()
	conn, err := listener.Accept()
	do(t, "accept", err)
	defer conn.Close()
	text := make([]byte, 2)
	if _, err := io.ReadFull(conn, text); err != nil || string(text) != "up" {
		t.Errorf("the host reads %q, %v", text, err)
	}
	do(t, "dial", <-dialled)
	if _, err := guest.Dial(ctx, 1025); !errors.Is(err, portmux.ErrRefused) {
		t.Errorf("nobody listens, and the guest is told %v", err)
	}
}

func TestCloseEndsWaitingAndOpenConnections(t *testing.T) {
	t.Parallel()
	p := newPortPair(t)
	waiting := client(t, p.path, "CONNECT 52\n")
	halfway := client(t, p.path, "CONN")
	p.vsock.close()
	for _, conn := range []net.Conn{waiting, halfway} {
		if text, err := io.ReadAll(conn); len(text) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the end the client reads %q, %v", text, err)
		}
	}
}

// TestTheAgentAnswersInARealGuestAndInItsClone boots the image's own init.
func TestTheAgentAnswersInARealGuestAndInItsClone(t *testing.T) {
	image := proof.Guest(t)
	c := newConsole()
	spec := machine.Spec{VCPUs: 1, MemoryMiB: 128, Kernel: filepath.Join(image, "vmlinux"), Initrd: filepath.Join(image, "initrd"),
		Args: "console=ttyS0 reboot=k panic=1 quiet", SerialOut: c, Vsock: listenVsock(t)}
	up := listenUp(t, spec.Vsock)
	early := spec.Vsock.Path
	m := start(t, spec)
	waiting := client(t, early, connectAgent)
	select {
	case <-up:
	case <-time.After(guestTimeout):
		t.Fatalf("the agent does not say that it is up; the console says\n%s", c.text)
	}
	expectAgent(t, waiting)
	if text, _ := io.ReadAll(client(t, spec.Vsock.Path, "CONNECT 9\n")); len(text) != 0 {
		t.Errorf("from a port where nobody listens comes %q", text)
	}

	do(t, "Pause", m.Pause(t.Context()))
	var state bytes.Buffer
	memory := filepath.Join(t.TempDir(), "memory")
	do(t, "Save", m.Save(t.Context(), &state, memory))
	do(t, "Resume", m.Resume(t.Context()))
	expectAgent(t, client(t, spec.Vsock.Path, connectAgent))

	spec.Vsock = listenVsock(t)
	listenUp(t, spec.Vsock)
	clone := New(Options{Warn: t.Logf})
	t.Cleanup(func() { clone.Close() })
	do(t, "Load", clone.Load(t.Context(), spec, &state, memory))
	do(t, "Resume", clone.Resume(t.Context()))
	expectAgent(t, client(t, spec.Vsock.Path, connectAgent))
}

// The agent's ports: package guest, which a leaf may not import.
const (
	connectAgent = "CONNECT 5386\n"
	upPort       = 5387
)

func listenUp(t *testing.T, spec *machine.Vsock) <-chan struct{} {
	listener, err := net.Listen("unix", fmt.Sprintf("%s_%d", spec.Path, upPort))
	do(t, "listen", err)
	t.Cleanup(func() { listener.Close() })
	up := make(chan struct{}, 16)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
			up <- struct{}{}
		}
	}()
	return up
}

func expectAgent(t *testing.T, conn net.Conn) {
	t.Helper()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "OK ") {
		t.Fatalf("the agent's port answers %q, %v", line, err)
	}
}
