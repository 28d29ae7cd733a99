package smartvm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The fault matrix: every step of every operation, before and after it, the process that takes it is killed, its VMM is
// killed, or the step fails. A bystander lives in the same house. What is left must be understood by whoever comes next.

// TestNoFaultAtAnyStepLosesAVMOrLeavesAnything walks it.
func TestNoFaultAtAnyStepLosesAVMOrLeavesAnything(t *testing.T) {
	t.Parallel()
	var (
		mu      sync.Mutex
		reached = map[step]bool{}
		cases   = map[string]int{}
	)
	t.Run("scenarios", func(t *testing.T) {
		for _, s := range scenarios() {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				h := newHouse(t)
				h.Alone = s.alone
				r := newRow(t, s, h)
				r.run(t, unix.ENOSPC, unix.EACCES, unix.EIO)
				mu.Lock()
				defer mu.Unlock()
				for _, st := range slices.Concat(r.here, r.supervisor) {
					reached[st] = true
				}
				for how, n := range r.cases {
					cases[how] += n
				}
			})
		}
	})
	for _, st := range allSteps() {
		if !reached[st] {
			t.Errorf("no operation takes the step %q", st)
		}
		delete(reached, st)
	}
	for st := range reached {
		t.Errorf("the step %q is not listed", st)
	}
	t.Logf("cases: %v", cases)
}

// row is one scenario's row of the matrix.
type row struct {
	scenario
	house      house
	bystander  *bystander
	here       []step // that this operation takes itself, in order
	supervisor []step // that its supervisor takes
	live       map[moment]bool
	cases      map[string]int
	count      int
	only       []step             // those that are walked; nil: all
	after      func(t *testing.T) // looks at the host after each case; may be nil
}

// newRow makes a row, in a house of its own: with a bystander, and a snapshot where it needs one.
func newRow(t *testing.T, s scenario, h house) *row {
	t.Helper()
	r := &row{scenario: s, house: h, bystander: settleIn(t, h, s.op == "restore"), cases: map[string]int{}}
	r.here, r.supervisor, r.live = s.steps(t, h, r.bystander)
	return r
}

// run walks the row; steps fail with each of the errors.
func (r *row) run(t *testing.T, errnos ...unix.Errno) {
	for _, after := range []bool{false, true} {
		for _, st := range r.here {
			r.one(t, fault{How: faultKill, Step: st, After: after}, r.actorDies)
			if r.live[moment{st, after}] && !r.alone {
				r.one(t, fault{How: faultVMM, Step: st, After: after}, r.vmmDies)
			}
		}
		for _, st := range r.supervisor {
			r.one(t, fault{How: faultKill, Step: st, After: after}, r.supervisorDies)
		}
	}
	for _, errno := range errnos {
		for _, st := range r.here {
			if !r.alone && (!r.again || errno == unix.ENOSPC || !isShared(st)) {
				r.one(t, fault{How: faultError, Step: st, Errno: errno}, r.stepFails)
			}
		}
		for _, st := range r.supervisor {
			r.one(t, fault{How: faultError, Step: st, Errno: errno}, r.supervisorFails)
		}
	}
}

// isShared tells whether a step is part of many operations.
func isShared(st step) bool {
	operation, _, _ := strings.Cut(string(st), ":")
	return operation == "start" || operation == "stop" || operation == "settle"
}

func (f fault) String() string {
	when := "before"
	if f.After {
		when = "after"
	}
	if f.How == faultError {
		return fmt.Sprintf("%v instead of %s", f.Errno, f.Step)
	}
	return fmt.Sprintf("%s %s %s", f.How, when, f.Step)
}

// one runs one case, with a VM of its own.
func (r *row) one(t *testing.T, f fault, run func(t *testing.T, id string, f fault)) {
	if r.only != nil && !slices.Contains(r.only, f.Step) {
		return
	}
	r.count++
	id := fmt.Sprintf("vm-%d", r.count)
	f.Mark, f.VM = r.house.path("mark"), r.house.vmFolder(id)
	t.Run(f.String(), func(t *testing.T) {
		defer func() {
			finish(t, r.house, id)
			r.bystander.wantAlone(t)
			if r.after != nil {
				r.after(t)
			}
		}()
		run(t, id, f)
		if err := os.Remove(f.Mark); err != nil {
			t.Errorf("the step was not taken: %v", err)
		}
		r.cases[f.How]++
	})
}

