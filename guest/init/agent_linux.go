package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"smartvm/guest"
	"smartvm/guest/agent"
	"smartvm/internal/portmux"
)

const (
	// upAttempts bounds how often the host is told that we are up where nobody there listens, upPause is the first wait
	// between two attempts and upPauseMax the longest.
	upAttempts = 12
	upPause    = 20 * time.Millisecond
	upPauseMax = 2 * time.Second
)

// runAgent is the agent's process. It returns its exit code.
func runAgent() int {
	outliveHangup()
	t, err := findTransport()
	if err != nil {
		say("no agent: %v", err)
		return exitNoTransport
	}
	server := agent.NewServer(agent.Config{
		Boot:   bootID(),
		Kernel: kernelRelease(),
		Resume: agent.Restore,
		DialMain: func(ctx context.Context) (net.Conn, error) {
			return t.dial(ctx, guest.MainPort)
		},
		Shutdown: func(why string) {
			say("shutting down: %s", why)
			unix.Kill(1, unix.SIGINT) // Ctrl-Alt-Del to our init, and to an image's
		},
	})
	l, err := t.listen()
	if err != nil {
		say("agent: listen: %v", err)
		return 1
	}
	go t.sayUp(server)
	say("agent: %v", server.Serve(l))
	return 1
}

// outliveHangup keeps this process alive when its terminal hangs up. An ignored signal would be ignored by every command,
// too (signal(7)); one that is caught is not.
func outliveHangup() { signal.Notify(make(chan os.Signal, 1), unix.SIGHUP) }

// bootID is the kernel's: random at each boot (random(4)), and the same in all clones of a snapshot.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "-", "")
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// transport is the way between the agent and the host.
type transport interface {
	listen() (net.Listener, error)
	// dial connects to a port of the host; listen was called before.
	dial(ctx context.Context, port uint32) (net.Conn, error)
	// sayUp tells the host that the agent is up, again whenever the host was replaced.
	sayUp(*agent.Server)
}

// virtio device ids (the virtio specification, 5).
const (
	virtioConsole = "0x0003"
	virtioVsock   = "0x0013"
)

// findTransport waits for the VM's device: our virtio-serial port in the emulator, vsock with Firecracker. The port
// counts where there are both.
func findTransport() (transport, error) {
	var t transport
	err := await(func() bool {
		if path := namedPort(portmux.PortName); path != "" {
			t = &serialPort{path: path}
			return true
		}
		// A console's ports come up one by one a little after it.
		if hasVirtio(virtioVsock) && !hasVirtio(virtioConsole) {
			t = vsockTransport{}
			return true
		}
		return false
	})
	if err != nil && hasVirtio(virtioVsock) {
		return vsockTransport{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("neither a virtio-serial port %q nor a vsock device: %w", portmux.PortName, err)
	}
	return t, nil
}

// sayUp tells the host once, trying again while it does not listen yet.
func sayUp(s *agent.Server, dial func() (net.Conn, error)) {
	pause := upPause
	for range upAttempts {
		conn, err := dial()
		if err == nil {
			err = s.SayUp(conn)
			conn.Close()
		}
		if err == nil {
			return
		}
		<-time.After(pause)
		pause = min(2*pause, upPauseMax)
	}
	// The host asks when it wants to know.
}

// vsockTransport is Firecracker's. Its listener survives a restore, its connections do not.
type vsockTransport struct{}

func (vsockTransport) listen() (net.Listener, error) {
	return vsock.ListenContextID(unix.VMADDR_CID_ANY, guest.AgentPort, nil)
}

// dial does not heed ctx: the kernel gives up after two seconds (vsock(7), SO_VM_SOCKETS_CONNECT_TIMEOUT).
func (vsockTransport) dial(_ context.Context, port uint32) (net.Conn, error) {
	conn, err := vsock.Dial(vsock.Host, port, nil)
	if err != nil {
		return nil, err // not a nil *vsock.Conn in an interface
	}
	return conn, nil
}

func (v vsockTransport) sayUp(s *agent.Server) {
	sayUp(s, func() (net.Conn, error) { return v.dial(context.Background(), guest.UpPort) })
}

// serialPort is the emulator's. A host that was replaced begins a new session.
type serialPort struct {
	path string
	mux  *portmux.Guest
}

func (p *serialPort) listen() (net.Listener, error) {
	port, err := openPort(p.path)
	if err != nil {
		return nil, err
	}
	p.mux = portmux.NewGuest(port)
	return p.mux.Listen(guest.AgentPort)
}

func (p *serialPort) sayUp(s *agent.Server) {
	var session uint64
	for {
		var err error
		if session, err = p.mux.Session(context.Background(), session); err != nil {
			return // the port failed: Serve says so
		}
		sayUp(s, func() (net.Conn, error) { return p.dialUp() })
	}
}

func (p *serialPort) dial(ctx context.Context, port uint32) (net.Conn, error) {
	return p.mux.Dial(ctx, port)
}

func (p *serialPort) dialUp() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deviceTimeout)
	defer cancel()
	return p.dial(ctx, guest.UpPort)
}
