package smartvm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A pair is what two processes do to one VM at the same time, and how that may end.
type pair struct {
	prepared string // operations, in order
	one, two string
	loser    []Code // what the one that comes too late is told; nothing: both may go well
	must     int    // how many must go well, at least
	phases   []Phase
}

func pairs() []pair {
	late := []Code{InvalidState, VMNotFound, VMExists, VMMExited}
	return []pair{
		{"", "create", "create", []Code{VMExists}, 1, []Phase{PhaseCreated}},
		{"", "create", "namesake", []Code{VMExists}, 1, []Phase{PhaseCreated, absent}},
		{"create", "start", "start", []Code{InvalidState}, 1, []Phase{PhaseRunning}},
		{"create start", "stop", "start", []Code{InvalidState}, 1, []Phase{PhaseRunning, PhaseExited}},
		{"create start stop", "start", "stop", late, 1, []Phase{PhaseRunning, PhaseExited}},
		{"create", "start", "remove", late, 1, []Phase{PhaseRunning, absent}},
		{"create start stop", "start", "remove", late, 1, []Phase{PhaseRunning, absent}},
		{"create start stop", "start", "force", late, 1, []Phase{absent}},
		{"create start", "snapshot", "stop", []Code{InvalidState}, 1, []Phase{PhaseExited}},
		{"create start", "snapshot", "force", late, 1, []Phase{absent}},
		{"create start", "pause", "stop", []Code{InvalidState}, 1, []Phase{PhaseExited}},
		{"create start", "pause", "pause", []Code{InvalidState}, 1, []Phase{PhasePaused}},
		{"create start pause", "resume", "kill", []Code{InvalidState}, 1, []Phase{PhaseKilled}},
		{"create start", "stop", "stop", nil, 2, []Phase{PhaseExited}},
		{"create start", "force", "force", []Code{VMNotFound}, 1, []Phase{absent}},
		{"create start stop", "remove", "gc", []Code{VMNotFound}, 2, []Phase{absent}},
		{"create start stop", "remove", "create again", []Code{VMExists}, 1, []Phase{absent, PhaseCreated}},
		{"create start stop", "remove", "own again", []Code{VMExists}, 1, []Phase{absent, PhaseRunning}},
		{"create", "rename", "rename", nil, 2, []Phase{PhaseCreated}},
		{"create", "rename", "force", []Code{VMNotFound}, 1, []Phase{absent}},
		{"create", "rename", "namesake", []Code{VMExists}, 1, []Phase{PhaseCreated}},
		{"", "create", "gc", nil, 2, []Phase{PhaseCreated}},
		{"create", "start", "gc", nil, 2, []Phase{PhaseRunning}},
		{"create start lose", "start", "gc", nil, 2, []Phase{PhaseRunning}},
		{"create start lose", "settle", "gc", nil, 2, []Phase{PhaseLost}},
		{"create start", "snapshot", "gc", nil, 2, []Phase{PhaseRunning}},
		{"create start", "snapshot", "snapshot", []Code{SnapshotFailed}, 1, []Phase{PhaseRunning}},
	}
}

// rounds is how often two come at once: the order is the scheduler's.
const rounds = 8

func TestOfTwoAtOnceOneWinsOrBothDoInOrder(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	b := settleIn(t, h, false)
	one, two := h.hire(t), h.hire(t)
	defer one.dismiss(t)
	defer two.dismiss(t)
	hired := []int{one.command.Process.Pid, two.command.Process.Pid}
	for n, p := range pairs() {
		t.Run(fmt.Sprintf("%s: %s and %s", p.prepared, p.one, p.two), func(t *testing.T) {
			for round := range rounds {
				id := fmt.Sprintf("two-%d-%d", n, round)
				p.prepare(t, h, id)
				first, second := one, two
				if round%2 == 1 {
					first, second = two, one
				}
				for w, op := range map[*worker]string{first: p.one, second: p.two} {
					if err := w.order(part{Do: p.deed(op, id)}); err != nil {
						t.Fatal(err)
					}
				}
				p.judge(t, h, id, first, second)
				for _, id := range []string{id, id + "-namesake"} {
					finish(t, h, id)
				}
				b.wantAlone(t, hired...)
			}
		})
	}
}

func (p pair) prepare(t *testing.T, h house, id string) {
	t.Helper()
	for _, op := range strings.Fields(p.prepared) {
		if op == "lose" {
			h.lose(t, id)
			continue
		}
		h.do(t, p.deed(op, id))
	}
}

func (p pair) deed(op, id string) deed {
	d := deed{Op: op, VM: id, Name: "name-of-" + id}
	switch op {
	case "rename":
		d.Name = "new-" + d.Name
	case "namesake": // another VM that is to have the name
		d.Op, d.VM = "create", id+"-namesake"
		if p.one == "rename" {
			d.Name = "new-" + d.Name
		}
	case "create again":
		d.Op = "create"
	case "own again":
		d.Op = "own"
	}
	return d
}

// judge looks at how it went.
func (p pair) judge(t *testing.T, h house, id string, workers ...*worker) {
	t.Helper()
	well := 0
	var said []answer
	for _, w := range workers {
		reply, alive := w.answer()
		if !alive {
			t.Fatal("a worker died")
		}
		said = append(said, reply)
		if reply.Text == "" {
			well++
		} else if !slices.Contains(p.loser, reply.Code) {
			t.Errorf("the one that came too late was told: %s", reply.Text)
		}
	}
	phases := h.list(t)
	if phase := phases[id]; well < p.must || !slices.Contains(p.phases, phase) {
		t.Errorf("the VM is %q after %+v", phase, said)
	} else if phase == PhaseRunning {
		h.do(t, deed{Op: "pause", VM: id})
		h.do(t, deed{Op: "resume", VM: id})
	}
	if p.two != "namesake" {
		return
	}
	name := p.deed("namesake", id).Name
	vm, err := h.manager(t).Find(name)
	if err != nil {
		t.Errorf("nobody has the name %s: %v", name, err)
	} else if (vm.ID() == id) != (phases[id+"-namesake"] == absent) {
		t.Errorf("the name is the VM %s's, and there are %v", vm.ID(), phases)
	}
}

func TestAVMKeepsItsNameWhenItsIDIsAskedForAgain(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	again := deed{Op: "create", VM: "vm", Name: "name"}
	h.do(t, again)
	wantCode(t, again.perform(t.Context(), h.manager(t), h), VMExists)
	if vm, err := h.manager(t).Find("name"); err != nil || vm.ID() != "vm" {
		t.Errorf("the name leads to %v, %v", vm, err)
	}
}
