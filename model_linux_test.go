package smartvm

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The model test: random deeds of two processes on three VMs, of which some are cut off, against a plain model of what
// List must say. SMARTVM_MODEL_RUNS says how many sequences there are.

// modelRuns is how many sequences there are in an ordinary test run.
const modelRuns = "50"

// SetModelRuns tells package rapid how often to check, before any test runs.
func SetModelRuns() error {
	runs := os.Getenv("SMARTVM_MODEL_RUNS")
	if runs == "" {
		runs = modelRuns
	}
	return errors.Join(flag.Set("rapid.checks", runs), flag.Set("rapid.nofailfile", "true"))
}

// A modelled VM is what there is to know of one.
type modelled struct {
	phase    Phase
	name     string
	restored bool // it cannot be booted
	lonely   bool // its supervisor was killed
}

func (v modelled) live() bool { return v.phase == PhaseRunning || v.phase == PhasePaused }

func (v modelled) ended() bool { return v.phase != absent && v.phase != PhaseCreated && !v.live() }

// after tells what a deed makes of a VM, and whether it goes well. Whether a name is taken others must know.
func (v modelled) after(op string, taken bool, name string) (modelled, bool) {
	was := v
	switch op {
	case "create":
		if v.phase != absent || taken {
			return was, false
		}
		return modelled{phase: PhaseCreated, name: name}, true
	case "start", "restore":
		if op == "start" && v.phase != PhaseCreated && (!v.ended() || v.restored) || op == "restore" && v.phase != PhaseCreated {
			return was, false
		}
		v.phase, v.lonely, v.restored = PhaseRunning, false, op == "restore"
		return v, true
	case "pause":
		v.phase = PhasePaused
		return v, was.phase == PhaseRunning
	case "resume":
		v.phase = PhaseRunning
		return v, was.phase == PhasePaused
	case "stop", "kill":
		if v.live() {
			v.phase = map[string]Phase{"stop": PhaseExited, "kill": PhaseKilled}[op]
		}
		return v, v.ended()
	case "snapshot":
		return v, v.live()
	case "remove", "force":
		return modelled{}, v.phase != absent && (!v.live() || op == "force")
	case "rename":
		v.name = name
		return v, was.phase != absent && !taken
	}
	return v, op == "gc" || v.phase != absent // status
}

// between tells the phases in which an operation that was cut off may leave the VM.
func (v modelled) between(op string) []Phase {
	next, _ := v.after(op, false, "")
	phases := []Phase{v.phase, next.phase}
	switch op {
	case "start", "restore":
		phases = append(phases, PhaseFailed)
	case "force", "stop": // whose end the monitor noted after the caller's
		phases = append(phases, PhaseKilled)
	case "snapshot":
		phases = append(phases, PhasePaused)
	}
	return phases
}

// cutSteps are where each operation may be cut off.
var cutSteps = map[string][]string{
	"create": {"create"}, "start": {"settle", "start"}, "restore": {"settle", "start", "restore"}, "pause": {"pause"}, "resume": {"resume"},
	"stop": {"stop", "settle"}, "kill": {"stop", "settle"}, "snapshot": {"pause", "snapshot", "resume"},
	"remove": {"settle", "remove"}, "force": {"stop", "settle", "remove"}, "gc": {"settle", "gc"},
}

// deeds are what the processes do, and likely is what they do more often, so that the VMs get around.
var (
	deeds  = []string{"create", "start", "stop", "kill", "pause", "resume", "snapshot", "restore", "remove", "force", "rename", "gc", "status"}
	likely = map[Phase][]string{
		absent:       slices.Repeat([]string{"create"}, 30),
		PhaseCreated: slices.Repeat([]string{"start", "start", "restore", "together"}, 5),
		PhaseRunning: slices.Repeat([]string{"pause", "snapshot", "stop", "together", "force"}, 2),
		PhasePaused:  slices.Repeat([]string{"resume", "snapshot", "together"}, 4),
		PhaseExited:  slices.Repeat([]string{"start", "together"}, 4),
		PhaseKilled:  slices.Repeat([]string{"start", "gc"}, 4),
		PhaseLost:    slices.Repeat([]string{"start", "gc", "together"}, 4),
		PhaseFailed:  slices.Repeat([]string{"start", "gc", "together"}, 4),
	}
)

// model is the house, as it must be.
type model struct {
	t         *testing.T
	house     house
	bystander *bystander
	vms       map[string]*modelled
	workers   [2]*worker
	snapshots int
	cut, took map[string]int
}

func TestRandomDeedsOfTwoProcessesDoWhatAPlainModelDoes(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := &model{t: t, house: h, bystander: settleIn(t, h, true), cut: map[string]int{}, took: map[string]int{}}
	for i := range m.workers {
		m.workers[i] = h.hire(t)
	}
	t.Cleanup(func() {
		for _, w := range m.workers {
			w.dismiss(t)
		}
	})
	rapid.Check(t, m.sequence)
	t.Logf("deeds: %v, cut off: %v", m.took, m.cut)
}

