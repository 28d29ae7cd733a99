package qemu

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"smartvm/emulator/machine"
	"smartvm/internal/cpio"
	"smartvm/internal/proof"
)

// guestTimeout bounds every wait for a guest in the tests. It is long: TCG on a busy machine is slow.
const guestTimeout = 2 * time.Minute

// shellInit is the tests' init: all drivers, then a shell on the console.
const shellInit = `#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in virtio_ring virtio failover net_failover virtio_mmio virtio_blk virtio_console virtio_balloon virtio-rng virtio_net; do
  insmod $(find /lib/modules -name $m.ko)
done
stty -F /dev/ttyS0 -echo -onlcr
echo the shell is up
export PS1=
exec setsid cttyhack sh
`

// guestSpec returns a machine with a shell on its console.
func guestSpec(t testing.TB, c *console) machine.Spec {
	t.Helper()
	image := proof.Guest(t)
	return machine.Spec{
		VCPUs: 1, MemoryMiB: 128,
		Kernel: filepath.Join(image, "vmlinux"), Initrd: shellInitrd(t, filepath.Join(image, "initrd")),
		Args:     "console=ttyS0 reboot=k panic=1 quiet i8042.noaux rdinit=/shell-init",
		SerialIn: c.stdin(t), SerialOut: c,
	}
}

