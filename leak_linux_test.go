package smartvm

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// usage is what a process has of the kernel.
type usage struct{ descriptors, goroutines, threads, mounts int }

func (u usage) String() string {
	return fmt.Sprintf("%d descriptors, %d goroutines, %d threads, %d mounts", u.descriptors, u.goroutines, u.threads, u.mounts)
}

func usageOf(tb testing.TB, h house) usage {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		tb.Fatal(err)
	}
	return usage{len(entries), runtime.NumGoroutine(), len(tasks), len(h.mounts(tb))}
}

// calm runs the test in a process of its own, and returns true there: others' descriptors and goroutines are none of ours.
func calm(t *testing.T) bool {
	t.Helper()
	const inside = "SMARTVM_TEST_CALM"
	if os.Getenv(inside) != "" {
		return true
	}
	again := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=30m")
	again.Env = append(os.Environ(), inside+"=1")
	out, err := again.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v", err)
	}
	t.Logf("%s", out)
	return false
}

// await waits until nothing of the house runs, and all that this process started for it has ended.
func (h house) await(tb testing.TB) {
	tb.Helper()
	for pid, line := range h.processes(tb) {
		if err := awaitProcess(pid); err != nil {
			tb.Errorf("%v: %s", err, line)
		}
	}
}

func TestManyVMsAtOnceLeaveNothing(t *testing.T) {
	t.Parallel()
	if !calm(t) {
		return
	}
	h := newHouse(t)
	m := h.manager(t)
	const many = 50
	at := func(op string) {
		t.Helper()
		var wait sync.WaitGroup
		for i := range many {
			wait.Go(func() {
				d := deed{Op: op, VM: fmt.Sprintf("vm-%d", i), Name: fmt.Sprintf("name-%d", i)}
				if err := d.perform(t.Context(), m, h); err != nil {
					t.Errorf("%+v: %v", d, err)
				}
			})
		}
		wait.Wait()
	}
	want := func(phase Phase) {
		t.Helper()
		phases := h.list(t)
		for id, got := range phases {
			if got != phase {
				t.Errorf("%s is %q, and must be %q", id, got, phase)
			}
		}
		if len(phases) != many {
			t.Errorf("there are %d VMs", len(phases))
		}
	}
	at("create")
	at("start")
	want(PhaseRunning)
	at("pause")
	want(PhasePaused)
	at("stop")
	want(PhaseExited)
	at("remove")
	h.await(t)
	h.wantEmpty(t)
}

// wantEmpty checks that there is nothing in the house but its folders.
func (h house) wantEmpty(tb testing.TB) {
	tb.Helper()
	for _, file := range h.files(tb) {
		switch file {
		case "data", "data/vms", "data/names", "data/names/.lock", "run", "vsock":
		default:
			tb.Errorf("left behind: %s", file)
		}
	}
	if mounts := h.mounts(tb); len(mounts) > 0 {
		tb.Errorf("mounted: %v", mounts)
	}
}

// leakRuns is how many VMs live one after the other in an ordinary test run; SMARTVM_LEAK_RUNS says otherwise.
const leakRuns = 60

func TestVMsOneAfterTheOtherLeaveNothing(t *testing.T) {
	t.Parallel()
	if !calm(t) {
		return
	}
	runs := leakRuns
	if text := os.Getenv("SMARTVM_LEAK_RUNS"); text != "" {
		var err error
		if runs, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, alone := range []bool{false, true} {
		h := newHouse(t)
		h.Alone = alone
		m := h.manager(t)
		var (
			first usage
			took  []time.Duration
		)
		// The first rounds fill pools of threads and descriptors, and count for nothing.
		const warm = 10
		for i := range warm + runs {
			before := time.Now()
			h.life(t, m, "vm-"+strconv.Itoa(i))
			took = append(took, time.Since(before))
			if i == warm-1 {
				h.await(t)
				first = usageOf(t, h)
			}
		}
		last := least(t, h, first)
		h.wantEmpty(t)
		t.Logf("alone %v, %d VMs: at first %v, %v each; in the end %v, %v each", alone, runs, first, median(took[:warm]), last, median(took[runs:]))
		// The runtime may start a thread or two whenever it likes.
		if last.descriptors > first.descriptors || last.goroutines > first.goroutines || last.mounts > first.mounts || last.threads > first.threads+4 {
			t.Errorf("after %d VMs: %v; before: %v", runs, last, first)
		}
	}
}

// life is the whole life of a VM.
func (h house) life(t *testing.T, m *Manager, id string) {
	t.Helper()
	op := "create"
	if h.Alone {
		op = "own"
	}
	for _, d := range []deed{{Op: op, VM: id, Name: id}, {Op: "start", VM: id}, {Op: "force", VM: id}} {
		if h.Alone && d.Op == "start" {
			continue
		}
		if err := d.perform(t.Context(), m, h); err != nil {
			t.Fatalf("%+v: %v", d, err)
		}
	}
}

// least is what this process has once goroutines that are on their way out are gone. Of them nothing tells but that; more
// than wanted is believed when they were given their time.
func least(t *testing.T, h house, wanted usage) usage {
	t.Helper()
	h.await(t)
	limit := time.After(processLimit)
	for {
		u := usageOf(t, h)
		if u.descriptors <= wanted.descriptors && u.goroutines <= wanted.goroutines {
			return u
		}
		select {
		case <-limit:
			return u
		default:
			runtime.Gosched()
		}
	}
}

func median(of []time.Duration) time.Duration {
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2].Round(time.Microsecond)
}
