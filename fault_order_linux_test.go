package smartvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"smartvm/firecracker"
)

// wantOrder checks that there is nothing that belongs to no VM.
func (r *row) wantOrder(t *testing.T, id string, phase Phase) {
	t.Helper()
	for _, file := range r.house.files(t) {
		base := filepath.Base(file)
		odd := strings.HasPrefix(base, ".") && base != ".lock"
		gone := phase == absent && (base == id || base == "name-of-"+id && !strings.Contains(file, "snapshots"))
		if odd || gone {
			t.Errorf("gc left %s", file)
		}
	}
}

// wantName checks that the VM is found by its name still.
func (r *row) wantName(t *testing.T, id string) {
	t.Helper()
	for _, name := range []string{"name-of-" + id, "new-name-of-" + id} {
		if vm, err := r.house.manager(t).Find(name); err == nil && vm.ID() == id {
			return
		}
	}
	t.Errorf("the VM lost its name")
}

// wantUsable checks that a VM that lives answers and can be changed, and that one which does not can be started, with its
// drives as they were left.
func (r *row) wantUsable(t *testing.T, vm *VM, phase Phase) {
	t.Helper()
	ctx := t.Context()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	h, id := r.house, vm.ID()
	switch phase {
	case PhaseRunning:
		must("pause", vm.Pause(ctx))
		must("resume", vm.Resume(ctx))
	case PhasePaused:
		must("resume", vm.Resume(ctx))
	}
	live := phase == PhaseRunning || phase == PhasePaused
	if home := vm.look().rec.Home; home != nil && home.Restored != "" && !live {
		return // there is no kernel to start it with
	}
	if live {
		info, err := vm.Info(ctx)
		if err != nil || info.State != firecracker.StateRunning {
			t.Errorf("the VM is %v, %v", info.State, err)
		}
	}
	if r.marked() {
		h.wantMark(t, id, id)
	}
	if r.op == "restore" && live {
		h.wantMark(t, id, "source")
		must("stop", vm.Stop(ctx))
		return
	}
	if live {
		must("stop", vm.Stop(ctx))
		if phase := h.list(t)[id]; phase != PhaseExited {
			t.Errorf("a VM that was stopped is %q", phase)
		}
	}
	must("start", vm.Start(ctx))
	if info, err := vm.Info(ctx); err != nil || info.State != firecracker.StateRunning {
		t.Errorf("the VM is %v, %v after the next start", info.State, err)
	}
	if r.marked() {
		h.wantMark(t, id, id)
	}
}

// readTrace reads the steps that a process took.
func readTrace(t *testing.T, path string) (steps []step) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if name, first := strings.CutPrefix(strings.TrimSpace(line), "false "); first {
			steps = append(steps, step(name))
		}
	}
	return steps
}
