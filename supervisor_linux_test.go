package smartvm

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAVMWhoseSupervisorWasKilledLacksNothingButAKnownEnd(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := settleIn(t, h, false)
	for _, op := range []string{"create", "start"} {
		h.do(t, deed{Op: op, VM: "vm", Name: "name"})
	}
	h.mark(t, "vm")
	_, jour, err := readJournal(h.runtime("vm"))
	if err != nil {
		t.Fatal(err)
	}
	if err := jour.Monitor.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	status := func() Status {
		t.Helper()
		vm, err := h.manager(t).VM("vm")
		if err != nil {
			t.Fatal(err)
		}
		s, err := vm.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := status(); s.Phase != PhaseRunning || s.Monitor != MonitorDead || s.PID != jour.VMM.PID {
		t.Errorf("%+v", s)
	}
	for _, d := range []deed{{Op: "gc"}, {Op: "pause"}, {Op: "resume"}, {Op: "snapshot", Name: "name-of-vm"}, {Op: "rename", Name: "other"}, {Op: "settle"}} {
		d.VM = "vm"
		h.do(t, d)
	}
	vm, err := h.manager(t).Find("other")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Version(t.Context()); err != nil {
		t.Error(err)
	}
	ended := time.Now().Truncate(time.Second)
	if err := unix.Kill(jour.VMM.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	note, err := vm.WaitEnd(t.Context())
	if err != nil || !note.Unknown || note.At.Before(ended) {
		t.Errorf("%+v, %v", note, err)
	}
	if s := status(); s.Phase != PhaseLost {
		t.Errorf("whoever finds the end notes it, and the VM is %q", s.Phase)
	}
	h.do(t, deed{Op: "start", VM: "vm"})
	h.wantMark(t, "vm", "vm")
	finish(t, h, "vm")
	b.wantAlone(t)
}
