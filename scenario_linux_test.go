package smartvm

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// A scenario is an operation on a VM that was brought to where the operation makes sense.
type scenario struct {
	name     string
	prepared []string // operations, in order; "mark" writes to the VM's drive, "lose" ends the VMM while nobody looks
	op       string
	alone    bool // without a supervisor; the acting process owns the VM
	again    bool // it starts, stops or settles a VM as others do

	// What List says when the operation was cut off: nothing ("") or a phase, from before its first step on, and each
	// from after a step on.
	first Phase
	turns []turn
}

type turn struct {
	from step
	to   Phase
}

// absent is the phase of a VM that is not there.
const absent Phase = ""

// scenarios are the operations, in every state of a VM in which they do something of their own.
func scenarios() []scenario {
	running := []string{"create", "start", "mark"}
	stopped := []string{"create", "start", "mark", "stop"}
	lost := []string{"create", "start", "mark", "lose"}
	starting := []turn{{stepStartJournal, PhaseFailed}, {stepStartCommit, PhaseRunning}}
	return []scenario{
		{name: "create", op: "create", first: absent, turns: []turn{{stepCreatePublish, PhaseCreated}}},
		{name: "start a new VM", prepared: []string{"create"}, op: "start", first: PhaseCreated, turns: starting},
		{name: "start a stopped VM", again: true, prepared: stopped, op: "start", first: PhaseExited, turns: starting},
		{name: "start a lost VM", again: true, prepared: lost, op: "start", first: PhaseLost, turns: starting},
		{name: "start a VM of one's own", op: "own", alone: true, first: absent, turns: []turn{
			{stepCreatePublish, PhaseCreated}, {stepStartJournal, PhaseFailed}, {stepStartRunning, PhaseRunning}}},
		{name: "restore", again: true, prepared: []string{"create"}, op: "restore", first: PhaseCreated, turns: starting},
		{name: "pause", prepared: running, op: "pause", first: PhaseRunning, turns: []turn{{stepPauseVMM, PhasePaused}}},
		{name: "resume", prepared: append(running[:3:3], "pause"), op: "resume", first: PhasePaused, turns: []turn{{stepResumeVMM, PhaseRunning}}},
		{name: "stop", prepared: running, op: "stop", first: PhaseRunning, turns: []turn{{stepStopVMM, PhaseExited}}},
		{name: "end by itself", prepared: running, op: "end", first: PhaseLost, turns: []turn{{stepMonitorNote, PhaseKilled}}},
		{name: "settle", prepared: lost, op: "settle", first: PhaseLost},
		{name: "gc", again: true, prepared: append(lost[:4:4], "rubbish"), op: "gc", first: PhaseLost},
		{name: "clean up", again: true, prepared: running, op: "clean up", first: PhaseRunning, turns: []turn{{stepStopVMM, PhaseExited}}},
		{name: "snapshot a running VM", prepared: running, op: "snapshot", first: PhaseRunning, turns: []turn{{stepPauseVMM, PhasePaused}, {stepResumeVMM, PhaseRunning}}},
		{name: "remove a snapshot", again: true, prepared: append(running[:3:3], "snapshot"), op: "remove snapshot", first: PhaseRunning},
		{name: "rename a running VM", prepared: running, op: "rename", first: PhaseRunning},
		{name: "rename a stopped VM", prepared: stopped, op: "rename", first: PhaseExited},
		{name: "update a drive", prepared: running, op: "update drive", first: PhaseRunning},
		{name: "remove a stopped VM", prepared: stopped, op: "remove", first: PhaseExited, turns: []turn{{stepRemoveHide, absent}}},
		{name: "remove a running VM", again: true, prepared: running, op: "force", first: PhaseRunning, turns: []turn{{stepStopVMM, PhaseKilled}, {stepRemoveHide, absent}}},
	}
}

// deed is what the scenario's operation is, done to the VM with this id.
func (s scenario) deed(op, id string) deed {
	d := deed{Op: op, VM: id, Name: "name-of-" + id}
	switch op {
	case "restore":
		d.Name = "base"
	case "rename":
		d.Name = "new-" + d.Name
	}
	return d
}

