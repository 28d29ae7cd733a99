package smartvm

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

// ownMounts runs the test again in a process with a mount namespace of its own, and returns true there: what it mounts
// ends with it, whatever happens.
func ownMounts(t *testing.T) bool {
	t.Helper()
	const inside = "SMARTVM_TEST_OWN_MOUNTS"
	proof.Host(t)
	if os.Getenv(inside) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	again := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	again.Env = append(os.Environ(), inside+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if out, err := again.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("the test did not run inside:\n%s", out)
	}
	return false
}

// smallDisk mounts a disk of size bytes and makes a manager that keeps everything on it.
func smallDisk(t *testing.T, size string) *Manager {
	t.Helper()
	options := vmms()[0].options(t)
	options.DataDir = t.TempDir()
	if err := unix.Mount("tmpfs", options.DataDir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(options.DataDir, 0); err != nil {
			t.Error(err)
		}
	})
	return newTestManager(t, options)
}

func filled(t *testing.T, name string, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.Repeat("x", size)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAFullDiskIsFoundBeforeADriveIsStaged(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	m := smallDisk(t, "1m")
	config := smallConfig(t)
	config.Drives = []Drive{{DriveID: "big", PathOnHost: filled(t, "big.img", 4<<20)}}
	vm := create(t, m, config)
	err := vm.Start(t.Context())
	wantCode(t, err, DriveStageFailed)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "4") || !strings.Contains(err.Error(), "free") {
		t.Errorf("%v does not say what is needed and what is free", err)
	}
	wantNothingLeft(t, m, vm)
}

func TestAFullDiskIsFoundBeforeASnapshotIsWritten(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	m := smallDisk(t, "64m") // the VM has 128 MiB of memory
	vm := start(t, m, smallConfig(t))
	if err := vm.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := vm.Snapshot(t.Context(), filepath.Join(m.options.DataDir, "snapshot"), SnapshotOptions{})
	wantCode(t, err, SnapshotFailed)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v does not say that there is no space", err)
	}
	entries, err := os.ReadDir(m.options.DataDir)
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the VMs there is something left: %v, %v", entries, err)
	}
	wantState(t, vm, Paused)
	if err := vm.Resume(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestADiskThatFillsUpWhileASnapshotIsWrittenLeavesNothing(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	// Enough by the count of bytes, but not of files: the state can be made, the memory cannot.
	m := smallDisk(t, "256m,nr_inodes=12")
	vm := start(t, m, smallConfig(t))
	if err := vm.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	var stat unix.Statfs_t
	for { // until one more file than the snapshot's folder and its state fits
		if err := unix.Statfs(m.options.DataDir, &stat); err != nil {
			t.Fatal(err)
		}
		if stat.Ffree <= 3 {
			break
		}
		if err := os.WriteFile(filepath.Join(m.options.DataDir, "vms", vm.Key(), "filler"+string(rune('a'+stat.Ffree))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := vm.Snapshot(t.Context(), filepath.Join(m.options.DataDir, "snapshot"), SnapshotOptions{})
	if !errors.Is(err, APIError) && !errors.Is(err, SnapshotFailed) {
		t.Fatalf("error %v", err)
	}
	if !strings.Contains(err.Error(), "No space left") && !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v does not say that there is no space", err)
	}
	if entries, err := os.ReadDir(m.options.DataDir); err != nil || len(entries) != 1 {
		t.Errorf("beside the VMs there is something left: %v, %v", entries, err)
	}
	wantState(t, vm, Paused)
	if err := vm.Resume(t.Context()); err != nil {
		t.Error(err)
	}
}
