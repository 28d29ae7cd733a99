package smartvm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/drive"
	"smartvm/guest"
	"smartvm/internal/proof"
)

// bootLimit is how long a guest may take to come up under TCG on a machine that does other things as well.
const bootLimit = 2 * time.Minute

// guestManager makes a manager whose VMs are QEMU's, and the configuration of a guest with our init.
func guestManager(t testing.TB) (*Manager, Config) {
	t.Helper()
	dir := proof.Guest(t)
	m := newTestManager(t, Options{Emulate: true, EmulatorBinary: proof.Emulator(t), ShutdownTimeout: 30 * time.Second})
	return m, Config{
		BootSource:    BootSource{KernelImagePath: filepath.Join(dir, "vmlinux"), InitrdPath: filepath.Join(dir, "initrd")},
		MachineConfig: MachineConfig{MemSizeMiB: 256},
		Guest:         &Guest{},
	}
}

// boot starts the VM and waits for its agent.
func boot(t testing.TB, m *Manager, config Config) (*VM, *guest.Agent) {
	t.Helper()
	vm := start(t, m, config)
	return vm, agentOf(t, vm)
}

func agentOf(t testing.TB, vm *VM) *guest.Agent {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	agent, err := vm.Agent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return agent
}

// sh runs a line in the guest's shell and returns what it printed; it must succeed.
func sh(t *testing.T, agent *guest.Agent, line string) string {
	t.Helper()
	var out, errs bytes.Buffer
	session, err := agent.Start(t.Context(), guest.Command{Args: []string{"sh", "-c", line}, Stdout: &out, Stderr: &errs})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	status, err := session.Wait(ctx)
	if err != nil || status.ExitCode() != 0 {
		t.Fatalf("%s: %v, %v, %s", line, status, err, errs.String())
	}
	return strings.TrimSpace(out.String())
}

