package smartvm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"smartvm/firecracker"
	"smartvm/internal/proof"
)

// statusOf is a line of /proc/PID/status.
func statusOf(t *testing.T, pid int, key string) []string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range lines(text) {
		if value, found := strings.CutPrefix(line, key+":"); found {
			return strings.Fields(value)
		}
	}
	t.Fatalf("no %s in %s", key, text)
	return nil
}

// supervisedInJail makes a manager whose VMs run in a jail and have supervisors.
func supervisedInJail(t *testing.T) *Manager {
	t.Helper()
	return newTestManager(t, Options{JailerBinary: proof.Jailer(t), FirecrackerBinary: proof.Firecracker(t), Supervisor: supervisorForTests(t)})
}

func TestASupervisedVMMInAJailIsProcess1OfItsNamespaceAndStopsWithoutSIGTERM(t *testing.T) {
	t.Parallel()
	m := supervisedInJail(t)
	vm := start(t, m, smallConfig(t))
	for range 2 {
		pid := vm.PID()
		if got := statusOf(t, pid, "NSpid"); len(got) != 2 || got[0] != strconv.Itoa(pid) || got[1] != "1" {
			t.Errorf("its process ids are %v", got)
		}
		if parent := statusOf(t, pid, "PPid")[0]; parent != strconv.Itoa(vm.look().jour.Monitor.PID) {
			t.Errorf("its parent is %s, not its supervisor", parent)
		}
		h, err := vm.acquire(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		in, err := h.instance()
		if err != nil {
			t.Fatal(err)
		}
		if ladder := h.ladder(t.Context(), in, byStop, 0); !slices.Equal(ladder, firecracker.Kill()) {
			t.Errorf("it is ended by %v", ladder)
		}
		h.release()
		if err := vm.StopWithin(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if note := vm.look().exit; note == nil || note.Signal != 9 || note.By != byStop || note.Unknown {
			t.Errorf("the note is %+v", note)
		}
		if err := vm.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASupervisorKnowsHowAVMMInAPIDNamespaceEnded(t *testing.T) {
	t.Parallel()
	m := supervisedInJail(t)
	config := smallConfig(t)
	config.Limits = &Limits{FileSizeMiB: 1}
	for _, test := range []struct {
		end          func(*VM, *instance)
		code, signal int
	}{
		{func(_ *VM, in *instance) { // which its limit ends it over
			_ = in.client.CreateSnapshot(t.Context(), firecracker.SnapshotCreate{SnapshotPath: "run/state", MemFilePath: "run/memory"})
		}, 151, 0},
		{func(vm *VM, _ *instance) { _ = unix.Kill(vm.PID(), syscall.SIGKILL) }, -1, 9},
	} {
		vm := start(t, m, config)
		if err := vm.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		in, _, err := vm.running("test")
		if err != nil {
			t.Fatal(err)
		}
		test.end(vm, in)
		if _, err := vm.Wait(t.Context()); err != nil {
			t.Logf("wait: %v", err)
		}
		if note := vm.look().exit; note == nil || note.Code != test.code || note.Signal != test.signal || note.Unknown {
			t.Errorf("the note is %+v, want code %d and signal %d", note, test.code, test.signal)
		}
	}
}

// A jailer that cannot write the VMM's process id, as on a full disk, has started the VMM already, and nobody knows it.
func TestAVMMWhoseJailerFailedBehindTheForkIsEnded(t *testing.T) {
	t.Parallel()
	m := supervisedInJail(t)
	var vm *VM
	m.options.hook = func(s step, after bool) error {
		if s != stepStartSpawn || after {
			return nil
		}
		jail := vm.look().rec.Jail
		return os.WriteFile(filepath.Join(jail.workOf(m.options.folderOf(vm.key).data), jail.Exec+".pid"), []byte("1"), 0o600)
	}
	vm = create(t, m, smallConfig(t))
	err := vm.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the jailer did not start the VMM (exit status 1)") || !strings.Contains(err.Error(), ".pid") {
		t.Errorf("got %v", err)
	}
	wantNothingLeft(t, m, vm)
	for pid, line := range vmProcesses(t) {
		if strings.Contains(line, "--id "+vm.key) {
			t.Errorf("the VMM %d is left: %s", pid, line)
		}
	}
}

func TestALibraryWithoutASupervisorTakesInNobodysOrphans(t *testing.T) {
	t.Parallel()
	vm := start(t, jailedManager(t), smallConfig(t))
	if got := statusOf(t, vm.PID(), "NSpid"); len(got) != 1 {
		t.Errorf("its process ids are %v", got)
	}
	var subreaper int32
	if err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&subreaper)), 0, 0, 0); err != nil || subreaper != 0 {
		t.Errorf("this process is a subreaper: %d, %v", subreaper, err)
	}
}
