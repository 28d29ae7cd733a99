package smartvm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"smartvm/guest"
	"smartvm/internal/proof"
)

// labManager makes a manager of the lab's VMM, and the configuration of a guest with our init.
func labManager(t *testing.T) (*Manager, Config) {
	t.Helper()
	binary, emulator := proof.LabVMM(t)
	options := Options{FirecrackerBinary: binary, ShutdownTimeout: 30 * time.Second}
	if emulator {
		options = Options{Emulate: true, EmulatorBinary: binary, ShutdownTimeout: 30 * time.Second}
	}
	image := os.Getenv("SMARTVM_TEST_IMAGE")
	return newTestManager(t, options), Config{
		BootSource:    BootSource{KernelImagePath: filepath.Join(image, "vmlinux"), InitrdPath: filepath.Join(image, "initrd")},
		MachineConfig: MachineConfig{MemSizeMiB: 256},
		Guest:         &Guest{},
	}
}

// Firecracker 1.16.0 and 1.16.1 break vsock at a bare pause and resume.
func TestTheAgentAnswersAfterPauseAndResumeInTheLab(t *testing.T) {
	m, config := labManager(t)
	vm, agent := boot(t, m, config)
	if got := sh(t, agent, "echo before"); got != "before" {
		t.Errorf("before the pause the guest says %q", got)
	}
	for range 2 {
		if err := vm.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantState(t, vm, Paused)
		if err := vm.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantState(t, vm, Running)
		if got := sh(t, agentOf(t, vm), "echo after"); got != "after" {
			t.Errorf("after the resume the guest says %q", got)
		}
	}
	if err := vm.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// restoreEnv makes a test program the process that restores; its value is the snapshot's folder.
const restoreEnv = "SMARTVM_LAB_RESTORE"

func TestASnapshotGoesOnInAnotherProcessInTheLab(t *testing.T) {
	m, config := labManager(t)
	if dir := os.Getenv(restoreEnv); dir != "" {
		restoreHere(t, m, dir)
		return
	}
	config.Drives = []Drive{{DriveID: "data", BlankMiB: 16}}
	vm, agent := boot(t, m, config)
	sh(t, agent, "echo kept >/run/kept && mount -t ext4 /dev/vda /mnt && echo on the drive >/mnt/kept && sync")
	if err := vm.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "snapshot")
	began := time.Now()
	if _, err := vm.Snapshot(t.Context(), dir, SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("snapshot: %v", time.Since(began).Round(time.Millisecond))
	if err := vm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	again.Env = append(os.Environ(), restoreEnv+"="+dir)
	if out, err := again.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("restored: kept on the drive")) {
		t.Errorf("the other process: %v\n%s", err, out)
	}
}

func restoreHere(t *testing.T, m *Manager, dir string) {
	clone := create(t, m, Config{})
	began := time.Now()
	if err := clone.Restore(t.Context(), dir, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	agent := agentOf(t, clone)
	kept := strings.ReplaceAll(sh(t, agent, "cat /run/kept /mnt/kept"), "\n", " ")
	t.Logf("restored: %s, after %v", kept, time.Since(began).Round(time.Millisecond))
	hello, err := agent.Hello(t.Context())
	if err != nil || hello.Epoch == 0 {
		t.Errorf("hello %+v, %v: the guest was not told that it was restored", hello, err)
	}
	session, err := agent.Start(t.Context(), guest.Command{Args: []string{"true"}, Main: true})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := session.Wait(t.Context()); err != nil || status.ExitCode() != 0 {
		t.Errorf("%v, %v", status, err)
	}
	if _, err := clone.Wait(t.Context()); err != nil {
		t.Errorf("the restored VM does not end with its main command: %v", err)
	}
}