func TestACommandRunsInAGuestAndTheVMEndsWithIt(t *testing.T) {
	t.Parallel()
	m, config := guestManager(t)
	config.ID = "first-guest"
	config.MachineConfig.VCPUCount = 2
	config.Drives = []Drive{{DriveID: "data", PathOnHost: diskImage(t, "data.img", 3<<20)}, {DriveID: "blank", BlankMiB: 64}}
	vm, agent := boot(t, m, config)

	if got := sh(t, agent, "hostname; nproc; cat /sys/block/vda/size; head -c 9 /dev/vda; echo; mount -t ext4 /dev/vdb /mnt && echo mounted"); got != "first-guest\n2\n6144\nas it was\nmounted" {
		t.Errorf("the guest says %q", got)
	}
	want := make([]byte, 10<<20)
	rand.Read(want)
	var got bytes.Buffer
	session, err := agent.Start(t.Context(), guest.Command{Args: []string{"cat"}, Stdin: bytes.NewReader(want), Stdout: &got})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := session.Wait(t.Context()); err != nil || status.ExitCode() != 0 {
		t.Fatal(status, err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d random bytes came back as %d others", len(want), got.Len())
	}
	var out bytes.Buffer
	session, err = agent.Start(t.Context(), guest.Command{Args: []string{"sh", "-c", "echo $A; pwd; exit 7"}, Env: []string{"A=b c"}, Dir: "/tmp", Stdout: &out, Main: true})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := session.Wait(t.Context()); err != nil || status.ExitCode() != 7 {
		t.Errorf("status %v, %v", status, err)
	}
	if out.String() != "b c\n/tmp\n" {
		t.Errorf("output %q", out.String())
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	exit, err := vm.Wait(ctx)
	if err != nil || exit.Code != 0 || exit.Signal != 0 {
		t.Errorf("the VM ended with %v, %v", exit, err)
	}
	wantState(t, vm, Stopped)
}

func TestAGuestShutsDownInOrderWhenItsVMIsStopped(t *testing.T) {
	t.Parallel()
	m, config := guestManager(t)
	no := false
	data := diskImage(t, "data.img", 1<<20)
	config.Drives = []Drive{{DriveID: "data", PathOnHost: data, Ephemeral: &no}}
	vm, agent := boot(t, m, config)
	sh(t, agent, "printf 'not yet written out' > /dev/vda")
	if err := vm.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit, err := vm.Wait(t.Context()); err != nil || exit.Code != 0 || exit.Signal != 0 {
		t.Errorf("the guest did not end by itself: %v, %v", exit, err)
	}
	if text, err := os.ReadFile(data); err != nil || !bytes.HasPrefix(text, []byte("not yet written out")) {
		t.Errorf("the drive holds %.20q, %v", text, err)
	}
}

func TestARestoredGuestGoesOnWithTheRightTime(t *testing.T) {
	t.Parallel()
	m, config := guestManager(t)
	config.Drives = []Drive{{DriveID: "data", PathOnHost: diskImage(t, "data.img", 1<<20)}}
	vm, agent := boot(t, m, config)
	sh(t, agent, "echo before > /tmp/memory; echo disk | dd of=/dev/vda conv=fsync 2>/dev/null; date -s 2001-01-01 > /dev/null")
	if err := vm.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "snapshot")
	if _, err := vm.Snapshot(t.Context(), dir, SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := vm.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, agent, "cat /tmp/memory"); got != "before" {
		t.Errorf("after the snapshot the VM says %q", got)
	}
	if err := m.Remove(t.Context(), vm.ID(), true); err != nil {
		t.Fatal(err)
	}
	seeds := map[string]bool{}
	for range 2 {
		clone := create(t, m, Config{})
		if err := clone.Restore(t.Context(), dir, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		agent := agentOf(t, clone)
		lines := strings.Split(sh(t, agent, "cat /tmp/memory; head -c 4 /dev/vda; echo; date +%s; head -c 16 /dev/urandom | od -An -tx1"), "\n")
		if len(lines) != 4 || lines[0] != "before" || lines[1] != "disk" {
			t.Fatalf("the restored guest says %q", lines)
		}
		seconds, err := strconv.ParseInt(lines[2], 10, 64)
		if off := time.Since(time.Unix(seconds, 0)); err != nil || off.Abs() > time.Minute {
			t.Errorf("the guest's clock is off by %v (%v)", off, err)
		}
		seeds[lines[3]] = true
	}
	if len(seeds) != 2 {
		t.Error("two guests of one snapshot draw the same random numbers")
	}
}

func TestARootDriveIsSharedUnderAnOverlay(t *testing.T) {
	t.Parallel()
	m, config := guestManager(t)
	root := rootImage(t)
	before, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		drive  Drive
		guest  Guest
		method drive.Method
	}{
		{"read-only", Drive{IsReadOnly: true}, Guest{}, drive.Overlay},
		{"read-only, layer in memory", Drive{IsReadOnly: true}, Guest{OverlayInMemory: true}, ""},
		{"writable", Drive{}, Guest{RootFSType: "ext4"}, drive.Overlay},
	} {
		config := config
		config.Guest = &test.guest
		test.drive.DriveID, test.drive.PathOnHost, test.drive.IsRootDevice = "root", root, true
		config.Drives = []Drive{test.drive}
		vm, agent := boot(t, m, config)
		if got := sh(t, agent, "cat /marker; echo changed > /marker; cat /marker; ls -d /proc/1 /dev/null"); got != "from the root drive\nchanged\n/dev/null\n/proc/1" {
			t.Errorf("%s: the guest says %q", test.name, got)
		}
		if drives := vm.Drives(); test.method != "" && (len(drives) != 1 || drives[0].Method != test.method && drives[0].Method != drive.Reflink) {
			t.Errorf("%s: staged as %+v", test.name, drives)
		}
		if err := m.Remove(t.Context(), vm.ID(), true); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := os.ReadFile(root); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the image was changed (%v)", err)
	}
}

// rootImage makes an ext4 image with busybox and a marker in it.
func rootImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for _, sub := range []string{"bin", "proc", "sys", "dev", "tmp", "run", "etc", "mnt", "root"} {
		if err := os.MkdirAll(filepath.Join(tree, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("%v: make deps installs busybox-static", err)
	}
	binary, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "bin/busybox"), binary, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "cat", "ls", "echo"} {
		if err := os.Symlink("busybox", filepath.Join(tree, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "marker"), []byte("from the root drive\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "root.ext4")
	if out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-d", tree, path, "16M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s (make deps installs e2fsprogs)", err, out)
	}
	return path
}

func TestAGuestThatPanicsIsReportedWithThePanic(t *testing.T) {
	t.Parallel()
	m, config := guestManager(t)
	config.BootSource.InitrdPath = ""
	config.BootSource.BootArgs = "console=ttyS0 reboot=k panic=1 quiet"
	vm := start(t, m, config)
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	_, err := vm.Agent(ctx)
	wantCode(t, err, VMMExited)
	if !strings.Contains(err.Error(), "Kernel panic - not syncing") {
		t.Errorf("%v does not name the panic", err)
	}
}

func TestAGuestThatNeverComesUpIsUnreachableAndStopsAllTheSame(t *testing.T) {
	t.Parallel()
	m, config := guestManager(t)
	kernel := filepath.Join(t.TempDir(), "vmlinux")
	proof.WriteKernel(t, kernel)
	config.BootSource.KernelImagePath = kernel
	m.options.ShutdownTimeout = 100 * time.Millisecond
	vm := start(t, m, config)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := vm.Agent(ctx)
	wantCode(t, err, GuestUnreachable)
	if err := vm.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAGuestThatFloodsItsConsoleCanStillBeTalkedTo(t *testing.T) {
	t.Parallel()
	m, config := guestManager(t)
	vm, agent := boot(t, m, config)
	const flood = 64 << 10
	seen, done := 0, make(chan struct{})
	vm.OnConsole(func(p []byte) {
		if seen < flood && seen+len(p) >= flood {
			close(done)
		}
		seen += len(p)
	})
	session, err := agent.Start(t.Context(), guest.Command{Args: []string{"sh", "-c", "yes flood, flood, flood, flood, flood, flood, flood, flood > /dev/console"}})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	select {
	case <-done:
	case <-time.After(bootLimit):
		t.Fatalf("no flood came, only %d bytes", seen)
	}
	if got := sh(t, agent, "echo alive"); got != "alive" {
		t.Errorf("in the flood the agent says %q", got)
	}
	if err := vm.Pause(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAGuestWhoseVMMOrQEMUIsKilledIsReportedAndCleanedUp(t *testing.T) {
	t.Parallel()
	m, config := guestManager(t)
	for name, victim := range map[string]func(*VM) int{
		"the VMM": (*VM).PID,
		"QEMU":    func(vm *VM) int { return onlyChild(t, vm.PID()) },
	} {
		vm := start(t, m, config) // still booting
		if err := syscall.Kill(victim(vm), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
		defer cancel()
		_, err := vm.Agent(ctx)
		if !errors.Is(err, VMMExited) {
			t.Errorf("%s killed while booting: %v", name, err)
		}
		wantState(t, vm, Failed)

		vm, agent := boot(t, m, config) // with a command
		qemu := onlyChild(t, vm.PID())
		session, err := agent.Start(t.Context(), guest.Command{Args: []string{"sleep", "1000"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(victim(vm), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := session.Wait(ctx); !errors.Is(err, guest.ErrLost) {
			t.Errorf("%s killed while a command ran: %v", name, err)
		}
		if _, err := vm.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		wantState(t, vm, Failed)
		if err := waitForEnd(ctx, qemu); err != nil {
			t.Errorf("QEMU outlives %s: %v", name, err)
		}
	}
}

// onlyChild returns the process id of a process's one child.
func onlyChild(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if text, err = os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name())); err == nil && len(text) > 0 {
			break
		}
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatalf("children of %d: %q", pid, text)
	}
	return child
}

// waitForEnd waits until a process that is not our child has ended.
func waitForEnd(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	deadline, _ := ctx.Deadline()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
	if n == 0 && err == nil {
		return context.DeadlineExceeded
	}
	return err
}

func TestFourGuestsAtOnceComeUp(t *testing.T) {
	t.Parallel()
	m, config := guestManager(t)
	for i := range 4 {
		config.ID = fmt.Sprintf("guest-%d", i)
		start(t, m, config)
	}
	for i, id := range m.IDs() {
		vm, err := m.VM(id)
		if err != nil {
			t.Fatal(err)
		}
		if got := sh(t, agentOf(t, vm), "hostname"); got != fmt.Sprintf("guest-%d", i) {
			t.Errorf("guest %d calls itself %q", i, got)
		}
	}
}
