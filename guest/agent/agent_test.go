//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"smartvm/guest"
	"smartvm/internal/agentwire"
	"smartvm/internal/proof"
)

func TestTenMebibytesThroughCatComeBackEqual(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	sent := make([]byte, 10<<20)
	rand.Read(sent)
	var got bytes.Buffer
	status, err := r.run(t, guest.Command{Args: []string{"cat"}, Stdin: bytes.NewReader(sent), Stdout: &got})
	if err != nil || status != (guest.ExitStatus{}) {
		t.Fatalf("cat: %v, %v", status, err)
	}
	if !bytes.Equal(sent, got.Bytes()) {
		t.Fatalf("sent %d bytes, got %d others", len(sent), got.Len())
	}
}

func TestStdoutAndStderrStayApart(t *testing.T) {
	t.Parallel()
	var out, err bytes.Buffer
	status, e := newRig(t).run(t, guest.Command{Args: []string{"sh", "-c", "echo to-out; echo to-err >&2; exit 7"}, Stdout: &out, Stderr: &err})
	if e != nil || status.Code != 7 || out.String() != "to-out\n" || err.String() != "to-err\n" {
		t.Fatalf("%v, %v, stdout %q, stderr %q", status, e, out.String(), err.String())
	}
}

func TestEnvironmentFolderAndArgumentsArriveAsGiven(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out bytes.Buffer
	_, err := newRig(t).run(t, guest.Command{
		Args: []string{"sh", "-c", `pwd; echo "$A|$PATH|$HOME|$LANG"; printf '<%s>' "$@"`, "sh", "", "a b", "$(id)", "ü\n"},
		Env:  []string{"A=first", "A=x=y z", "PATH=/usr/bin:/bin"}, Dir: dir, Stdout: &out,
	})
	want := dir + "\nx=y z|/usr/bin:/bin|" + home(t) + "|C.UTF-8\n<><a b><$(id)><ü\n>"
	if err != nil || out.String() != want {
		t.Fatalf("%v, got %q, want %q", err, out.String(), want)
	}
}

// home is root's home by this machine's passwd file.
func home(t *testing.T) string {
	b, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(line, ":"); f[0] == "root" {
			return f[5]
		}
	}
	return "/root"
}

func TestACommandThatCannotStartSaysWhyAsAShellWould(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		what   string
		cmd    guest.Command
		reason guest.Reason
		code   int
	}{
		{"a name that is nowhere", guest.Command{Args: []string{"smartvm-no-such-program"}}, guest.NotFound, 127},
		{"a path that is not there", guest.Command{Args: []string{dir + "/none"}}, guest.NotFound, 127},
		{"an interpreter that is not there", guest.Command{Args: []string{write("script", "#!/no/such\n", 0o755)}}, guest.NotFound, 127},
		{"a folder", guest.Command{Args: []string{dir}}, guest.NotExecutable, 126},
		{"no permission", guest.Command{Args: []string{write("data", "x", 0o644)}}, guest.NotExecutable, 126},
		{"no format that the kernel knows", guest.Command{Args: []string{write("garbage", "\x00\x01\x02", 0o755)}}, guest.NotExecutable, 126},
		{"a file in PATH without permission", guest.Command{Args: []string{"data"}, Env: []string{"PATH=" + dir}}, guest.NotExecutable, 126},
		{"a user that is not there", guest.Command{Args: []string{"true"}, User: "nobody-like-this"}, guest.BadUser, 126},
		{"a group that is not there", guest.Command{Args: []string{"true"}, User: "root:no-such-group"}, guest.BadUser, 126},
		{"a folder that is not there", guest.Command{Args: []string{"true"}, Dir: dir + "/none"}, guest.BadDir, 126},
		{"a folder that is a file", guest.Command{Args: []string{"true"}, Dir: dir + "/data"}, guest.BadDir, 126},
		{"an argument beyond the kernel's limit", guest.Command{Args: []string{"true", strings.Repeat("x", 200<<10)}}, guest.TooBig, 126},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, err := r.run(t, c.cmd)
			var refused *guest.StartError
			if !errors.As(err, &refused) || refused.Reason != c.reason || refused.ExitCode() != c.code {
				t.Fatalf("got %v (%+v), want %v, %d", err, refused, c.reason, c.code)
			}
		})
	}
}

func TestARequestWithoutACommandOrWithANULNeverLeavesTheHost(t *testing.T) {
	t.Parallel()
	a := guest.New(func(context.Context, uint32) (net.Conn, error) { panic("dialled") })
	for _, cmd := range []guest.Command{{}, {Args: []string{""}}, {Args: []string{"a\x00b"}}, {Args: []string{"a"}, Env: []string{"A=\x00"}}} {
		if _, err := a.Start(t.Context(), cmd); err == nil {
			t.Errorf("%q was sent", cmd.Args)
		}
	}
}

