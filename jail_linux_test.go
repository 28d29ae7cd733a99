package smartvm

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

// jailedManager makes a manager whose VMs run under a real Firecracker in a jail.
func jailedManager(t *testing.T) *Manager {
	t.Helper()
	return newTestManager(t, Options{JailerBinary: proof.Jailer(t), FirecrackerBinary: proof.Firecracker(t)})
}

func TestAJailedVMMIsAUserOfItsOwnThatSeesNothingOfOurs(t *testing.T) {
	t.Parallel()
	m := jailedManager(t)
	config := smallConfig(t)
	config.Drives = []Drive{{DriveID: "data", PathOnHost: diskImage(t, "data.img", 1<<20)}}
	a, b := start(t, m, config), start(t, m, config)
	uids := map[uint32]bool{}
	for _, vm := range []*VM{a, b} {
		info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(vm.PID())))
		if err != nil {
			t.Fatal(err)
		}
		uids[info.Sys().(*syscall.Stat_t).Uid] = true
		root := filepath.Join("/proc", strconv.Itoa(vm.PID()), "root")
		for _, ours := range []string{recordName, lockName, exitName, journalName, "etc"} {
			if _, err := os.Lstat(filepath.Join(root, ours)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the VMM sees %s: %v", ours, err)
			}
		}
		staged, err := os.Stat(vm.Config().Drives[0].PathOnHost)
		if err != nil || staged.Sys().(*syscall.Stat_t).Uid != info.Sys().(*syscall.Stat_t).Uid {
			t.Errorf("its drive is not its own: %v", err)
		}
	}
	if len(uids) != 2 || uids[0] {
		t.Errorf("two VMs run as %v", uids)
	}
	uid := a.look().rec.Jail.UID
	if err := m.Remove(t.Context(), a.ID(), true); err != nil {
		t.Fatal(err)
	}
	if c := start(t, m, config); c.look().rec.Jail.UID != uid {
		t.Errorf("the user %d of a VM that is gone was not used again", uid)
	}
}

func TestAJailedVMIsRefusedWhatAJailKeepsFromIt(t *testing.T) {
	t.Parallel()
	m := jailedManager(t)
	for want, change := range map[string]func(*Config){
		"vsock.udsPath":    func(c *Config) { c.Vsock = &Vsock{GuestCID: 3, UDSPath: "/tmp/some.sock"} },
		"ephemeralStorage": func(c *Config) { c.EphemeralStorage = "memory" },
	} {
		config := smallConfig(t)
		change(&config)
		vm := create(t, m, config)
		err := vm.Start(t.Context())
		wantCode(t, err, InvalidConfig)
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--no-jail") {
			t.Errorf("%v does not say what, and what to do", err)
		}
	}
	no := false
	config := smallConfig(t)
	config.Drives = []Drive{{DriveID: "mine", PathOnHost: diskImage(t, "mine.img", 1<<20), Ephemeral: &no}}
	vm := create(t, m, config)
	err := vm.Start(t.Context())
	wantCode(t, err, DriveStageFailed)
	if !strings.Contains(err.Error(), "chown") || !strings.Contains(err.Error(), "mine.img") {
		t.Errorf("%v does not say which file, and what to do", err)
	}
	wantNothingLeft(t, m, vm)
}

func TestWithoutAJailerRootIsToldWhatToDo(t *testing.T) {
	t.Parallel()
	binary := proof.Firecracker(t)
	proof.Host(t)
	alone := filepath.Join(t.TempDir(), "firecracker")
	if err := os.Link(binary, alone); err != nil {
		if err := copyFile(binary, alone); err != nil {
			t.Fatal(err)
		}
	}
	m := newTestManager(t, Options{FirecrackerBinary: alone, JailerBinary: filepath.Join(t.TempDir(), "no-jailer")})
	err := create(t, m, smallConfig(t)).Start(t.Context())
	wantCode(t, err, InvalidConfig)
	if !strings.Contains(err.Error(), "no-jailer") {
		t.Errorf("%v does not name the jailer", err)
	}
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

func TestWhatLiesOnAnotherFilesystemIsMountedIntoTheJailAndGoneAfterwards(t *testing.T) {
	proof.Jailer(t)
	if !ownMounts(t) {
		return
	}
	m := jailedManager(t)
	elsewhere := t.TempDir()
	if err := unix.Mount("tmpfs", elsewhere, "tmpfs", 0, "size=16m,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(elsewhere, 0); err != nil {
			t.Error(err)
		}
	})
	image := filepath.Join(elsewhere, "fixed.img")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	config := smallConfig(t)
	config.Drives = []Drive{{DriveID: "fixed", PathOnHost: image, IsReadOnly: true}}
	vm := start(t, m, config)
	if got := mountsBelow(t, vm.Folder()); got != 1 {
		t.Errorf("%d mounts while it runs", got)
	}
	for range 2 {
		if err := vm.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := mountsBelow(t, vm.Folder()); got != 0 {
			t.Errorf("%d mounts after the end", got)
		}
		if err := vm.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Remove(t.Context(), vm.ID(), true); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(image); err != nil || info.Size() != 1<<20 || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the image was harmed: %v, %v", info, err)
	}
}

func mountsBelow(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), " "+dir+"/")
}
