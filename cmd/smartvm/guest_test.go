//go:build linux

package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func TestRunIsTheCommandsInputOutputAndExitCode(t *testing.T) {
	h := newVMHost(t)
	envFile := filepath.Join(h.dir, "env")
	if err := os.WriteFile(envFile, []byte("A=file\nB=two words\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := h.start(t, "--rm", "--name", "web", "-i", "--env-file", envFile, "-e", "A=flag", "-w", "/proc", "-u", "12:34", "--",
		"sh", "-c", `echo "$A/$B"; pwd; id -u; id -g; hostname; cat; echo to stderr >&2; exit 7`)
	cmd.Stdin = strings.NewReader("from stdin\n")
	finish(cmd).want(t, "7", "flag/two words\n/proc\n12\n34\nweb\nfrom stdin\n", "to stderr\n")
}

func TestRunWithoutInputGivesTheCommandNone(t *testing.T) {
	h := newVMHost(t)
	cmd := h.start(t, "debian", "--", "sh", "-c", `cat; kill -TERM $$`)
	cmd.Stdin = strings.NewReader("never read\n")
	finish(cmd).want(t, "143", "", "")
}

func TestRunSaysWhatTheGuestHasNot(t *testing.T) {
	h := newVMHost(t)
	finish(h.start(t, "--", "no-such-program")).want(t, "127", "", `"no-such-program" was not started in the guest`)
	finish(h.start(t, "--", "/proc/version")).want(t, "126", "", `"/proc/version" was not started in the guest`)
}

func TestRunEndsTheVMWhenItsTimeIsOver(t *testing.T) {
	h := newVMHost(t)
	// So short that it is still booting.
	finish(h.start(t, "--timeout", "300ms", "--", "sleep", "1000")).want(t, "124", "", "--timeout of 300ms is over")
}

func TestRunGivesTheVMDrives(t *testing.T) {
	h := newVMHost(t)
	kept, copied := filepath.Join(h.dir, "kept.img"), filepath.Join(h.dir, "copied.img")
	for _, path := range []string{kept, copied} {
		if err := os.WriteFile(path, bytes.Repeat([]byte("before.."), 1<<17), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := `set -e
mkdir -p /mnt
mount -t ext4 /dev/vdc /mnt
echo x >/mnt/file
umount /mnt
printf after | dd of=/dev/vda conv=notrunc 2>/dev/null
printf after | dd of=/dev/vdb conv=notrunc 2>/dev/null
sync
head -c 8 /dev/vda
head -c 8 /dev/vdb`
	cmd := h.start(t, "--drive", kept+":in-place", "--drive", copied, "--disk", "64MiB", "--", "sh", "-c", script)
	finish(cmd).want(t, "0", "aftere..aftere..", "")
	for path, want := range map[string]string{kept: "aftere..", copied: "before.."} {
		data, err := os.ReadFile(path)
		if err != nil || string(data[:8]) != want {
			t.Errorf("%s begins with %q (%v), want %q", filepath.Base(path), data[:8], err, want)
		}
	}
}

func TestRunSaysWhyAGuestDidNotBoot(t *testing.T) {
	h := newVMHost(t)
	console, noInitrd := filepath.Join(h.dir, "console"), filepath.Join(h.dir, "initrd")
	if err := os.WriteFile(noInitrd, []byte("nothing that a kernel could unpack"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := finish(h.start(t, "--initrd", noInitrd, "--init", "smartvm", "--console", console, "--", "true"))
	got.want(t, "125", "", "Error: the VM did not boot\n  stage:  boot")
	for _, text := range []string{"Kernel panic", "log:    " + console} {
		if !strings.Contains(got.stderr, text) {
			t.Errorf("stderr %q, want %q in it", got.stderr, text)
		}
	}
	if log, err := os.ReadFile(console); err != nil || !bytes.Contains(log, []byte("Kernel panic")) {
		t.Errorf("the console's log has no panic: %v", err)
	}
}

func TestRunTakesTheVMAwayWhenItsVMMIsKilled(t *testing.T) {
	h := newVMHost(t)
	cmd := h.start(t, "--", "sh", "-c", "echo ready; sleep 1000")
	lines, stderr := startReading(t, cmd)
	lines.want(t, "ready")
	// The VMM works in the VM's folder.
	killed := 0
	for _, process := range processesIn(t, filepath.Join(h.dir, "data", "vms")) {
		if !strings.Contains(process, "firecracker-emulator") {
			continue
		}
		if err := unix.Kill(pidOf(t, process), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed++
	}
	if killed != 1 {
		t.Errorf("killed %d VMMs, want 1", killed)
	}
	exit := exitText(cmd.Wait())
	result{"", stderr.String(), exit}.want(t, "125", "", "the VM ended before the command did")
}

func TestASignalBeforeTheCommandRunsTakesTheVMAway(t *testing.T) {
	tests := []struct {
		name   string
		until  string // what the console says first
		signal unix.Signal
		exit   string
	}{
		{"SIGINT while the kernel boots", "Linux version", unix.SIGINT, "130"},
		{"SIGTERM while it finds its devices", "Serial: 8250", unix.SIGTERM, "143"},
		{"SIGHUP while the init runs", "Run /init", unix.SIGHUP, "129"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newVMHost(t)
			// Opened for both ways, so that neither side waits for the other.
			path := filepath.Join(h.dir, "console")
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			console, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer console.Close()
			if err := console.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			cmd := h.start(t, "--console", path, "--", "sleep", "1000")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			reading{bufio.NewReader(console)}.want(t, tt.until)
			if err := cmd.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			exit := exitText(cmd.Wait())
			result{"", stderr.String(), exit}.want(t, tt.exit, "", "")
		})
	}
}

func TestSIGINTGoesToTheCommandAndASecondOneEndsTheVM(t *testing.T) {
	h := newVMHost(t)
	cmd := h.start(t, "--", "sh", "-c", `trap 'echo caught' INT; echo ready; while :; do sleep 1000 & wait; done`)
	lines, stderr := startReading(t, cmd)
	lines.want(t, "ready")
	interrupt(t, cmd)
	lines.want(t, "caught")
	interrupt(t, cmd)
	exit := exitText(cmd.Wait())
	result{"", stderr.String(), exit}.want(t, "130", "", "")
}

func TestTheCommandDiesOfABrokenPipe(t *testing.T) {
	h := newVMHost(t)
	cmd := h.start(t, "--", "sh", "-c", "yes")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd.Stdout = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	if _, err := io.ReadFull(read, make([]byte, 2)); err != nil {
		t.Error(err)
	}
	read.Close()
	if got := exitText(cmd.Wait()); got != "141" {
		t.Errorf("exit code %s, want 141 (SIGPIPE)", got)
	}
}

func TestATerminalIsTheGuestsAndComesBackAsItWas(t *testing.T) {
	h := newVMHost(t)
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	if err := pty.Setsize(ours, &pty.Winsize{Rows: 31, Cols: 97}); err != nil {
		t.Fatal(err)
	}
	before, err := term.GetState(int(theirs.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.start(t, "-it", "--timeout", "90s", "--", "sh", "-c",
		`trap 'echo size $(stty size)' WINCH; trap 'echo caught; exit 9' INT
test -t 0 && test -t 1 && test -t 2 && echo terminal $TERM
echo size $(stty size)
while :; do sleep 1000 & wait; done`)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := ours.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	lines := reading{bufio.NewReader(ours)}
	lines.want(t, "terminal xterm")
	lines.want(t, "size 31 97")
	if err := pty.Setsize(ours, &pty.Winsize{Rows: 20, Cols: 60}); err != nil {
		t.Fatal(err)
	}
	lines.want(t, "size 20 60")
	// ^C goes to the guest as a byte; the guest's terminal makes a signal of it.
	if _, err := ours.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	lines.want(t, "caught")
	if got := exitText(cmd.Wait()); got != "9" {
		t.Errorf("exit code %s, want 9", got)
	}
	after, err := term.GetState(int(theirs.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if *before != *after {
		t.Errorf("the terminal is not as it was:\n%+v\n%+v", before, after)
	}
}