func TestSignalsReachTheWholeProcessGroup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	out, in := io.Pipe()
	defer in.Close()
	// The shell waits for a child, so that both must get the signal for the session to end.
	s, err := r.Start(bounded(t), guest.Command{Args: []string{"sh", "-c", "echo up; sleep 1000; echo not reached"}, Stdout: in})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, out)
	if err := s.Signal(15); err != nil {
		t.Fatal(err)
	}
	status, err := s.Wait(bounded(t))
	if err != nil || status != (guest.ExitStatus{Signal: 15}) || status.ExitCode() != 143 {
		t.Fatalf("%v, %v", status, err)
	}
}

func TestACommandRunsAsTheUserItWasGiven(t *testing.T) {
	proof.Host(t)
	t.Parallel()
	r := newRig(t)
	for spec, want := range map[string]string{
		"":            "0 0",
		"root":        "0 0",
		"nobody":      "65534 65534",
		"65534":       "65534 65534",
		"1234:4321":   "1234 4321",
		"nobody:root": "65534 0",
		"1234":        "1234 0",
		"0:65534":     "0 65534",
	} {
		var out bytes.Buffer
		_, err := r.run(t, guest.Command{Args: []string{"sh", "-c", "echo $(id -u) $(id -g)"}, User: spec, Stdout: &out})
		if got := strings.TrimSpace(out.String()); err != nil || got != want {
			t.Errorf("user %q: %v, got %q, want %q", spec, err, got, want)
		}
	}
}

func TestManyCommandsRunAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			var out bytes.Buffer
			status, err := r.run(t, guest.Command{Args: []string{"sh", "-c", fmt.Sprintf("cat; exit %d", i)}, Stdin: strings.NewReader(fmt.Sprint(i)), Stdout: &out})
			if err != nil || status.Code != i || out.String() != fmt.Sprint(i) {
				t.Errorf("command %d: %v, %v, %q", i, status, err, out.String())
			}
		})
	}
	wg.Wait()
}

// stalled is a writer that takes nothing until it is released.
type stalled struct {
	once    sync.Once
	reached chan struct{}
	release chan struct{}
}

func newStalled() *stalled {
	return &stalled{reached: make(chan struct{}), release: make(chan struct{})}
}

func (s *stalled) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.reached) })
	<-s.release
	return len(p), nil
}

func TestAStalledReaderCostsBoundedMemoryAndHoldsNothingElseUp(t *testing.T) {
	r := newRig(t) // not parallel: it measures memory
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	out := newStalled()
	errs := newLines()
	s, err := r.Start(bounded(t), guest.Command{Args: []string{"sh", "-c", "trap 'echo caught >&2; exit 9' USR1; while :; do head -c 1048576 /dev/zero & wait $!; done"},
		Stdout: out, Stderr: errs})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	<-out.reached
	if err := s.Signal(10); err != nil {
		t.Fatal(err)
	}
	errs.expect(t, "caught") // signal and stderr pass the stalled stdout
	runtime.GC()
	runtime.ReadMemStats(&after)
	// Both sides of the agent are in this process: a window each, twice for the buffers that are being filled.
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4*agentwire.Window {
		t.Errorf("memory grew by %d bytes", grown)
	}
	close(out.release)
	status, err := s.Wait(bounded(t))
	if err != nil || status.ExitCode() != 9 && status.Signal != 10 {
		t.Fatalf("%v, %v", status, err)
	}
}

func TestAWriterThatFailsClosesTheStreamForTheCommand(t *testing.T) {
	t.Parallel()
	failed := errors.New("no more")
	status, err := newRig(t).run(t, guest.Command{Args: []string{"yes"}, Stdout: failing{failed}})
	if !errors.Is(err, failed) || status.Signal != int(syscall.SIGPIPE) {
		t.Fatalf("%v, %v", status, err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestACommandThatClosesItsInputEndsTheFeeding(t *testing.T) {
	t.Parallel()
	status, err := newRig(t).run(t, guest.Command{Args: []string{"head", "-c", "10"}, Stdin: endless{}})
	if err != nil || status.Code != 0 {
		t.Fatalf("%v, %v", status, err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestAConnectionThatEndsHangsTheCommandUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for what, script := range map[string]string{
		"that dies of SIGHUP": "echo $$; exec sleep 1000",
		"that ignores it":     "trap '' HUP; echo $$; while :; do sleep 1000; done",
	} {
		t.Run(what, func(t *testing.T) {
			out := newLines()
			s, err := r.Start(bounded(t), guest.Command{Args: []string{"sh", "-c", script}, Stdout: out})
			if err != nil {
				t.Fatal(err)
			}
			out.expect(t, "\n")
			fd := pidfd(t, s.PID())
			s.Close()
			if _, err := s.Wait(bounded(t)); !errors.Is(err, guest.ErrLost) {
				t.Errorf("Wait: %v", err)
			}
			waitGone(t, fd)
		})
	}
}

func TestWhatACommandLeavesBehindDoesNotHoldItsStatusUp(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	status, err := newRig(t).run(t, guest.Command{Args: []string{"sh", "-c", "sleep 30 & echo $!; exit 3"}, Stdout: &out})
	if err != nil || status.Code != 3 {
		t.Fatalf("%v, %v", status, err)
	}
	var pid int
	if _, err := fmt.Sscan(out.String(), &pid); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, syscall.SIGKILL)
}