// actorDies kills the process that performs the operation.
func (r *row) actorDies(t *testing.T, id string, f fault) {
	r.prepare(t, r.house, r.house.manager(t), id)
	actor := r.house.play(t, playActor, part{Do: r.deed(r.op, id), Fault: f})
	out, err := actor.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the operation was not cut off: %v\n%s", err, out)
	}
	want := r.phaseAt(r.here, f.Step, f.After)
	if want != PhaseRunning {
		r.awaitMonitor(t, id) // it ends a VM that was not to be
	}
	if want == PhaseExited && endedUntold(f) {
		want = r.exitedOrKilled(t, id)
	}
	if r.alone && f.Step == stepMonitorSpawn && f.After && r.house.list(t)[id] == PhaseRunning {
		want = PhaseRunning // the monitor is in this process, and the start went on beside it
	}
	r.wantPhase(t, id, want)
	r.order(t, id, want)
}

// endedUntold tells whether the operation has ended the VMM and goes no further. A call that is over does not count as
// having ended the VM: when its monitor comes to note the end before or after that is the scheduler's.
func endedUntold(f fault) bool {
	return f.Step == stepStopVMM && f.After || f.Step == stepSettleKill && !f.After
}

func (r *row) exitedOrKilled(t *testing.T, id string) Phase {
	t.Helper()
	if phase := r.house.list(t)[id]; phase == PhaseKilled {
		return phase
	}
	return PhaseExited
}

// awaitMonitor waits until a VM's monitor is done that has seen its starter's or its VMM's end.
func (r *row) awaitMonitor(t *testing.T, id string) {
	t.Helper()
	_, jour, err := readJournal(r.house.runtime(id))
	if err != nil {
		t.Fatal(err)
	}
	if jour.VMM.Alive() && jour.State != journalStarting && r.op != "start" && r.op != "restore" {
		return // it lives on
	}
	if jour.Monitor.PID != 0 {
		if err := awaitProcess(jour.Monitor.PID); err != nil {
			t.Error(err)
		}
	}
}

// supervisorDies kills the VM's supervisor, while this process performs the operation.
func (r *row) supervisorDies(t *testing.T, id string, f fault) {
	r.withSupervisor(t, id, f)
	phase := r.house.list(t)[id]
	switch f.Step {
	case stepMonitorSpawn:
		// The starter may have let go of it before.
		if phase != PhaseFailed && (phase != PhaseRunning || !f.After) {
			t.Errorf("the VM is %q", phase)
		}
	default:
		if want := r.phaseAt(slices.Concat(r.here, r.supervisor), f.Step, f.After); r.op == "end" && phase != want {
			t.Errorf("the VM is %q, and must be %q", phase, want)
		}
	}
	r.order(t, id, phase)
}

// supervisorFails has a step of the VM's supervisor fail.
func (r *row) supervisorFails(t *testing.T, id string, f fault) {
	err := r.withSupervisor(t, id, f)
	if f.Step == stepMonitorSpawn && (err == nil || CodeOf(err) == "" || !strings.Contains(err.Error(), f.Errno.Error())) {
		t.Errorf("%v does not tell why the VMM could not be started", err)
	}
	if f.Step != stepMonitorSpawn && err != nil {
		t.Errorf("what the supervisor could not note kept others from their work: %v", err)
	}
	r.order(t, id, r.house.list(t)[id])
}

func (r *row) withSupervisor(t *testing.T, id string, f fault) error {
	t.Helper()
	m, err := r.house.open(fault{}, f)
	if err != nil {
		t.Fatal(err)
	}
	before := m
	if f.Step == stepMonitorSpawn {
		before = r.house.manager(t)
	}
	r.prepare(t, r.house, before, id)
	err = r.deed(r.op, id).perform(t.Context(), m, r.house)
	if r.op != "start" && r.op != "restore" {
		r.awaitMonitor(t, id)
		for pid := range r.house.processes(t) {
			if pid != r.bystander.monitor.PID && pid != r.bystander.vmm.PID {
				if err := awaitProcess(pid); err != nil {
					t.Error(err)
				}
			}
		}
	}
	return err
}

