package smartvm

import (
	"os"
	"strings"
	"testing"
)

// A user's runtime folder goes with their last session; what runs may go on.
func TestAVMThatLostItsRuntimeFolderIsEndedBeforeAnotherHasItsDrives(t *testing.T) {
	for name, act := range map[string]func(*testing.T, *Manager, *VM) error{
		"start":  func(t *testing.T, _ *Manager, vm *VM) error { return vm.Start(t.Context()) },
		"remove": func(t *testing.T, _ *Manager, vm *VM) error { return vm.Remove(t.Context(), true) },
		"gc": func(t *testing.T, m *Manager, _ *VM) error {
			_, err := m.Sweep(t.Context(), SweepOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEachVMM(t, func(t *testing.T, m *Manager) {
				m.options.Supervisor = supervisorForTests(t)
				config := smallConfig(t)
				config.Drives = []Drive{{DriveID: "data", PathOnHost: diskImage(t, "data.img", 1<<20)}}
				vm := createDetached(t, m, config, CreateOptions{})
				if err := vm.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				look := vm.look()
				if err := os.RemoveAll(look.rec.Runtime); err != nil {
					t.Fatal(err)
				}
				if status, err := vm.Status(t.Context()); err != nil || status.Phase != PhaseLost || !strings.Contains(status.Detail, strayMeaning) {
					t.Errorf("status %+v, %v", status, err)
				}
				if err := act(t, m, vm); err != nil {
					t.Fatal(err)
				}
				if look.jour.VMM.Alive() {
					t.Error("the VMM of before goes on")
				}
				if name == "start" {
					wantState(t, vm, Running)
				}
			})
		})
	}
}
