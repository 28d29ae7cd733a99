package smartvm

import (
	"errors"
	"slices"
	"syscall"
	"testing"
)

func TestAVMThatIsToBeRemovedGoesWhenItIsEndedByACall(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		for name, end := range map[string]func(*VM) error{
			"stop": func(vm *VM) error { return vm.Stop(t.Context()) },
			"kill": func(vm *VM) error { return vm.Kill(t.Context()) },
		} {
			vm, err := m.Create(t.Context(), smallConfig(t), CreateOptions{Remove: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := vm.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := end(vm); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := vm.Status(t.Context()); !errors.Is(err, VMNotFound) {
				t.Errorf("%s: the VM is still there: %v", name, err)
			}
			if err := vm.Remove(t.Context(), true); err != nil {
				t.Errorf("%s: the removal of a VM that is gone: %v", name, err)
			}
		}
	})
}

func TestRestartEndsTheVMAndStartsItInOneCall(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		vm, err := m.Create(t.Context(), smallConfig(t), CreateOptions{Remove: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := vm.Restart(t.Context(), 0); err != nil {
			t.Fatalf("one that was never started: %v", err)
		}
		first := vm.PID()
		if err := vm.Restart(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		wantState(t, vm, Running)
		if second := vm.PID(); first == 0 || second == 0 || second == first {
			t.Errorf("pids %d and %d", first, second)
		}
	})
}

func TestAVMThatHasJustEndedIsNotLost(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		for range 5 {
			vm := start(t, m, smallConfig(t))
			if err := syscall.Kill(vm.PID(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			for phase := PhaseRunning; phase == PhaseRunning || phase == PhaseUnresponsive; { // the kernel takes its time
				status, err := vm.Status(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if phase = status.Phase; phase == PhaseLost {
					t.Errorf("it is %s: %s", phase, status.Detail)
				}
			}
		}
	})
}

func TestFindTellsWhichVMsBeginSo(t *testing.T) {
	t.Parallel()
	m := newTestManager(t, vmms()[0].options(t))
	for _, id := range []string{"web-one", "web-two"} {
		config := smallConfig(t)
		config.ID = id
		if err := create(t, m, config).Save(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_, err := m.Find("web-")
	var several *AmbiguousError
	if wantCode(t, err, VMNotFound); !errors.As(err, &several) {
		t.Fatalf("%v tells no candidates", err)
	}
	if slices.Sort(several.Candidates); !slices.Equal(several.Candidates, []string{"web-one", "web-two"}) {
		t.Errorf("candidates %q", several.Candidates)
	}
	if _, err := m.Find("nobody"); !errors.Is(err, VMNotFound) || errors.As(err, &several) {
		t.Errorf("one that is not there: %v", err)
	}
}
