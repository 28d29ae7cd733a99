//go:build linux

package agent_test

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"smartvm/guest"
)

func TestATerminalHasASizeAndASession(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	out := newLines()
	in, typed := io.Pipe()
	defer in.Close()
	const script = `tty >/dev/null && stty size; echo $TERM; read _; stty size; trap 'echo caught; exit 5' INT; echo begins; cat`
	s, err := r.Start(bounded(t), guest.Command{Args: []string{"sh", "-c", script}, TTY: true, Rows: 33, Cols: 101, Stdin: in, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out.expect(t, "33 101")
	out.expect(t, "xterm")
	if err := s.Resize(40, 120); err != nil {
		t.Fatal(err)
	}
	io.WriteString(typed, "\n")
	out.expect(t, "40 120")
	out.expect(t, "begins")
	// Ctrl-C, which the terminal makes a SIGINT to all of them. It is typed again and again: one that comes between the
	// shell's echo and its cat is kept by the shell until cat has ended.
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for tick := time.Tick(20 * time.Millisecond); ; {
			select {
			case <-tick:
				io.WriteString(typed, "\x03")
			case <-ended:
				return
			}
		}
	}()
	status, err := s.Wait(bounded(t))
	if err != nil || status.Code != 5 || !strings.Contains(out.all(), "caught") {
		t.Fatalf("%v, %v; output %q", status, err, out.all())
	}
}

func TestTheEndOfInputIsTypedIntoATerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	status, err := newRig(t).run(t, guest.Command{Args: []string{"cat"}, TTY: true, Stdin: strings.NewReader("line\n"), Stdout: &out})
	if err != nil || status.Code != 0 || !strings.Contains(out.String(), "line\r\n") {
		t.Fatalf("%v, %v, %q", status, err, out.String())
	}
}

// lines collects output and lets a test wait for a piece of it.
type lines struct {
	mu   sync.Mutex
	more chan struct{}
	buf  bytes.Buffer
}

func newLines() *lines { return &lines{more: make(chan struct{}, 1)} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	select {
	case l.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (l *lines) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) expect(t *testing.T, want string) {
	t.Helper()
	timeout := time.After(patience)
	for !strings.Contains(l.all(), want) {
		select {
		case <-l.more:
		case <-timeout:
			t.Fatalf("no %q in %q", want, l.all())
		}
	}
}

func TestWhatKeepsATerminalOpenDoesNotHoldTheStatusUp(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	// The trap is inherited: the terminal's hang-up does not end it either.
	status, err := newRig(t).run(t, guest.Command{Args: []string{"sh", "-c", "trap '' HUP; sleep 30 & echo $!; exit 9"}, TTY: true, Stdout: &out})
	if err != nil || status.ExitCode() != 9 {
		t.Fatalf("%v, %v", status, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, syscall.SIGKILL)
}
