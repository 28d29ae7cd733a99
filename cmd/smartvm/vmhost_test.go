//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

// These tests boot guests with bin/smartvm. Each has folders of its own, and fails when anything is left in them or a
// process that worked there.

// vmHost is a place to run VMs in.
type vmHost struct {
	command string
	dir     string
	env     []string
}

// patience bounds every single run; guests are slow on a busy machine.
const patience = 3 * time.Minute

func newVMHost(t *testing.T) *vmHost {
	t.Helper()
	image := proof.Guest(t)
	t.Parallel()
	dir := t.TempDir()
	h := &vmHost{command: proof.Command(t), dir: dir, env: append(os.Environ(),
		envDataDir+"="+filepath.Join(dir, "data"), envRuntimeDir+"="+filepath.Join(dir, "run"), "TERM=xterm")}
	images := filepath.Join(dir, "data", "base-images")
	if err := os.MkdirAll(images, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(image, filepath.Join(images, "debian-x86_64")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.checkNothingIsLeft(t) })
	return h
}

// start prepares `smartvm run --emulate` with arguments behind it.
func (h *vmHost) start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return h.smartvm(t, append([]string{"run", "--emulate"}, args...)...)
}

// smartvm prepares a command line.
func (h *vmHost) smartvm(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, h.command, args...)
	cmd.Env = h.env
	// SIGTERM first: a killed smartvm could take nothing away.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = time.Minute
	return cmd
}

// do runs a command line that must succeed and say nothing on stderr, and returns what it printed.
func (h *vmHost) do(t *testing.T, args ...string) string {
	t.Helper()
	got := finish(h.smartvm(t, args...))
	if got.exit != "0" || got.stderr != "" {
		t.Fatalf("smartvm %q: exit code %s\nstdout %q\nstderr %q", args, got.exit, got.stdout, got.stderr)
	}
	return strings.TrimSuffix(got.stdout, "\n")
}

// result is what a run came to.
type result struct{ stdout, stderr, exit string }

func finish(cmd *exec.Cmd) result {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	exit := exitText(cmd.Run())
	return result{out.String(), errOut.String(), exit}
}

func (r result) want(t *testing.T, exit, stdout, stderr string) {
	t.Helper()
	if r.exit != exit || r.stdout != stdout || !strings.Contains(r.stderr, stderr) || stderr == "" && r.stderr != "" {
		t.Errorf("exit code %s, want %s\nstdout %q, want %q\nstderr %q, want %q in it", r.exit, exit, r.stdout, stdout, r.stderr, stderr)
	}
}

func (h *vmHost) checkNothingIsLeft(t *testing.T) {
	t.Helper()
	h.awaitProcesses(t, h.dir)
	// Whoever takes a folder away may be at it still: a supervisor, and what it starts for that, know their VM by its key.
	for _, path := range h.folders(t) {
		key := strings.TrimPrefix(filepath.Base(path), ".gone-")
		h.awaitProcesses(t, key[:min(len(key), keyLength)])
	}
	if left := h.folders(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// keyLength is that of a VM's key, a UUID.
const keyLength = 36

// awaitProcesses waits until no process has what in its command line or its working folder.
func (h *vmHost) awaitProcesses(t *testing.T, what string) {
	t.Helper()
	for found := processesIn(t, what); len(found) > 0; found = processesIn(t, what) {
		if !endsByItself(t, found[0]) {
			t.Errorf("process left behind: %s", found[0])
			return
		}
	}
}

// folders are those of VMs.
func (h *vmHost) folders(t *testing.T) (all []string) {
	t.Helper()
	for _, pattern := range []string{"data/vms/*", "run/*"} {
		found, err := filepath.Glob(filepath.Join(h.dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// endsByItself waits for a process that is about to end: a QEMU whose emulator was killed gets SIGKILL from the kernel, and
// takes a moment to give its memory back.
func endsByItself(t *testing.T, process string) bool {
	t.Helper()
	const moment = 5000 // milliseconds
	fd, err := unix.PidfdOpen(pidOf(t, process), 0)
	if err != nil {
		return true // gone
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, moment)
		if err != unix.EINTR {
			return n == 1
		}
	}
}

// pidOf returns the process id of a line of processesIn.
func pidOf(t *testing.T, process string) int {
	t.Helper()
	path, _, _ := strings.Cut(process, " ")
	pid, err := strconv.Atoi(filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// processesIn lists the processes that work in dir or name it on their command line.
func processesIn(t *testing.T, dir string) []string {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, process := range processes {
		// One that ended meanwhile has neither.
		cwd, _ := os.Readlink(filepath.Join(process, "cwd"))
		cmdline, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		if strings.HasPrefix(cwd, dir) || bytes.Contains(cmdline, []byte(dir)) {
			found = append(found, process+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// reading reads a run's output line by line.
type reading struct{ *bufio.Reader }

// want reads to a line that has text in it; progress may stand in front of it.
func (r reading) want(t *testing.T, text string) {
	t.Helper()
	var seen []string
	for {
		line, err := r.ReadString('\n')
		if strings.Contains(line, text) {
			return
		}
		seen = append(seen, line)
		if err != nil {
			t.Fatalf("%v while waiting for %q; read %q", err, text, seen)
		}
	}
}

// startReading starts a run and returns its output, and what it says on stderr once it has ended.
func startReading(t *testing.T, cmd *exec.Cmd) (reading, *bytes.Buffer) {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return reading{bufio.NewReader(stdout)}, &stderr
}

func interrupt(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
}