// shellInitrd puts our init behind the image's archive: the kernel unpacks one after the other.
func shellInitrd(t testing.TB, image string) string {
	t.Helper()
	archive, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	var added bytes.Buffer
	w := cpio.NewWriter(&added, 0)
	if err := w.WriteHeader(cpio.Header{Name: "shell-init", Mode: cpio.TypeRegular | 0o755, Size: int64(len(shellInit))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(shellInit)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for len(archive)%512 != 0 {
		archive = append(archive, 0)
	}
	path := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(path, append(archive, added.Bytes()...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// console is a guest's serial console.
type console struct {
	mu      sync.Mutex
	text    []byte
	read    int // how far expect has come
	changed chan struct{}
	input   *os.File
	marks   int
}

func newConsole() *console { return &console{changed: make(chan struct{})} }

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	close(c.changed)
	c.changed = make(chan struct{})
	return len(p), nil
}

// stdin returns the end that the machine reads.
func (c *console) stdin(t testing.TB) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.input = w
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r
}

// expect waits for text after what was expected before, and returns what came until then.
func (c *console) expect(t testing.TB, text string) string {
	t.Helper()
	deadline := time.After(guestTimeout)
	for {
		c.mu.Lock()
		rest, changed := c.text[c.read:], c.changed
		if i := bytes.Index(rest, []byte(text)); i >= 0 {
			c.read += i + len(text)
			c.mu.Unlock()
			return string(rest[:i])
		}
		c.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("the console does not show %q, but:\n%s", text, rest)
		}
	}
}

// run runs a command in the guest's shell and returns what it prints.
func (c *console) run(t testing.TB, command string) string {
	t.Helper()
	c.marks++
	mark := fmt.Sprintf("--%d--", c.marks)
	fmt.Fprintf(c.input, "echo '--'%d'--'\n%s\necho '--'%d'--'\n", c.marks, command, c.marks)
	c.expect(t, mark)
	return strings.TrimSpace(c.expect(t, mark))
}

// start starts a machine and leaves its end to the test's.
func start(t testing.TB, spec machine.Spec) machine.Machine {
	t.Helper()
	m := New(Options{Warn: t.Logf})
	t.Cleanup(func() { m.Close() })
	if err := m.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	return m
}

// ended waits for the machine's end.
func ended(t testing.TB, m machine.Machine) machine.End {
	t.Helper()
	select {
	case <-m.Ended():
	case <-time.After(guestTimeout):
		t.Fatal("the machine does not end")
	}
	return m.End()
}

// do fails the test when a call without a result does.
func do(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// drive makes a file of so many bytes, and a drive of it.
func drive(t testing.TB, id string, size int64, readOnly bool) machine.Drive {
	t.Helper()
	path := filepath.Join(t.TempDir(), id+".img")
	if err := os.WriteFile(path, append([]byte(id), make([]byte, size-int64(len(id)))...), 0o600); err != nil {
		t.Fatal(err)
	}
	return machine.Drive{ID: id, Path: path, ReadOnly: readOnly}
}

func TestFourGuestsThatBootAtOnceAllComeUp(t *testing.T) {
	proof.Guest(t)
	var consoles [4]*console
	var machines [4]machine.Machine
	for i := range machines {
		consoles[i] = newConsole()
		machines[i] = start(t, guestSpec(t, consoles[i]))
	}
	for _, c := range consoles {
		c.expect(t, "the shell is up")
	}

	t.Run("a reboot ends the machine", func(t *testing.T) {
		consoles[0].run(t, "sync")
		fmt.Fprintln(consoles[0].input, "reboot -f")
		if end := ended(t, machines[0]); !end.Rebooted || end.Err != nil {
			t.Errorf("the end is %+v, want a reboot", end)
		}
	})
	t.Run("a QEMU that is killed is told of", func(t *testing.T) {
		machines[1].(*qemuMachine).vm.proc.cmd.Process.Kill()
		if end := ended(t, machines[1]); end.Rebooted || end.Err == nil || !strings.Contains(end.Err.Error(), "killed") {
			t.Errorf("the end is %+v, want one by a signal", end)
		}
	})
	t.Run("a QEMU that hangs is ended", func(t *testing.T) {
		v := machines[2].(*qemuMachine).vm
		v.qmp.timeout.Store(int64(100 * time.Millisecond))
		stopProcess(t, v.proc.cmd.Process.Pid)
		if err := machines[2].Pause(t.Context()); err == nil {
			t.Error("a pause succeeds while QEMU is stopped")
		}
		if end := ended(t, machines[2]); end.Err == nil || !strings.Contains(end.Err.Error(), "hangs") {
			t.Errorf("the end is %+v, want one because QEMU hangs", end)
		}
	})
	t.Run("a guest that switches itself off does not end the machine", func(t *testing.T) {
		fmt.Fprintln(consoles[3].input, "poweroff -f")
		v := machines[3].(*qemuMachine).vm
		for deadline := time.Now().Add(guestTimeout); !v.halted.Load(); {
			if _, err := v.execute(t.Context(), "query-status", nil, nil); err != nil || time.Now().After(deadline) {
				t.Fatalf("the guest is not off: %v", err)
			}
		}
		do(t, "Pause", machines[3].Pause(t.Context()))
		do(t, "Resume", machines[3].Resume(t.Context()))
		do(t, "CtrlAltDel", machines[3].CtrlAltDel(t.Context()))
		select {
		case <-machines[3].Ended():
			t.Errorf("it ended: %+v", machines[3].End())
		default:
		}
		do(t, "Close", machines[3].Close())
	})
}

func TestAPanicEndsTheMachine(t *testing.T) {
	c := newConsole()
	spec := guestSpec(t, c)
	spec.Args += " rdinit=/nowhere init=/nowhere"
	if end := ended(t, start(t, spec)); !end.Rebooted {
		t.Errorf("the end is %+v, want a reboot", end)
	}
	c.expect(t, "Kernel panic")
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	image := proof.Guest(t)
	text := filepath.Join(t.TempDir(), "text")
	do(t, "write", os.WriteFile(text, []byte("this is no kernel"), 0o600))
	good := machine.Spec{VCPUs: 1, MemoryMiB: 64, Kernel: filepath.Join(image, "vmlinux"), SerialOut: newConsole()}
	for name, test := range map[string]struct {
		change func(*Options, *machine.Spec)
		want   string
	}{
		"no QEMU":             {func(o *Options, _ *machine.Spec) { o.Binary = "qemu-system-nothing" }, "qemu-system-x86"},
		"no kernel":           {func(_ *Options, s *machine.Spec) { s.Kernel = text }, "kernel"},
		"too much memory":     {func(_ *Options, s *machine.Spec) { s.MemoryMiB = 1 << 30 }, "this host has"},
		"a drive not there":   {func(_ *Options, s *machine.Spec) { s.Drives = []machine.Drive{{ID: "a", Path: "/nowhere/a"}} }, "drive a"},
		"a drive is a folder": {func(_ *Options, s *machine.Spec) { s.Drives = []machine.Drive{{ID: "a", Path: "/"}} }, "neither a file nor"},
		"another program":     {func(o *Options, _ *machine.Spec) { o.Binary = "false" }, "QEMU ended with exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options, spec := Options{}, good
			test.change(&options, &spec)
			m := New(options)
			defer m.Close()
			err := m.Start(context.Background(), spec)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("the error is %v, want one with %q", err, test.want)
			}
			if again := m.Start(context.Background(), spec); again == nil || again.Error() != err.Error() {
				t.Errorf("another start says %v, want %v again", again, err)
			}
		})
	}
}
