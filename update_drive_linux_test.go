package smartvm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

// publicImage is a disk image that everybody may read.
func publicImage(t *testing.T, path string, size int64) string {
	t.Helper()
	err := os.WriteFile(path, nil, 0o644)
	if err = errors.Join(err, os.Chmod(path, 0o644), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	return path
}

// jailedWithDrive starts a VM in a jail with a drive "data" that is used in place.
func jailedWithDrive(t *testing.T, hook stepHook, image string) *VM {
	t.Helper()
	m := newTestManager(t, Options{JailerBinary: proof.Jailer(t), FirecrackerBinary: proof.Firecracker(t), hook: hook})
	config := smallConfig(t)
	config.Drives = []Drive{{DriveID: "data", PathOnHost: image, IsReadOnly: true}}
	return start(t, m, config)
}

// wantOnlyDrive checks that the file is the one drive that the jail has, by the record, in the folder, and for the VMM.
func wantOnlyDrive(t *testing.T, vm *VM, image string) {
	t.Helper()
	rec := vm.look().rec
	if got := rec.Home.OnHost.Drives[0].PathOnHost; got != image {
		t.Errorf("on record is %s, want %s", got, image)
	}
	seen := rec.Home.Seen.Drives[0].PathOnHost
	jail := rec.Jail.workOf(vm.Folder())
	entries, err := os.ReadDir(filepath.Join(jail, drivesDir))
	var names []string
	for _, entry := range entries {
		names = append(names, filepath.Join(drivesDir, entry.Name()))
	}
	if err != nil || !slices.Equal(names, []string{seen}) {
		t.Errorf("in the jail are %q (%v), and of use is %s", names, err, seen)
	}
	for _, m := range rec.Jail.Mounts {
		if filepath.Dir(m.Name) == drivesDir && m.Name != seen {
			t.Errorf("on record is a mount of old: %+v", m)
		}
	}
	if client, err := vm.Client(); err == nil {
		config, err := client.GetVMConfig(t.Context())
		if err != nil || config.Drives[0].PathOnHost != seen {
			t.Errorf("the VMM has %+v, %v; want %s", config.Drives, err, seen)
		}
	}
}

func links(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Nlink)
}

func TestADriveOfAJailedVMIsSwappedAndItsOldFileIsFreed(t *testing.T) {
	t.Parallel()
	proof.Jailer(t)
	dir := t.TempDir()
	one, two := publicImage(t, filepath.Join(dir, "one.img"), 1<<20), publicImage(t, filepath.Join(dir, "two.img"), 2<<20)
	var fail step
	vm := jailedWithDrive(t, func(s step, after bool) error {
		if s == fail && !after {
			return unix.ENOSPC
		}
		return nil
	}, one)
	for range 2 {
		for _, image := range []string{two, one} {
			if err := vm.UpdateDrive(t.Context(), "data", image); err != nil {
				t.Fatal(err)
			}
			wantOnlyDrive(t, vm, image)
		}
	}
	if links(t, one) != 2 || links(t, two) != 1 {
		t.Errorf("links: %d and %d", links(t, one), links(t, two))
	}
	// What fails leaves nothing behind: where the VMM refuses, where nothing can be made, and where it cannot be noted.
	if err := vm.UpdateDrive(t.Context(), "none", two); err == nil {
		t.Error("there is no such drive")
	}
	wantOnlyDrive(t, vm, one)
	for _, fail = range []step{stepSwapNote, stepSwapLend, stepSwapVMM, stepSwapRecord} {
		if err := vm.UpdateDrive(t.Context(), "data", two); !errors.Is(err, unix.ENOSPC) || CodeOf(err) == "" {
			t.Errorf("%s failed, and that is told: %v", fail, err)
		}
		wantOnlyDrive(t, vm, one)
	}
	fail = stepSwapDrop
	if err := vm.UpdateDrive(t.Context(), "data", two); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("the old file stayed, and that is told: %v", err)
	}
	fail = ""
	for range 2 {
		if err := vm.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantOnlyDrive(t, vm, two)
		if err := vm.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatACrashLeavesOfASwapInAJailGoesWithTheRun(t *testing.T) {
	t.Parallel()
	proof.Jailer(t)
	dir := t.TempDir()
	one, two := publicImage(t, filepath.Join(dir, "one.img"), 1<<20), publicImage(t, filepath.Join(dir, "two.img"), 2<<20)
	for last, want := range map[step]string{stepSwapNote: one, stepSwapLend: one, stepSwapVMM: one, stepSwapRecord: two, stepSwapDrop: two} {
		t.Run(string(last), func(t *testing.T) {
			vm := jailedWithDrive(t, func(s step, after bool) error {
				if s == last && after {
					runtime.Goexit() // as a kill: nothing is undone
				}
				return nil
			}, one)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = vm.UpdateDrive(t.Context(), "data", two)
				panic(fmt.Sprint("it went on beyond ", last))
			}()
			<-done
			if err := vm.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantOnlyDrive(t, vm, want)
			if err := vm.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantOnlyDrive(t, vm, want)
		})
	}
}

func TestTheMountOfADriveThatWasSwappedIsGone(t *testing.T) {
	proof.Jailer(t)
	if !ownMounts(t) {
		return
	}
	elsewhere := t.TempDir()
	if err := unix.Mount("tmpfs", elsewhere, "tmpfs", 0, "size=16m,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(elsewhere, 0); err != nil {
			t.Error(err)
		}
	})
	mounted, linked := publicImage(t, filepath.Join(elsewhere, "mounted.img"), 1<<20), publicImage(t, filepath.Join(t.TempDir(), "linked.img"), 2<<20)
	vm := jailedWithDrive(t, nil, mounted)
	if got := mountsBelow(t, vm.Folder()); got != 1 {
		t.Errorf("%d mounts at first", got)
	}
	if err := vm.UpdateDrive(t.Context(), "data", linked); err != nil {
		t.Fatal(err)
	}
	wantOnlyDrive(t, vm, linked)
	if got := mountsBelow(t, vm.Folder()); got != 0 {
		t.Errorf("%d mounts after the swap", got)
	}
	if err := errors.Join(vm.Kill(t.Context()), vm.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	wantOnlyDrive(t, vm, linked)
	// Mounts are private here, so that the jail does not get the new one, and the VMM refuses the file that it sees.
	if err := vm.UpdateDrive(t.Context(), "data", mounted); err == nil {
		t.Error("the VMM took what it cannot see")
	}
	wantOnlyDrive(t, vm, linked)
	if got := mountsBelow(t, vm.Folder()); got != 0 {
		t.Errorf("%d mounts after a swap that failed", got)
	}
}
