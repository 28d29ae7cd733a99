package record

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// This test binary, run with this word first, is another process that does what the next argument names.
const as = "as"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == as {
		if err := roles[os.Args[2]](os.Args[3:]); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var roles = map[string]func(args []string) error{
	// idle does nothing until its standard input ends.
	"idle": func([]string) error {
		fmt.Println("here")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	},
	// end does nothing at all.
	"end": func([]string) error { return nil },
	// hold holds a lock until its standard input ends: path, op.
	"hold": func(args []string) error {
		l, err := Acquire(context.Background(), args[0], args[1], func(h Holder) { fmt.Println("waits for", h.Op) })
		if err != nil {
			return err
		}
		fmt.Println("held")
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return err
		}
		return l.Release()
	},
	// count adds one to the number in a file, again and again: lock, file, how often.
	"count": func(args []string) error {
		rounds, err := strconv.Atoi(args[2])
		for i := 0; i < rounds && err == nil; i++ {
			err = countUp(args[0], args[1])
		}
		return err
	},
	// write replaces a record for ever: path, "true" for durable.
	"write": func(args []string) error {
		for i := 0; ; i++ {
			if err := Write(args[0], recordOfSize(i%50), args[1] == "true"); err != nil {
				return err
			}
			if i == 0 {
				fmt.Println("writes")
			}
		}
	},
	"full-disk": fillDisk,
	"jail":      jail,
	"container": container,
}

func countUp(lock, file string) error {
	l, err := Acquire(context.Background(), lock, "count", nil)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(n+1)), 0o600); err != nil {
		return err
	}
	return l.Release()
}

// other is another process.
type other struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
}

// begin starts this binary as somebody else; it is killed and waited for at the end of the test.
func begin(t *testing.T, role string, args ...string) *other {
	t.Helper()
	return beginAt(t, os.Args[0], "", role, args...)
}

func beginAt(t *testing.T, binary, dir, role string, args ...string) *other {
	t.Helper()
	cmd := exec.Command(binary, append([]string{as, role}, args...)...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	if role == "jail" || role == "container" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o := &other{t: t, cmd: cmd, stdin: stdin, lines: bufio.NewScanner(stdout)}
	t.Cleanup(o.kill)
	return o
}

func (o *other) pid() int { return o.cmd.Process.Pid }

// says waits for a line of the other process.
func (o *other) says(want string) {
	o.t.Helper()
	if !o.lines.Scan() {
		o.t.Fatalf("the other process ended before it said %q: %v", want, o.lines.Err())
	}
	if o.lines.Text() != want {
		o.t.Fatalf("the other process said %q, want %q", o.lines.Text(), want)
	}
}

// kill ends the other process with SIGKILL and waits for it. To do so twice is fine.
func (o *other) kill() {
	_ = o.cmd.Process.Kill()
	_ = o.cmd.Wait()
}

// finish lets the other process come to its own end.
func (o *other) finish() {
	o.t.Helper()
	o.stdin.Close()
	rest := ""
	for o.lines.Scan() {
		rest += o.lines.Text() + "\n"
	}
	if err := o.cmd.Wait(); err != nil {
		o.t.Fatalf("%v\n%s", err, rest)
	}
}

// lockFile makes a folder with a lock file that nobody holds.
func lockFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vm", "lock")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Ensure(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// recordOfSize is a record whose content follows from n alone.
func recordOfSize(n int) *Record {
	r := &Record{Writer: strings.Repeat("w", 1+100*n)}
	for i := range n {
		r.Complete("tap", fmt.Sprintf("tap%d", i), strconv.Itoa(n))
	}
	return r
}
