//go:build linux

package agent_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"smartvm/guest"
)

// mainHost is the host's listener for the detached main command.
type mainHost struct{ *net.UnixListener }

func listenForMain(t *testing.T, r *rig) mainHost {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.main})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return mainHost{l}
}

// accept takes the agent's next connection.
func (h mainHost) accept(t *testing.T, stdout, stderr io.Writer) *guest.Session {
	t.Helper()
	h.SetDeadline(time.Now().Add(patience))
	conn, err := h.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s, err := guest.AcceptMain(bounded(t), conn, stdout, stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (r *rig) detach(t *testing.T, script string) int {
	t.Helper()
	pid, err := r.StartDetached(bounded(t), guest.Command{Args: []string{"sh", "-c", script}, Main: true})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// fifo makes a FIFO on which a command waits until the test opens it.
func fifo(t *testing.T) (path string, open func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, func() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		f.Close()
	}
}

func TestADetachedMainCommandBringsItsOutputAndStatusToTheHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := listenForMain(t, r)
	pid := r.detach(t, "read x || echo no input; seq 200000; echo err >&2; exit 42")
	var out, errs bytes.Buffer
	s := h.accept(t, &out, &errs)
	if s.PID() != pid || s.Hello().Kernel != "6.1.0-test" {
		t.Errorf("pid %d, started as %d; hello %+v", s.PID(), pid, s.Hello())
	}
	status, err := s.Wait(bounded(t))
	if err != nil || status.Code != 42 || errs.String() != "err\n" {
		t.Fatalf("%v, %v, stderr %q", status, err, errs.String())
	}
	if got := out.String(); !strings.HasPrefix(got, "no input\n1\n2\n") || !strings.HasSuffix(got, "\n200000\n") || strings.Count(got, "\n") != 200001 {
		t.Errorf("%d bytes, %d lines", len(got), strings.Count(got, "\n"))
	}
	r.goesDown(t)
}

func TestADetachedMainCommandIsNotHeldUpWhileNobodyListensAndItsLastOutputIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	done := filepath.Join(t.TempDir(), "done")
	wait, open := fifo(t)
	r.detach(t, "seq 300000; echo kept >&2; touch "+done+"; cat "+wait+"; exit 3")
	open() // returns when the command has come that far with nobody listening
	if _, err := os.Stat(done); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	status, err := listenForMain(t, r).accept(t, &out, &errs).Wait(bounded(t))
	if err != nil || status.Code != 3 || errs.String() != "kept\n" {
		t.Fatalf("%v, %v, stderr %q", status, err, errs.String())
	}
	if out.Len() != 256<<10 || !bytes.HasSuffix(out.Bytes(), []byte("\n299999\n300000\n")) {
		t.Errorf("%d bytes, ends in %q", out.Len(), out.Bytes()[max(0, out.Len()-20):])
	}
	r.goesDown(t)
}

func TestTheAgentDialsAgainWhenTheHostIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := listenForMain(t, r)
	first, openFirst := fifo(t)
	second, openSecond := fifo(t)
	r.detach(t, fmt.Sprintf("echo one; cat %s; echo two; cat %s; echo three; exit 5", first, second))
	out := newLines()
	s := h.accept(t, out, nil)
	out.expect(t, "one\n")
	s.Close()
	if _, err := s.Wait(bounded(t)); !errors.Is(err, guest.ErrLost) {
		t.Errorf("Wait: %v", err)
	}
	openFirst()
	out = newLines()
	s = h.accept(t, out, nil)
	out.expect(t, "two\n")
	// A restore makes it dial anew, although this connection still stands.
	if _, err := r.Resume(bounded(t), guest.ResumeRequest{Epoch: 7}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(bounded(t)); !errors.Is(err, guest.ErrLost) {
		t.Errorf("Wait: %v", err)
	}
	out = newLines()
	s = h.accept(t, out, nil)
	if s.Hello().Epoch != 7 {
		t.Errorf("hello: %+v", s.Hello())
	}
	openSecond()
	if status, err := s.Wait(bounded(t)); err != nil || status.Code != 5 || out.all() != "three\n" {
		t.Fatalf("%v, %v, %q", status, err, out.all())
	}
	r.goesDown(t)
}

func TestAStalledHostHoldsADetachedCommandUpOnlyWhileItListens(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := listenForMain(t, r)
	wait, open := fifo(t)
	r.detach(t, "head -c 3000000 /dev/zero; cat "+wait+"; echo end")
	out := newStalled()
	s := h.accept(t, out, nil)
	<-out.reached
	s.Close()
	close(out.release)
	open() // it got past its 3 MB
	var rest bytes.Buffer
	if status, err := h.accept(t, &rest, nil).Wait(bounded(t)); err != nil || status.Code != 0 || !strings.HasSuffix(rest.String(), "end\n") {
		t.Fatalf("%v, %v, %d bytes", status, err, rest.Len())
	}
	r.goesDown(t)
}

