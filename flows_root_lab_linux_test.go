package smartvm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"smartvm/drive"
	"smartvm/guest"
	"smartvm/internal/proof"
)

func TestAJailedGuestRunsFromRootDrives(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	root := rootImage(t)
	before, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o644); err != nil {
		t.Fatal(err)
	}
	yes := true
	for _, test := range []struct {
		name   string
		drive  Drive
		fsType string
		method drive.Method
	}{
		{"a writable ext4, copied", Drive{PathOnHost: root, Ephemeral: &yes}, "ext4", drive.Reflink},
		{"a read-only ext4 under an overlay", Drive{PathOnHost: root, IsReadOnly: true}, "ext4", drive.Overlay},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := config
			config.Guest = &Guest{RootFSType: test.fsType}
			test.drive.DriveID, test.drive.IsRootDevice = "root", true
			config.Drives = []Drive{test.drive}
			vm, agent := boot(t, m, config)
			if got := sh(t, agent, "cat /marker; echo changed > /marker; cat /marker; ls -d /proc/1 /dev/null"); got != "from the root drive\nchanged\n/dev/null\n/proc/1" {
				t.Errorf("the guest says %q", got)
			}
			if drives := vm.Drives(); len(drives) != 1 || drives[0].Method != test.method {
				t.Errorf("staged as %+v", drives)
			}
			if err := vm.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := vm.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := sh(t, agentOf(t, vm), "cat /marker"); got != "changed" {
				t.Errorf("at the next start the guest says %q", got)
			}
			if err := vm.Remove(t.Context(), true); err != nil {
				t.Fatal(err)
			}
		})
	}
	if after, err := os.ReadFile(root); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the image %s was changed (%v)", filepath.Base(root), err)
	}
}

// The squashfs in testdata has the folders that init wants and a marker, and no program: the agent reads and writes for us.
//
//	mkdir proc sys dev tmp run etc mnt root; echo from the root drive >marker
//	mksquashfs . root.squashfs -all-root -all-time 0 -mkfs-time 0 -no-xattrs
func TestAJailedGuestRunsFromASquashfsUnderAnOverlay(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	root, err := filepath.Abs("testdata/root.squashfs")
	if err != nil {
		t.Fatal(err)
	}
	config.Drives = []Drive{{DriveID: "root", PathOnHost: root, IsRootDevice: true, IsReadOnly: true}}
	vm, agent := boot(t, m, config)
	files := t.TempDir()
	theirs, ours := filepath.Join(files, "theirs"), filepath.Join(files, "ours")
	wantMarker := func(want string) {
		t.Helper()
		if _, err := agent.CopyFrom(t.Context(), "/marker", theirs, guest.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(theirs); err != nil || string(text) != want {
			t.Errorf("the root drive holds %q, %v", text, err)
		}
	}
	wantMarker("from the root drive\n")
	if err := os.WriteFile(ours, []byte("changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.CopyTo(t.Context(), ours, "/marker", guest.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	wantMarker("changed\n")
	if err := vm.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	agent = agentOf(t, vm)
	wantMarker("changed\n")
}
