package smartvm

import (
	"context"
	"testing"
	"time"
)

func TestStatsAreWhatTheCgroupCounts(t *testing.T) {
	onEachLimitedVMM(t, func(t *testing.T, options Options) {
		config := limitedConfig(t, true)
		config.Limits.CPUs = 0.2
		m := newTestManager(t, options)
		vm := start(t, m, config)
		dir := cgroupDir(t, vm)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		look := time.NewTicker(100 * time.Millisecond) // no event tells of CPU time
		defer look.Stop()
		first, err := vm.Stats(ctx)
		if err != nil || first.Cgroup == nil {
			t.Fatalf("%+v, %v", first, err)
		}
		now := first
		for now.Cgroup.Throttled < first.Cgroup.Throttled+10 {
			select {
			case <-ctx.Done():
				t.Fatalf("it was never held back: %+v", now.Cgroup)
			case <-look.C:
			}
			if now, err = vm.Stats(ctx); err != nil {
				t.Fatal(err)
			}
		}
		c := now.Cgroup
		if now.Limits == nil || *now.Limits != *config.Limits {
			t.Errorf("the limits are %+v", now.Limits)
		}
		if now.CPUTime != c.CPUTime || c.CPUTime <= first.CPUTime || c.Periods < c.Throttled || c.ThrottledTime <= 0 {
			t.Errorf("CPU: %+v after %+v", c, first.Cgroup)
		}
		// A guest that does nothing but spin touches little of its memory.
		if c.Memory < 1<<20 || c.Memory > 600<<20 || c.MemoryPeak < 1<<20 || c.PIDs < 2 || c.PIDs > 64 {
			t.Errorf("memory and threads: %+v", c)
		}
		if share := now.ThrottledShare(first); share <= 0 || share > 1 {
			t.Errorf("held back %v of the time", share)
		}
		t.Logf("%+v; held back %.2f of the time; io.stat: %q", *c, now.ThrottledShare(first), controlFile(t, dir, "io.stat"))

		config = limitedConfig(t, false)
		config.Limits = &Limits{PIDs: 64}
		few, err := start(t, m, config).Stats(ctx)
		if err != nil || few.Cgroup == nil || few.Cgroup.Memory < 1<<20 || few.Cgroup.Throttled != 0 {
			t.Errorf("with one limit only: %+v, %v", few.Cgroup, err)
		}
		config.Limits = nil
		free, err := start(t, m, config).Stats(ctx)
		if err != nil || free.Cgroup != nil || free.Limits != nil || free.MemoryRSS < 1<<20 {
			t.Errorf("without limits: %+v, %v", free, err)
		}
	})
}
