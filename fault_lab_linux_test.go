package smartvm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/internal/cgroup"
	"smartvm/internal/proof"
)

// newJailedHouse builds a house whose VMs run under a real Firecracker in its jail, with limits and with a mount: what a
// start takes of the host only then is a user, files in the jail, mounts and a cgroup.
func newJailedHouse(t *testing.T) house {
	t.Helper()
	h := newHouse(t)
	h.Limited, h.Firecracker, h.Jailer = true, proof.LabFirecracker(t), proof.LabJailer(t)
	dir, err := os.MkdirTemp("/run", "elsewhere-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h.Elsewhere = dir
	kernel := filepath.Join(dir, "vmlinux")
	proof.WriteKernel(t, kernel)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(kernel, 0o644)); err != nil { // else it would be copied
		t.Fatal(err)
	}
	return h
}

// jailSteps are the steps that do more in a jail, or with limits: a user is taken and freed, files are placed, mounted and
// taken away, the jailer becomes the VMM, a cgroup is made and removed.
var jailSteps = []step{
	stepStartStage, stepStartRecord, stepStartCgroup, stepStartSpawn, stepStartNote, stepStartReady, stepRestoreStage, stepMonitorSpawn,
	stepSettleKill, stepSettleSockets, stepSettleJournal, stepSettleHome, stepRemoveHide, stepRemoveFolder,
}

// The fault matrix's rows in which such steps are taken, and of these nothing but such steps: the others are the same
// without.
func TestNoFaultAtAnyStepOfAJailedVMLeavesAnything(t *testing.T) {
	proof.LabLong(t)
	reached := map[step]bool{}
	for _, s := range scenarios() {
		if !slices.Contains([]string{"start a new VM", "restore", "settle", "remove a running VM"}, s.name) {
			continue
		}
		t.Run(s.name, func(t *testing.T) { // one after the other: all houses share the host's cgroups
			h := newJailedHouse(t)
			r := newRow(t, s, h)
			if len(r.bystander.mounts) == 0 {
				t.Error("nothing is mounted in the bystander's jail")
			}
			for _, st := range slices.Concat(r.here, r.supervisor) {
				reached[st] = true
			}
			r.only = jailSteps
			r.after = func(t *testing.T) { wantOnlyCgroupOf(t, bystanderID) }
			r.run(t, unix.ENOSPC)
			t.Logf("cases: %v", r.cases)
		})
	}
	for _, st := range jailSteps {
		if !reached[st] {
			t.Errorf("no row takes the step %q", st)
		}
	}
}

// wantOnlyCgroupOf checks that no other VM has a cgroup, and that this one is in its own.
func wantOnlyCgroupOf(t *testing.T, id string) {
	t.Helper()
	hierarchy, err := cgroup.Mounted()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(hierarchy, "smartvm"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	if !slices.Equal(names, []string{keyOf(id)}) {
		t.Errorf("there are the cgroups %v", names)
	}
}
