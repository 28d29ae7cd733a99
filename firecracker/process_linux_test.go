package firecracker

import (
	"context"
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
	"time"

	"golang.org/x/sys/unix"

	"smartvm/internal/unixsock"
)

// startOwn starts this binary as a VMM. The returned console is its output.
func startOwn(ctx context.Context, t testing.TB, how string, more ...string) (*Process, *Console, error) {
	t.Helper()
	dir := shortDir(t)
	console := newConsole(t, dir, "console")
	p, err := Start(ctx, Command{Path: os.Args[0], Args: append([]string{how}, more...), Dir: dir, Socket: "fc.sock",
		Console: console})
	if err == nil {
		t.Cleanup(func() { p.end() })
		return p, console, nil
	}
	if _, lost := os.Lstat(filepath.Join(dir, "fc.sock")); !errors.Is(lost, os.ErrNotExist) {
		t.Errorf("%s: a failed start left its socket: %v", how, lost)
	}
	return p, console, err
}

func TestAnEarlyEndTellsCodeMeaningAndLastOutput(t *testing.T) {
	t.Parallel()
	for how, want := range map[string]struct {
		stage Stage
		exit  Exit
		text  string
	}{
		"early":  {StageSocket, Exit{Code: 152}, "the VMM ended (exit code 152: a bad configuration file); its last output: on stdout | Error: [31mBadConfiguration"},
		"killed": {StageSocket, Exit{Code: -1, Signal: syscall.SIGKILL}, "the VMM ended (signal 9: killed by SIGKILL"},
		"hangup": {StageAPI, Exit{Code: 134}, "the VMM ended (exit code 134: aborted: the VMM panicked); its last output: thread panicked"},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			_, _, err := startOwn(t.Context(), t, how)
			var failed *StartError
			if !errors.As(err, &failed) || failed.Stage != want.stage || failed.Exit == nil {
				t.Fatalf("got %v", err)
			}
			if failed.Exit.Code != want.exit.Code || failed.Exit.Signal != want.exit.Signal || failed.Exit.At.IsZero() {
				t.Errorf("exit %+v", failed.Exit)
			}
			if !strings.Contains(err.Error(), want.text) {
				t.Errorf("%q\ndoes not say\n%q", err, want.text)
			}
		})
	}
}

func TestStderrIsPreferredForTheLastOutput(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	_, err := Start(t.Context(), Command{Path: os.Args[0], Args: []string{"early"}, Dir: dir, Socket: "fc.sock",
		Console: newConsole(t, dir, "out"), Stderr: newConsole(t, dir, "err")})
	var failed *StartError
	if !errors.As(err, &failed) || string(failed.Output) != "Error: \x1b[31mBadConfiguration\n" {
		t.Errorf("got %v", err)
	}
}

