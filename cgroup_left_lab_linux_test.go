package smartvm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"smartvm/internal/cgroup"
	"smartvm/internal/proof"
)

func TestARestoredVMHasTheLimitsOfItsSnapshot(t *testing.T) {
	onEachLimitedVMM(t, func(t *testing.T, options Options) {
		m := newTestManager(t, options)
		vm := start(t, m, limitedConfig(t, false))
		if err := vm.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "snapshot")
		if _, err := vm.Snapshot(t.Context(), dir, SnapshotOptions{}); err != nil {
			t.Fatal(err)
		}
		clone := create(t, m, Config{})
		if err := clone.Restore(t.Context(), dir, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, vm := range []*VM{vm, clone} {
			if in, err := cgroup.Has(cgroupDir(t, vm), vm.PID()); !in || err != nil {
				t.Errorf("%s is not in its cgroup: %v", vm.ID(), err)
			}
			if got := controlFile(t, cgroupDir(t, vm), "pids.max"); got != "64" {
				t.Errorf("pids.max of %s is %s", vm.ID(), got)
			}
			if err := vm.Kill(t.Context()); err != nil {
				t.Error(err)
			}
			wantNoCgroup(t, cgroupDir(t, vm))
		}
	})
}

func TestTheCgroupOfAVMOfWhichNothingElseIsKnownIsRemoved(t *testing.T) {
	proof.Lab(t)
	for name, forget := range map[string]func(t *testing.T, h house, vm *VM){
		"its folder is gone": func(t *testing.T, h house, vm *VM) {
			h.lose(t, "vm")
			if err := os.RemoveAll(h.vmFolder("vm")); err != nil {
				t.Fatal(err)
			}
			if _, err := h.manager(t).Sweep(t.Context(), SweepOptions{}); err != nil {
				t.Error(err)
			}
		},
		"its record is garbage": func(t *testing.T, h house, vm *VM) {
			if err := os.WriteFile(filepath.Join(h.vmFolder("vm"), recordName), []byte("garbage"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := h.manager(t).Remove(t.Context(), "vm", true); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.Limited = true
			h.do(t, deed{Op: "create", VM: "vm"})
			h.do(t, deed{Op: "start", VM: "vm"})
			vm, err := h.manager(t).VM("vm")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(cgroupDir(t, vm)); err != nil {
				t.Fatal(err)
			}
			forget(t, h, vm)
			wantNoCgroup(t, cgroupDir(t, vm))
			if _, err := os.Lstat(h.runtime("vm")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its runtime folder is still there: %v", err)
			}
		})
	}
}

func TestAVMOfAnotherHouseWithTheSameKeyIsLeftAlone(t *testing.T) {
	proof.Lab(t)
	houses := []house{newHouse(t), newHouse(t)}
	for i := range houses {
		houses[i].Limited = true
		houses[i].do(t, deed{Op: "create", VM: "vm"})
	}
	houses[0].do(t, deed{Op: "start", VM: "vm"})
	other := houses[1].manager(t)
	vm, err := other.VM("vm")
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, vm.Start(t.Context()), InvalidState)
	if _, err := other.Sweep(t.Context(), SweepOptions{}); err != nil {
		t.Error(err)
	}
	first, err := houses[0].manager(t).VM("vm")
	if err != nil {
		t.Fatal(err)
	}
	if in, err := cgroup.Has(cgroupDir(t, first), first.PID()); !in || err != nil {
		t.Errorf("the first is not in its cgroup any more: %v", err)
	}
	for _, h := range houses {
		finish(t, h, "vm")
	}
	wantNoCgroup(t, cgroupDir(t, first))
}