// prepare brings a VM to where the operation begins.
func (s scenario) prepare(tb testing.TB, h house, m *Manager, id string) {
	tb.Helper()
	for _, op := range s.prepared {
		switch op {
		case "mark":
			h.mark(tb, id)
		case "lose":
			h.lose(tb, id)
		case "rubbish":
			if err := os.MkdirAll(h.path("data/vms/"+asidePrefix+"rubbish/drives"), 0o700); err != nil {
				tb.Fatal(err)
			}
		default:
			if err := s.deed(op, id).perform(tb.Context(), m, h); err != nil {
				tb.Fatalf("%s: %v", op, err)
			}
		}
	}
}

// phaseAt is what List says when the operation was cut off before or after a step; the steps are in order.
func (s scenario) phaseAt(steps []step, at step, after bool) Phase {
	phase := s.first
	position := slices.Index(steps, at)
	for _, turn := range s.turns {
		i := slices.Index(steps, turn.from)
		if i >= 0 && (i < position || i == position && after) {
			phase = turn.to
		}
	}
	return phase
}

// marked tells whether the VM's drive holds something that must not get lost.
func (s scenario) marked() bool { return slices.Contains(s.prepared, "mark") && s.op != "clean up" }

// steps performs the operation undisturbed and tells which steps are taken on the way, and at which moments a VMM is there:
// by this process, then by the supervisor.
func (s scenario) steps(t *testing.T, h house, b *bystander) (here, supervisor []step, live map[moment]bool) {
	t.Helper()
	const id = "undisturbed"
	trace := h.path("trace")
	defer os.Remove(trace)
	m, err := h.open(fault{}, fault{How: faultTrace, Mark: trace})
	if err != nil {
		t.Fatal(err)
	}
	s.prepare(t, h, m, id)
	if err := os.Remove(trace); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if m, err = h.open(fault{}, fault{How: faultTrace, Mark: trace}); err != nil { // VMs that it knows have no hook
		t.Fatal(err)
	}
	live = map[moment]bool{}
	var mu sync.Mutex
	done := false
	m.options.hook = func(st step, after bool) error {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return nil // a monitor in this process lives on
		}
		if !slices.Contains(here, st) {
			here = append(here, st)
		}
		live[moment{st, after}] = len(vmmsIn(h.vmFolder(id))) > 0
		return nil
	}
	if err := s.deed(s.op, id).perform(t.Context(), m, h); err != nil {
		t.Fatalf("%s: %v", s.op, err)
	}
	mu.Lock()
	done = true
	mu.Unlock()
	_, jour, err := readJournal(h.runtime(id))
	if err != nil {
		t.Fatal(err)
	}
	for pid := range h.processes(t) {
		if pid != b.vmm.PID && pid != b.monitor.PID && pid != jour.VMM.PID && pid != jour.Monitor.PID {
			if err := awaitProcess(pid); err != nil { // a supervisor that has something to say still
				t.Fatal(err)
			}
		}
	}
	supervisor = readTrace(t, trace)
	finish(t, h, id)
	b.wantAlone(t)
	return here, supervisor, live
}

type moment struct {
	step  step
	after bool
}

// finish takes a VM away, and the snapshot that may have been made of it.
func finish(t *testing.T, h house, id string) {
	t.Helper()
	m := h.manager(t)
	if err := m.Remove(context.Background(), id, true); err != nil && CodeOf(err) != VMNotFound {
		t.Errorf("remove: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(m.snapshotsDir(), "name-of-"+id)); err != nil {
		return
	}
	all, err := m.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	for _, snapshot := range all {
		if snapshot.Name != "name-of-"+id {
			continue
		}
		if snapshot.Fault != "" {
			t.Errorf("the snapshot is not whole: %s", snapshot.Fault)
		}
		if err := m.RemoveSnapshot(context.Background(), snapshot.Name); err != nil {
			t.Error(err)
		}
	}
}