func TestACancelledStartKillsAndReapsTheVMM(t *testing.T) {
	t.Parallel()
	for how, stage := range map[string]Stage{"never": StageSocket, "deaf": StageSocket, "mute": StageAPI} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			console, err := NewConsole(filepath.Join(dir, "console"))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var once sync.Once
			console.Drain(writerFunc(func(b []byte) (int, error) {
				once.Do(cancel) // it said that it waits
				return len(b), nil
			}))
			defer console.Close()
			_, err = Start(ctx, Command{Path: os.Args[0], Args: []string{how}, Dir: dir, Socket: "fc.sock", Console: console})
			var failed *StartError
			if !errors.As(err, &failed) || !errors.Is(err, context.Canceled) || failed.Exit != nil {
				t.Fatalf("got %v", err)
			}
			if failed.Stage != stage && how != "mute" { // a mute one may be cancelled before we have connected
				t.Errorf("stage %s", failed.Stage)
			}
			if _, err := os.Lstat(filepath.Join(dir, "fc.sock")); !errors.Is(err, os.ErrNotExist) {
				t.Error("the socket is still there")
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestAnAPIThatAnswersGarbageIsNoStart(t *testing.T) {
	t.Parallel()
	_, _, err := startOwn(t.Context(), t, "garbage")
	var failed *StartError
	var lost *TransportError
	if !errors.As(err, &failed) || failed.Stage != StageAPI || !errors.As(err, &lost) || lost.Path != "/version" {
		t.Errorf("got %v", err)
	}
}

func TestAnUnsafeVersionIsNotKeptUnlessItIsNamed(t *testing.T) {
	t.Parallel()
	_, _, err := startOwn(t.Context(), t, "unsafe")
	var unsafe *UnsafeVersionError
	if !errors.As(err, &unsafe) || unsafe.CVE != "CVE-2026-5747" {
		t.Errorf("got %v", err)
	}
	dir := shortDir(t)
	p, err := Start(t.Context(), Command{Path: os.Args[0], Args: []string{"unsafe"}, Dir: dir, Socket: "fc.sock",
		AllowVersions: []string{"v1.15.0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.end()
	if v := p.Client().Version(); v != (Version{1, 15, 0, ""}) {
		t.Errorf("the client believes in %s", v)
	}
}

func TestACommandThatCannotWorkRunsNothing(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := unixsock.Listen(filepath.Join(dir, "used.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	good := Command{Path: os.Args[0], Args: []string{"obedient"}, Dir: dir, Socket: "fc.sock"}
	for name, test := range map[string]struct {
		change func(*Command)
		stage  Stage
		want   string
	}{
		"no binary":           {func(c *Command) { c.Path = "" }, StageCommand, "no binary"},
		"no folder":           {func(c *Command) { c.Dir = "" }, StageCommand, "no working folder"},
		"no socket":           {func(c *Command) { c.Socket = "" }, StageCommand, "no API socket"},
		"108 bytes":           {func(c *Command) { c.Socket = strings.Repeat("s", 108) }, StageCommand, "is 108 bytes long"},
		"folder is missing":   {func(c *Command) { c.Socket = "run/fc.sock" }, StageCommand, "no such file"},
		"folder is a file":    {func(c *Command) { c.Socket = "file/fc.sock" }, StageCommand, ""},
		"socket is a file":    {func(c *Command) { c.Socket = "file" }, StageCommand, "is no socket"},
		"socket is used":      {func(c *Command) { c.Socket = "used.sock" }, StageCommand, "somebody listens"},
		"binary is missing":   {func(c *Command) { c.Path = filepath.Join(dir, "fc") }, StageSpawn, "no such file or directory"},
		"binary is no binary": {func(c *Command) { c.Path = file }, StageSpawn, "permission denied"},
	} {
		command := good
		test.change(&command)
		_, err := Start(t.Context(), command)
		var failed *StartError
		if !errors.As(err, &failed) || failed.Stage != test.stage || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("the file is %q now: %v", b, err)
	}
	entries, err := os.ReadDir(dir)
	if len(entries) != 2 || err != nil {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "fc.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	p, err := Start(t.Context(), Command{Path: os.Args[0], Args: []string{"obedient"}, Dir: dir, Socket: "fc.sock"})
	if err != nil {
		t.Fatal(err)
	}
	p.end()
}

func TestTheVMMGetsNothingThatItWasNotGiven(t *testing.T) {
	t.Parallel()
	// The working folder's path is far longer than a socket's address takes.
	dir := filepath.Join(shortDir(t), strings.Repeat("d", 100), strings.Repeat("e", 100))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	console := newConsole(t, dir, "console")
	p, err := Start(t.Context(), Command{Path: os.Args[0], Args: []string{"surroundings", "$HOME; *"}, Dir: dir,
		Socket: "fc.sock", Env: []string{"ONLY=this"}, Console: console})
	if err != nil {
		t.Fatal(err)
	}
	defer p.end()
	console.Settle()
	want := fmt.Sprintf("%q env=%q wd=%s session=true nonblock=true stdin=/dev/null fds=3\n", []string{"$HOME; *"},
		[]string{"ONLY=this"}, dir)
	if got := string(console.Tail()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTheLadderGoesDownRungByRung(t *testing.T) {
	t.Parallel()
	const short = 30 * time.Millisecond
	ladder := Ladder{{ByCtrlAltDel, short}, {BySIGTERM, 5 * time.Second}, {BySIGKILL, 5 * time.Second}}
	stubborn := Ladder{{ByCtrlAltDel, short}, {BySIGTERM, short}, {BySIGKILL, 5 * time.Second}}
	for _, test := range []struct {
		how    string
		ladder Ladder
		want   Method
		signal syscall.Signal
	}{
		{"obedient", ladder, BySIGTERM, syscall.SIGTERM}, // its guest does not hear the keys
		{"stubborn", stubborn, BySIGKILL, syscall.SIGKILL},
		{"obedient", Kill(), BySIGKILL, syscall.SIGKILL},
		{"paused", DefaultLadder("x86_64"), BySIGTERM, syscall.SIGTERM},
	} {
		t.Run(test.how, func(t *testing.T) {
			t.Parallel()
			p, console, err := startOwn(t.Context(), t, test.how)
			if err != nil {
				t.Fatal(err)
			}
			if !p.Running() || p.Exit() != (Exit{}) {
				t.Error("not running before the stop")
			}
			var callers sync.WaitGroup
			for range 2 { // at once
				callers.Go(func() {
					if got, err := p.Stop(t.Context(), test.ladder); got != test.want || err != nil {
						t.Errorf("stopped by %q, want %q: %v", got, test.want, err)
					}
				})
			}
			callers.Wait()
			if exit := p.Exit(); exit.Signal != test.signal || exit.Code != -1 {
				t.Errorf("exit %+v", exit)
			}
			if p.Running() {
				t.Error("still running")
			}
			if _, err := os.Lstat(p.socket); !errors.Is(err, os.ErrNotExist) {
				t.Error("the socket is still there")
			}
			if err := p.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("a signal to an ended VMM: %v", err)
			}
			if got, err := p.Stop(t.Context(), nil); got != test.want || err != nil {
				t.Errorf("a later stop: %q %v", got, err)
			}
			if test.how == "paused" && len(console.Tail()) > 0 {
				t.Errorf("a paused guest was asked: %s", console.Tail())
			}
		})
	}
}

func TestStopGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	p, _, err := startOwn(t.Context(), t, "stubborn")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Stop(ctx, Ladder{{BySIGTERM, time.Minute}}); !errors.Is(err, context.DeadlineExceeded) || !p.Running() {
		t.Errorf("got %v", err)
	}
	if _, err := p.Stop(t.Context(), Ladder{{BySIGTERM, time.Millisecond}, {"prayer", time.Millisecond}}); err == nil ||
		!strings.Contains(err.Error(), "still runs after the last rung") || !strings.Contains(err.Error(), "prayer") {
		t.Errorf("got %v", err)
	}
	if by, err := p.Stop(t.Context(), Kill()); by != BySIGKILL || err != nil {
		t.Errorf("%q %v", by, err)
	}
}

func TestAVMMThatEndedByItselfNeedsNoStop(t *testing.T) {
	t.Parallel()
	p, _, err := startOwn(t.Context(), t, "obedient")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if _, err := os.Lstat(p.socket); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket is still there")
	}
	if by, err := p.Stop(t.Context(), nil); by != ByItself || err != nil {
		t.Errorf("%q %v", by, err)
	}
}

func TestTheLadderKnowsArm(t *testing.T) {
	t.Parallel()
	if l := DefaultLadder("x86_64"); len(l) != 3 || l[0] != (Rung{ByCtrlAltDel, 5 * time.Second}) {
		t.Error(l)
	}
	if l := DefaultLadder("aarch64"); len(l) != 2 || l[0] != (Rung{BySIGTERM, 5 * time.Second}) || l[1] != (Rung{BySIGKILL, time.Second}) {
		t.Error(l)
	}
}

// Not parallel: it counts what this process has.
func TestFiftyRoundsLeaveNoDescriptorChildOrGoroutine(t *testing.T) {
	dir := shortDir(t)
	round := func(how string) {
		console, err := NewConsole(filepath.Join(dir, "console"))
		if err != nil {
			t.Fatal(err)
		}
		console.Drain(io.Discard)
		p, err := Start(t.Context(), Command{Path: os.Args[0], Args: []string{how}, Dir: dir, Socket: "fc.sock", Console: console})
		if err == nil {
			if _, err := p.Client().Info(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := p.Stop(t.Context(), Kill()); err != nil {
				t.Error(err)
			}
			p.Client().Info(t.Context()) // refused: nobody is there
			p.Client().Close()
		} else if how == "obedient" {
			t.Fatal(err)
		}
		if err := console.Close(); err != nil {
			t.Error(err)
		}
	}
	round("obedient")
	fds, goroutines := descriptors(t), runtime.NumGoroutine()
	for i := range 50 {
		round([]string{"obedient", "early", "hangup", "garbage", "unsafe"}[i%5])
	}
	if now := descriptors(t); now != fds {
		t.Errorf("%d descriptors, %d before", now, fds)
	}
	if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != unix.ECHILD {
		t.Errorf("there are children: %v", err)
	}
	// A connection's goroutines end a moment after it is closed: nothing tells when.
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > goroutines && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if now := runtime.NumGoroutine(); now > goroutines {
		t.Errorf("%d goroutines, %d before", now, goroutines)
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("left in the folder: %v", entries)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
