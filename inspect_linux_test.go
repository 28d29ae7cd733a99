package smartvm

import (
	"slices"
	"testing"
	"time"
)

func TestARunningVMTellsWhatItUsesAndWhatItIsMadeOf(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		config := smallConfig(t)
		config.Drives = []Drive{{DriveID: "data", PathOnHost: diskImage(t, "data.img", 1<<20)}}
		vm := create(t, m, config)
		if err := vm.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := vm.Stats(t.Context())
		wantCode(t, err, NoClient)
		if in, err := vm.Inspect(t.Context()); err != nil || in.Phase != PhaseCreated || in.InForce != nil || in.VMMCommand != nil {
			t.Errorf("before the start: %+v, %v", in, err)
		}
		plan, err := vm.Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := vm.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		stats, err := vm.Stats(t.Context())
		if err != nil || stats.MemoryRSS < 1<<20 || stats.Processes < 1 || stats.CPUs != 1 || stats.MemoryMiB != DefaultMemSizeMiB {
			t.Errorf("%+v, %v", stats, err)
		}
		in, err := vm.Inspect(t.Context())
		if err != nil || in.PID != vm.PID() || len(in.Drives) != 1 || in.InForce.Drives[0].PathOnHost != in.Drives[0].Path {
			t.Errorf("%+v, %v", in, err)
		}
		if !slices.Equal(in.VMMCommand, plan.VMM) {
			t.Errorf("the VMM was started with %q, and the plan was %q", in.VMMCommand, plan.VMM)
		}
	})
}

func TestAShareOfACPUIsCountedBetweenTwoMeasurements(t *testing.T) {
	t.Parallel()
	earlier := Stats{At: time.Unix(10, 0), CPUTime: time.Second}
	later := Stats{At: time.Unix(12, 0), CPUTime: 2 * time.Second}
	if got := later.CPUShare(earlier); got != 0.5 {
		t.Errorf("share %v, want 0.5", got)
	}
	if got := earlier.CPUShare(earlier); got != 0 {
		t.Errorf("without time between: %v", got)
	}
}

func TestAShareOfTimeHeldBackIsCountedBetweenTwoMeasurements(t *testing.T) {
	t.Parallel()
	earlier := Stats{Cgroup: &CgroupStats{Periods: 10, Throttled: 5}}
	later := Stats{Cgroup: &CgroupStats{Periods: 20, Throttled: 8}}
	if got := later.ThrottledShare(earlier); got != 0.3 {
		t.Errorf("share %v, want 0.3", got)
	}
	for _, s := range []Stats{{}, earlier} {
		if got := s.ThrottledShare(earlier); got != 0 {
			t.Errorf("%+v: %v", s, got)
		}
	}
	if got := later.ThrottledShare(Stats{}); got != 0 {
		t.Errorf("without a cgroup before: %v", got)
	}
}
