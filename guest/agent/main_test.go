//go:build linux

package agent_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"smartvm/guest"
)

func TestTheMainCommandEndsTheGuestOnceItsStatusIsAcknowledged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	out := newStalled()
	s, err := r.Start(bounded(t), guest.Command{Args: []string{"echo", "x"}, Main: true, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	<-out.reached
	if _, err := r.Start(bounded(t), guest.Command{Args: []string{"true"}, Main: true}); !isReason(err, guest.MainTaken) {
		t.Errorf("a second main command: %v", err)
	}
	select {
	case why := <-r.down:
		t.Fatalf("shut down before the output was written: %s", why)
	default:
	}
	close(out.release)
	if _, err := s.Wait(bounded(t)); err != nil {
		t.Fatal(err)
	}
	r.goesDown(t)
}

func TestTheMainCommandOutlivesItsConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := r.Start(bounded(t), guest.Command{Args: []string{"sh", "-c", "cat " + fifo + "; head -c 3000000 /dev/zero"}, Main: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	select {
	case why := <-r.down:
		t.Fatalf("shut down with its connection: %s", why)
	case <-over(s):
	}
	f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	r.goesDown(t)
}

// over is closed when the session knows that its connection is gone.
func over(s *guest.Session) <-chan struct{} {
	done := make(chan struct{})
	go func() { s.Wait(context.Background()); close(done) }()
	return done
}

func TestAMainCommandThatCannotStartMayBeTriedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if _, err := r.Start(bounded(t), guest.Command{Args: []string{"smartvm-none"}, Main: true}); !isReason(err, guest.NotFound) {
		t.Fatal(err)
	}
	if _, err := r.run(t, guest.Command{Args: []string{"true"}, Main: true}); err != nil {
		t.Fatal(err)
	}
	r.goesDown(t)
}

func isReason(err error, reason guest.Reason) bool {
	var refused *guest.StartError
	return errors.As(err, &refused) && refused.Reason == reason
}

func TestResumeRaisesTheEpochAndHandsTimeAndEntropyOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	now := time.Now().UTC()
	hello, err := r.Resume(bounded(t), guest.ResumeRequest{Epoch: 3, Now: now, Entropy: []byte("salt")})
	if err != nil || hello.Epoch != 3 {
		t.Fatalf("%+v, %v", hello, err)
	}
	if got := <-r.resumed; !got.Now.Equal(now) || string(got.Entropy) != "salt" {
		t.Errorf("got %+v", got)
	}
	if _, err := r.Resume(bounded(t), guest.ResumeRequest{Epoch: 3, Now: now}); err == nil {
		t.Error("an epoch came twice")
	}
	if hello, err := r.Hello(bounded(t)); err != nil || hello.Epoch != 3 || hello.Kernel != "6.1.0-test" {
		t.Errorf("%+v, %v", hello, err)
	}
}

func TestShutdownIsAnsweredBeforeItBegins(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.Shutdown(bounded(t)); err != nil {
		t.Fatal(err)
	}
	r.goesDown(t)
}

func TestUpIsSaidAndAcknowledged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	host, theirs := net.Pipe()
	said := make(chan error, 1)
	go func() { said <- r.server.SayUp(theirs) }()
	hello, err := guest.ReadUp(bounded(t), host)
	if err != nil || hello.Boot != "00112233445566778899aabbccddeeff" {
		t.Fatalf("%+v, %v", hello, err)
	}
	if err := <-said; err != nil {
		t.Fatal(err)
	}
}
