package smartvm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"smartvm/record"
)

// afterReboot makes of a VM that runs what a reboot of the host makes of it: its processes and its runtime folder are gone,
// and its record is of another boot.
func afterReboot(t *testing.T, vm *VM) {
	t.Helper()
	look := vm.look()
	for _, p := range []record.Process{look.jour.Monitor, look.jour.VMM} {
		if p.PID == os.Getpid() {
			t.Fatal("the VM has no supervisor")
		}
		if err := p.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := unmountBelow(look.folder.data); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(look.rec.Runtime); err != nil {
		t.Fatal(err)
	}
	if err := removeIfThere(look.folder.path(exitName)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(vm.Folder(), recordName)
	file, err := record.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	look.rec.Boot = "00000000-0000-4000-8000-000000000000"
	if file.Data, err = json.Marshal(look.rec); err != nil {
		t.Fatal(err)
	}
	if err := record.Write(path, file, true); err != nil {
		t.Fatal(err)
	}
}

func TestAfterARebootAVMIsLostSaysSoAndStartsAgainWithItsDrives(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		m.options.Supervisor = supervisorForTests(t)
		config := smallConfig(t)
		config.Drives = []Drive{{DriveID: "data", PathOnHost: diskImage(t, "data.img", 1<<20)}}
		vm := start(t, m, config)
		staged := vm.Config().Drives[0].PathOnHost
		if err := os.WriteFile(staged, []byte("what the guest wrote"), 0o600); err != nil {
			t.Fatal(err)
		}
		afterReboot(t, vm)
		status, err := vm.Status(t.Context())
		if err != nil || status.Phase != PhaseLost || !strings.Contains(status.Detail, "rebooted") {
			t.Errorf("status %+v, %v", status, err)
		}
		if _, err := m.Sweep(t.Context(), SweepOptions{}); err != nil {
			t.Error(err)
		}
		if err := vm.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantState(t, vm, Running)
		if text, err := os.ReadFile(staged); err != nil || string(text) != "what the guest wrote" {
			t.Errorf("the drive holds %.20q, %v", text, err)
		}
	})
}

func TestAJournalOfAnotherBootNamesNoProcessOfThisOne(t *testing.T) {
	t.Parallel()
	self, err := record.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	self.Boot = "00000000-0000-4000-8000-000000000000"
	l := look{active: true, jour: vmJournal{Instance: 1, State: journalRunning, VMM: self}, rec: vmRecord{Instance: 1}}
	l.alive = l.active && l.jour.VMM.Alive()
	if state := l.state(); state != Failed {
		t.Errorf("state %s", state)
	}
}