func TestAHostThatListensAndNeverAnswersHoldsADetachedCommandUpForAWhileOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := listenForMain(t, r) // the kernel accepts for it
	wait, open := fifo(t)
	r.detach(t, "head -c 3000000 /dev/zero; cat "+wait+"; echo end")
	open()
	for {
		h.SetDeadline(time.Now().Add(patience))
		conn, err := h.Accept()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		s, err := guest.AcceptMain(bounded(t), conn, &out, nil)
		if err != nil {
			continue // one that the agent has given up
		}
		if status, err := s.Wait(bounded(t)); err != nil || status.Code != 0 || !strings.HasSuffix(out.String(), "end\n") {
			t.Fatalf("%v, %v, %d bytes", status, err, out.Len())
		}
		break
	}
	r.goesDown(t)
}

func TestASignalOfItsSessionReachesADetachedMainCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := listenForMain(t, r)
	r.detach(t, "echo up; exec sleep 1000")
	out := newLines()
	s := h.accept(t, out, nil)
	out.expect(t, "up\n")
	if err := s.Signal(15); err != nil {
		t.Fatal(err)
	}
	if status, err := s.Wait(bounded(t)); err != nil || status.Signal != 15 {
		t.Fatalf("%v, %v", status, err)
	}
	r.goesDown(t)
}

func TestAWriterThatFailsDoesNotEndADetachedMainCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := listenForMain(t, r)
	r.detach(t, "head -c 3000000 /dev/zero; echo over >&2; exit 6")
	failed := errors.New("no more")
	var errs bytes.Buffer
	status, err := h.accept(t, failing{failed}, &errs).Wait(bounded(t))
	if !errors.Is(err, failed) || status.Code != 6 || errs.String() != "over\n" {
		t.Fatalf("%v, %v, %q", status, err, errs.String())
	}
	r.goesDown(t)
}

func TestTheGuestGoesDownWhenNobodyTakesTheStatusOfItsDetachedMainCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.detach(t, "exit 1")
	if _, err := r.StartDetached(bounded(t), guest.Command{Args: []string{"true"}, Main: true}); !isReason(err, guest.MainTaken) {
		t.Errorf("a second main command: %v", err)
	}
	r.goesDown(t)
}

func TestTheMainCommandGetsSignalsWhetherDetachedOrNot(t *testing.T) {
	t.Parallel()
	const script = "trap 'echo caught; exit 9' USR1; echo up; while :; do sleep 1000 & wait $!; done"
	r := newRig(t)
	if err := r.SignalMain(bounded(t), 15); !isReason(err, guest.NoMain) {
		t.Errorf("without a main command: %v", err)
	}
	h := listenForMain(t, r)
	r.detach(t, script)
	out := newLines()
	s := h.accept(t, out, nil)
	signalled(t, r, s, out)
	r.goesDown(t)

	r, out = newRig(t), newLines()
	s, err := r.Start(bounded(t), guest.Command{Args: []string{"sh", "-c", script}, Main: true, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	signalled(t, r, s, out)
	r.goesDown(t)
	if err := r.SignalMain(bounded(t), 15); !isReason(err, guest.NoMain) {
		t.Errorf("after its end: %v", err)
	}
}

func signalled(t *testing.T, r *rig, s *guest.Session, out *lines) {
	t.Helper()
	out.expect(t, "up\n")
	if err := r.SignalMain(bounded(t), 10); err != nil {
		t.Fatal(err)
	}
	// The group has it: the sleep died of it, or the shell runs its trap.
	if status, err := s.Wait(bounded(t)); err != nil || status.Code != 9 {
		t.Fatalf("%v, %v; %q", status, err, out.all())
	}
}

func TestADetachedCommandOutlivesItsConnectionWithNothingToReadOrWrite(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := t.TempDir()
	wait, open := fifo(t)
	pid, err := r.StartDetached(bounded(t), guest.Command{Dir: dir,
		Args: []string{"sh", "-c", `s=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2); echo "$s" > streams; cat ` + wait}})
	if err != nil {
		t.Fatal(err)
	}
	fd := pidfd(t, pid)
	open()
	waitGone(t, fd)
	got, err := os.ReadFile(filepath.Join(dir, "streams"))
	if err != nil || string(got) != strings.Repeat("/dev/null\n", 3) {
		t.Errorf("%v, %q", err, got)
	}
	if _, err := r.StartDetached(bounded(t), guest.Command{Args: []string{"smartvm-none"}}); !isReason(err, guest.NotFound) {
		t.Errorf("a program that is not there: %v", err)
	}
	select {
	case why := <-r.down:
		t.Errorf("the guest goes down: %s", why)
	default:
	}
}

func TestStartDetachedTakesNoStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, cmd := range []guest.Command{{Args: []string{"true"}, Stdin: strings.NewReader("")}, {Args: []string{"true"}, Stdout: io.Discard},
		{Args: []string{"true"}, Stderr: io.Discard}, {Args: []string{"true"}, TTY: true}, {}} {
		if _, err := r.StartDetached(bounded(t), cmd); err == nil {
			t.Errorf("%+v was started", cmd)
		}
	}
	if _, err := r.Start(bounded(t), guest.Command{Args: []string{"true"}, Detach: true}); err == nil {
		t.Error("Start detached a command")
	}
}