// sequence does some deeds, and takes everything away in the end.
func (m *model) sequence(rt *rapid.T) {
	m.vms = map[string]*modelled{"vm-a": {}, "vm-b": {}, "vm-c": {}}
	ids := slices.Sorted(maps.Keys(m.vms))
	defer m.empty(rt)
	for range rapid.IntRange(5, 40).Draw(rt, "deeds") {
		id := rapid.SampledFrom(ids).Draw(rt, "VM")
		op := rapid.SampledFrom(slices.Concat(deeds, likely[m.vms[id].phase], []string{"VMM killed", "supervisor killed", "together"})).Draw(rt, "op")
		m.took[op]++
		switch op {
		case "VMM killed", "supervisor killed":
			m.kill(op, id)
		case "together":
			m.together(rt, id, rapid.SampledFrom(deeds).Draw(rt, "one"), rapid.SampledFrom(deeds).Draw(rt, "two"))
		default:
			m.deed(rt, op, id)
		}
		m.compare(rt)
	}
}

// kill kills one of the VM's processes, if there is one.
func (m *model) kill(op, id string) {
	v := m.vms[id]
	if !v.live() {
		return
	}
	_, jour, err := readJournal(m.house.runtime(id))
	if err != nil {
		m.t.Fatal(err)
	}
	if op == "supervisor killed" {
		v.lonely = true
		if err := jour.Monitor.Kill(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
		return
	}
	if err := m.house.endVMM(m.t.Context(), id); err != nil {
		m.t.Fatal(err)
	}
	v.phase = PhaseKilled
	if v.lonely {
		v.phase = PhaseLost
	}
}

func (m *model) order(op, id, name string) deed {
	d := deed{Op: op, VM: id, Name: name}
	switch op {
	case "snapshot":
		m.snapshots++
		d.Name = fmt.Sprintf("snapshot-%d", m.snapshots)
	case "restore":
		d.Name = "base"
	}
	return d
}

func (m *model) taken(name, id string) bool {
	for other, v := range m.vms {
		if other != id && v.name == name {
			return true
		}
	}
	return false
}

// deed has one of the workers do something, which may be cut off.
func (m *model) deed(rt *rapid.T, op, id string) {
	name := rapid.SampledFrom([]string{"red", "green", "blue"}).Draw(rt, "name")
	i := rapid.IntRange(0, 1).Draw(rt, "worker")
	f := m.drawFault(rt, op, id)
	v := m.vms[id]
	next, well := v.after(op, m.taken(name, id), name)
	if err := m.workers[i].order(part{Do: m.order(op, id, name), Fault: f}); err != nil {
		rt.Fatal(err)
	}
	reply, alive := m.workers[i].answer()
	struck := os.Remove(m.house.path("mark")) == nil
	switch {
	case !alive && !struck:
		rt.Fatalf("the worker died of %s", op)
	case !alive:
		m.workers[i].dismiss(m.t)
		m.workers[i] = m.house.hire(m.t)
		m.cut[op]++
		m.cutOff(rt, op, id, f, name)
	case struck:
		m.cut[op+" without its VMM"]++
		m.adopt(rt, op, id, PhaseKilled, PhaseFailed, PhaseExited, PhaseLost, next.phase)
	case (reply.Text == "") != well:
		rt.Fatalf("%s of %+v: %+v", op, *v, reply)
	case well:
		*v = next
	case reply.Code == "":
		rt.Fatalf("an error without a code: %+v", reply)
	}
}

func (m *model) drawFault(rt *rapid.T, op, id string) fault {
	if len(cutSteps[op]) == 0 || rapid.IntRange(0, 2).Draw(rt, "luck") > 0 {
		return fault{}
	}
	var steps []step
	for _, st := range allSteps() {
		if operation, _, _ := strings.Cut(string(st), ":"); slices.Contains(cutSteps[op], operation) {
			steps = append(steps, st)
		}
	}
	f := fault{
		How: faultKill, Step: rapid.SampledFrom(steps).Draw(rt, "step"), After: rapid.Bool().Draw(rt, "after"),
		Mark: m.house.path("mark"), VM: m.house.vmFolder(id),
	}
	if m.vms[id].live() && op != "gc" && rapid.IntRange(0, 3).Draw(rt, "VMM") == 0 {
		f.How = faultVMM
	}
	return f
}

// cutOff finds out how far an operation had come.
func (m *model) cutOff(rt *rapid.T, op, id string, f fault, name string) {
	v := m.vms[id]
	if op == "gc" { // whatever it was at, List says the same of it
		return
	}
	committed := v.live() || f.Step == stepStartCommit && f.After // else its monitor ends it
	if _, jour, err := readJournal(m.house.runtime(id)); err == nil && (op == "start" || op == "restore") && !committed {
		if err := awaitProcess(jour.Monitor.PID); err != nil {
			rt.Error(err)
		}
	}
	if v.lonely && v.live() && (op == "stop" || op == "kill" || op == "force") && m.list(rt)[id] == PhaseLost {
		m.house.do(m.t, deed{Op: "settle", VM: id}) // which notes what nobody else was there to note
	}
	m.adopt(rt, op, id, v.between(op)...)
	if v.name == "" && v.phase != absent {
		v.name = name
	}
}

// adopt takes over what List says, if it is one of these.
func (m *model) adopt(rt *rapid.T, op, id string, allowed ...Phase) {
	v := m.vms[id]
	phase := m.list(rt)[id]
	if !slices.Contains(allowed, phase) {
		rt.Fatalf("%s of %+v was cut off: it is %q, and may be %q", op, *v, phase, allowed)
	}
	if phase == absent {
		*v = modelled{}
		return
	}
	_, rec, err := readRecord(m.house.manager(m.t).options.folderOf(keyOf(id)))
	if err != nil {
		rt.Fatal(err)
	}
	if v.phase = phase; op == "start" || op == "restore" {
		v.lonely, v.restored = false, rec.Home != nil && rec.Home.Restored != ""
	}
}

// together has both workers do something to one VM: in one order, or in the other.
func (m *model) together(rt *rapid.T, id, one, two string) {
	var well [2]bool
	for i, op := range []string{one, two} {
		if err := m.workers[i].order(part{Do: m.order(op, id, "name-of-"+id)}); err != nil {
			rt.Fatal(err)
		}
	}
	for i, w := range m.workers {
		reply, alive := w.answer()
		if !alive {
			rt.Fatal("a worker died")
		}
		if well[i] = reply.Text == ""; !well[i] && reply.Code == "" {
			rt.Fatalf("an error without a code: %+v", reply)
		}
	}
	var could []string
	phase := m.list(rt)[id]
	for _, order := range [][2]int{{0, 1}, {1, 0}} {
		v, went := *m.vms[id], [2]bool{}
		for _, i := range order {
			op := []string{one, two}[i]
			if next, ok := v.after(op, false, "name-of-"+id); ok {
				v, went[i] = next, true
			} else if v.phase == absent && (op == "remove" || op == "force") {
				went[i] = well[i] // that it is gone already is no error, for who had found it
			}
		}
		if v.phase == phase && went == well {
			*m.vms[id] = v
			return
		}
		could = append(could, fmt.Sprintf("%q %v", v.phase, went))
	}
	rt.Fatalf("%s and %s of %+v: it is %q, %v; it could be %v", one, two, *m.vms[id], phase, well, could)
}

func (m *model) list(rt *rapid.T) map[string]Phase {
	phases := m.house.list(m.t)
	if phases[bystanderID] != PhaseRunning {
		rt.Errorf("the bystander is %q", phases[bystanderID])
	}
	delete(phases, bystanderID)
	return phases
}

// compare compares what List says with what it must say.
func (m *model) compare(rt *rapid.T) {
	want := map[string]Phase{}
	for id, v := range m.vms {
		if v.phase == absent {
			continue
		}
		want[id] = v.phase
		if vm, err := m.house.manager(m.t).Find(v.name); err != nil || vm.ID() != id {
			rt.Errorf("the name %q does not lead to %s: %v", v.name, id, err)
		}
	}
	if got := m.list(rt); !maps.Equal(got, want) {
		rt.Fatalf("List says %v, and must say %v", got, want)
	}
}

// empty takes everything away, after which nothing must be left.
func (m *model) empty(rt *rapid.T) {
	manager := m.house.manager(m.t)
	for id := range m.vms {
		if err := manager.Remove(m.t.Context(), id, true); err != nil && CodeOf(err) != VMNotFound {
			rt.Errorf("remove %s: %v", id, err)
		}
	}
	if _, err := manager.Sweep(m.t.Context(), SweepOptions{}); err != nil {
		rt.Errorf("gc: %v", err)
	}
	snapshots, err := manager.Snapshots()
	if err != nil {
		rt.Error(err)
	}
	for _, s := range snapshots {
		if s.Fault != "" {
			rt.Errorf("a snapshot is not whole: %s", s.Fault)
		}
		if s.Name != "base" {
			if err := manager.RemoveSnapshot(m.t.Context(), s.Name); err != nil {
				rt.Error(err)
			}
		}
	}
	m.bystander.wantAlone(m.t, m.workers[0].command.Process.Pid, m.workers[1].command.Process.Pid)
}