// vmmDies kills the VM's VMM, while this process performs the operation.
func (r *row) vmmDies(t *testing.T, id string, f fault) {
	m, err := r.house.open(f, fault{})
	if err != nil {
		t.Fatal(err)
	}
	r.prepare(t, r.house, r.house.manager(t), id)
	err = r.deed(r.op, id).perform(t.Context(), m, r.house)
	if err != nil {
		wantTold(t, err, id)
	}
	r.awaitMonitor(t, id)
	phase := r.house.list(t)[id]
	ended := []Phase{PhaseKilled, PhaseFailed, PhaseExited}
	if r.op == "force" {
		ended = append(ended, absent)
	}
	if !slices.Contains(ended, phase) {
		t.Errorf("the VM is %q after its VMM was killed; the operation said: %v", phase, err)
	}
	r.order(t, id, phase)
}

// stepFails has the step fail, in this process.
func (r *row) stepFails(t *testing.T, id string, f fault) {
	m, err := r.house.open(f, fault{})
	if err != nil {
		t.Fatal(err)
	}
	r.prepare(t, r.house, r.house.manager(t), id)
	err = r.deed(r.op, id).perform(t.Context(), m, r.house)
	if !errors.Is(err, f.Errno) {
		t.Errorf("%v does not tell of %v", err, f.Errno)
	}
	if r.op == "gc" || r.op == "remove snapshot" {
		id = bystanderID // it is about no VM, or about the one that it came to
	}
	wantTold(t, err, id)
	id = fmt.Sprintf("vm-%d", r.count)
	phase := r.house.list(t)[id]
	before := r.phaseAt(r.here, f.Step, false)
	if before == PhaseExited && endedUntold(f) {
		before = r.exitedOrKilled(t, id)
	}
	if phase != before && !r.walkedBack(f.Step, phase) {
		t.Errorf("the VM is %q, and was %q", phase, before)
	}
	if !takesAway(f.Step) {
		actions, err := r.house.manager(t).Sweep(t.Context(), SweepOptions{DryRun: true})
		if len(actions) > 0 && !slices.Contains(r.prepared, "lose") || err != nil {
			t.Errorf("left behind: %v, %v", actions, err)
		}
	}
	r.order(t, id, phase)
}

// walkedBack tells whether the phase is that of a VM for which the first steps of the operation were undone.
func (r *row) walkedBack(st step, phase Phase) bool {
	switch {
	case r.op == "start" || r.op == "restore":
		return phase == r.first || phase == PhaseFailed
	case r.op == "snapshot" && st != stepResumeVMM:
		return phase == PhaseRunning
	}
	return phase == r.first
}

// takesAway tells whether a step takes something away: when it fails, that is still there.
func takesAway(st step) bool {
	if st == stepRenameFree {
		return true
	}
	for _, prefix := range []string{"settle", "remove", "gc", "clean up"} {
		if strings.HasPrefix(string(st), prefix) {
			return true
		}
	}
	return false
}

// wantTold checks that an error tells what failed.
func wantTold(t *testing.T, err error, id string) {
	t.Helper()
	var told *Error
	if !errors.As(err, &told) || told.Code == "" || told.Op == "" || told.Err == nil || told.VM != id && id != bystanderID {
		t.Errorf("an error should have a code, and tell of the operation and the VM: %#v", err)
	}
}

func (r *row) wantPhase(t *testing.T, id string, want Phase) {
	t.Helper()
	phase, there := r.house.list(t)[id]
	if phase != want || there != (want != absent) {
		t.Errorf("the VM is %q, and must be %q", phase, want)
	}
}

// order has gc put the house in order, and checks that the VM can be used again as far as it is to live.
func (r *row) order(t *testing.T, id string, phase Phase) {
	t.Helper()
	m := r.house.manager(t)
	if _, err := m.Sweep(t.Context(), SweepOptions{}); err != nil {
		t.Errorf("gc: %v", err)
	}
	if again, err := r.house.manager(t).Sweep(t.Context(), SweepOptions{}); err != nil || len(again) > 0 {
		t.Errorf("the first gc left something: %v, %v", again, err)
	}
	if r.alone {
		phase = absent // it was its process's
	}
	r.wantOrder(t, id, phase)
	if phase == absent {
		return
	}
	r.wantPhase(t, id, phase)
	vm, err := r.house.manager(t).VM(id)
	if err != nil {
		t.Fatal(err)
	}
	r.wantName(t, id)
	r.wantUsable(t, vm, phase)
}
