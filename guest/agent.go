package guest

import (
	"context"
	"fmt"
	"net"
	"time"

	"smartvm/internal/agentwire"
)

// Agent calls the agent of one guest. It holds no connection between calls, so it works before the guest is up (the
// calls fail), and after a restore. It is safe for concurrent use.
type Agent struct {
	dial DialFunc
}

// New returns the agent behind dial.
func New(dial DialFunc) *Agent { return &Agent{dial: dial} }

// Hello is what an agent says about itself.
type Hello struct {
	Protocol int      // version of the protocol, always the one that this package speaks
	Boot     string   // a number that the agent chose at boot; clones of one snapshot share it
	Epoch    uint64   // 0 after boot, then what the last Resume said
	Features []string // what this agent can do beyond the protocol's base
	Kernel   string   // the guest's kernel release
}

// Hello asks the agent who it is. It is also the way to find out whether it answers at all.
func (a *Agent) Hello(ctx context.Context) (Hello, error) {
	return a.ask(ctx, "hello", agentwire.KindHello, nil)
}

// Ping returns nil when the agent answers.
func (a *Agent) Ping(ctx context.Context) error {
	_, err := a.Hello(ctx)
	return err
}

// ResumeRequest is what a guest must learn after it was restored from a snapshot.
type ResumeRequest struct {
	Epoch   uint64    // higher than any before
	Now     time.Time // the time that it is
	Entropy []byte    // fresh random bytes for the kernel's generator, at most 512; two clones must not get the same
}

// Resume makes the agent set the guest's clock, reseed the kernel's random number generator and raise its epoch.
func (a *Agent) Resume(ctx context.Context, r ResumeRequest) (Hello, error) {
	if len(r.Entropy) > agentwire.MaxEntropy {
		return Hello{}, fmt.Errorf("guest: resume: %d bytes of entropy, %d are the most", len(r.Entropy), agentwire.MaxEntropy)
	}
	payload := agentwire.Encode(agentwire.Resume{Epoch: r.Epoch, Now: r.Now, Entropy: r.Entropy})
	hello, err := a.ask(ctx, "resume", agentwire.KindResume, payload)
	if err == nil && hello.Epoch != r.Epoch {
		err = fmt.Errorf("guest: resume: the agent is at epoch %d, %d was asked for", hello.Epoch, r.Epoch)
	}
	return hello, err
}

// Shutdown asks the guest to end its processes, write everything to its disks and reboot, which ends the VMM. It returns
// when the agent has agreed, before any of it happened.
func (a *Agent) Shutdown(ctx context.Context) error {
	_, err := a.ask(ctx, "shutdown", agentwire.KindShutdown, nil)
	return err
}

// ReadUp reads the agent's hello from a connection that the guest opened to UpPort, acknowledges it and closes the
// connection.
func ReadUp(ctx context.Context, conn net.Conn) (Hello, error) {
	defer conn.Close()
	c, done := bound(ctx, conn)
	defer done()
	hello, err := readHello(c)
	if err == nil {
		err = c.Send(agentwire.KindExitAck, nil)
	}
	if err != nil {
		return Hello{}, fmt.Errorf("guest: up: %w", cause(ctx, err))
	}
	return hello, nil
}

// ask sends one request that a hello answers.
func (a *Agent) ask(ctx context.Context, what string, kind agentwire.Kind, payload []byte) (Hello, error) {
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	conn, err := a.dial(ctx, AgentPort)
	if err != nil {
		return Hello{}, fmt.Errorf("guest: %s: connect to the agent: %w", what, err)
	}
	defer conn.Close()
	c, done := bound(ctx, conn)
	defer done()
	if err = c.Send(kind, payload); err == nil {
		var hello Hello
		if hello, err = readHello(c); err == nil {
			return hello, nil
		}
	}
	return Hello{}, fmt.Errorf("guest: %s: %w", what, cause(ctx, err))
}

func readHello(c *agentwire.Conn) (Hello, error) {
	f, err := c.Next()
	if err != nil {
		return Hello{}, err
	}
	if f.Kind == agentwire.KindFailed {
		return Hello{}, decodeFailed(f)
	}
	h, err := agentwire.DecodeHello(f)
	return Hello(h), err
}

// bound makes the context's end, and replyTimeout, the end of every read and write on conn until done is called.
func bound(ctx context.Context, conn net.Conn) (c *agentwire.Conn, done func()) {
	conn.SetDeadline(time.Now().Add(replyTimeout))
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return agentwire.NewConn(conn), func() {
		if stop() {
			conn.SetDeadline(time.Time{})
		}
	}
}

// cause says that the context ended where that is why a read or write failed.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", ctx.Err(), err)
	}
	return err
}
