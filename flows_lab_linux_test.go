package smartvm

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"smartvm/guest"
	"smartvm/internal/proof"
)

// jailInTheLab makes a manager whose VMs run under a real Firecracker in its jail, with supervisors, as root's VMs do by
// default, and the configuration of a guest with our init. Kernel and initrd lie on another filesystem than the VMs, so
// each jail has mounts. When the test ends nothing of its VMs may be left on the host.
func jailInTheLab(t *testing.T) (*Manager, Config) {
	t.Helper()
	proof.LabLong(t)
	options := Options{
		FirecrackerBinary: proof.LabFirecracker(t), JailerBinary: proof.LabJailer(t), ShutdownTimeout: 30 * time.Second,
		DataDir: filepath.Join(t.TempDir(), "data"), Supervisor: supervisorForTests(t), Settle: []string{proof.Command(t), "settle"},
	}
	var m *Manager
	t.Cleanup(func() { checkNothingLeft(t, m) }) // after all other cleaning up, the manager's too
	m = newTestManager(t, options)
	image := os.Getenv("SMARTVM_TEST_IMAGE")
	return m, Config{
		BootSource:    BootSource{KernelImagePath: filepath.Join(image, "vmlinux"), InitrdPath: filepath.Join(image, "initrd")},
		MachineConfig: MachineConfig{MemSizeMiB: 256},
		Guest:         &Guest{},
	}
}

// checkNothingLeft looks for what VMs may leave on a host: folders, users, mounts and processes. The lab's host has no
// other VMs.
func checkNothingLeft(t *testing.T, m *Manager) {
	t.Helper()
	for pid, line := range vmProcesses(t) { // a supervisor whose VM is gone is on its way out
		if err := awaitProcess(pid); err != nil {
			t.Errorf("%v: %s", err, line)
		}
	}
	for _, dir := range []string{"vms", "names", "uids"} {
		entries, err := os.ReadDir(filepath.Join(m.options.DataDir, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		for _, entry := range entries {
			if entry.Name() != "."+lockName {
				t.Errorf("left behind: %s in %s", entry.Name(), dir)
			}
		}
	}
	if entries, err := os.ReadDir(m.options.RuntimeDir); len(entries) > 0 {
		t.Errorf("left behind in the runtime folder: %v, %v", entries, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, m.options.DataDir) || strings.Contains(line, m.options.RuntimeDir) {
			t.Errorf("still mounted: %s", line)
		}
	}
}

// vmProcesses are the host's VMMs, jailers and supervisors: their command lines.
func vmProcesses(t *testing.T) map[int]string {
	t.Helper()
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, folder := range folders {
		text, _ := os.ReadFile(filepath.Join(folder, "cmdline")) // none of one that has ended
		args := strings.Split(string(text), "\x00")
		name := filepath.Base(args[0])
		if name == "firecracker" || name == "jailer" || name == "smartvm" && len(args) > 1 && slices.Contains([]string{"supervise", "settle"}, args[1]) {
			pid, _ := strconv.Atoi(filepath.Base(folder))
			found[pid] = strings.Join(args, " ")
		}
	}
	return found
}

func TestCommandsRunAndFilesGoBothWaysInAJailedVM(t *testing.T) {
	m, config := jailInTheLab(t)
	config.ID = "exec-and-cp"
	_, agent := boot(t, m, config)
	if got := sh(t, agent, "hostname; id -u; pwd"); got != "exec-and-cp\n0\n/" {
		t.Errorf("the guest says %q", got)
	}

	want := make([]byte, 1<<20)
	rand.Read(want)
	var got, errs bytes.Buffer
	session, err := agent.Start(t.Context(), guest.Command{
		Args: []string{"sh", "-c", "echo $A >&2; cat; exit 7"}, Env: []string{"A=b c"}, Dir: "/tmp",
		Stdin: bytes.NewReader(want), Stdout: &got, Stderr: &errs,
	})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := session.Wait(t.Context()); err != nil || status.ExitCode() != 7 {
		t.Errorf("status %v, %v", status, err)
	}
	if !bytes.Equal(got.Bytes(), want) || errs.String() != "b c\n" {
		t.Errorf("%d random bytes came back as %d others, and %q", len(want), got.Len(), errs.String())
	}
	session, err = agent.Start(t.Context(), guest.Command{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Signal(15); err != nil {
		t.Error(err)
	}
	if status, err := session.Wait(t.Context()); err != nil || status.Signal != 15 {
		t.Errorf("status %v, %v", status, err)
	}
	if _, err := agent.Start(t.Context(), guest.Command{Args: []string{"no-such-program"}}); err == nil {
		t.Error("a program that is not there runs")
	}

	tree := filepath.Join(t.TempDir(), "tree")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(tree, "sub"), 0o755),
		os.WriteFile(filepath.Join(tree, "sub", "random"), want, 0o640),
		os.Symlink("sub/random", filepath.Join(tree, "link")),
	); err != nil {
		t.Fatal(err)
	}
	if report, err := agent.CopyTo(t.Context(), tree, "/tmp/there", guest.CopyOptions{}); err != nil || report.Files != 1 || report.Links != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	if got := sh(t, agent, "cd /tmp/there && readlink link && stat -c %a sub/random && wc -c <link && echo more >sub/more"); got != "sub/random\n640\n1048576" {
		t.Errorf("in the guest there is %q", got)
	}
	back := filepath.Join(t.TempDir(), "back")
	if report, err := agent.CopyFrom(t.Context(), "/tmp/there", back, guest.CopyOptions{}); err != nil || report.Files != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	if text, err := os.ReadFile(filepath.Join(back, "link")); err != nil || !bytes.Equal(text, want) {
		t.Errorf("%d bytes came back, %v", len(text), err)
	}
	if text, err := os.ReadFile(filepath.Join(back, "sub/more")); err != nil || string(text) != "more\n" {
		t.Errorf("%q came back, %v", text, err)
	}
	if _, err := agent.CopyFrom(t.Context(), "/tmp/nothing", back, guest.CopyOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
