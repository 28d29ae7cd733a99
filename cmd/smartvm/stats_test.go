//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"smartvm"
)

func TestStatsOfAVMWithLimitsAreToldByWhatIsLimited(t *testing.T) {
	t.Parallel()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	limited := func(throttled int64) []smartvm.Stats {
		return []smartvm.Stats{
			{ID: "free", MemoryRSS: 3 << 20, MemoryMiB: 128},
			{ID: "held", MemoryRSS: 3 << 20, MemoryMiB: 128, Limits: &smartvm.Limits{CPUs: 1, MemoryMiB: 200},
				Cgroup: &smartvm.CgroupStats{Memory: 5 << 20, Periods: 10 * throttled, Throttled: 4 * throttled}},
			{ID: "few", MemoryRSS: 3 << 20, MemoryMiB: 128, Limits: &smartvm.Limits{PIDs: 9}, Cgroup: &smartvm.CgroupStats{Memory: 5 << 20}},
		}
	}
	view := statsView{host: host{streams: streams{out: out}}, format: format{text: formatTable}}
	if err := view.print(limited(2), limited(1)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"free 0.0% 3.0MiB 128MiB 0B 0B 0B 0B -", "held 0.0% 5.0MiB 200MiB 0B 0B 0B 0B 40%", "few 0.0% 3.0MiB 128MiB 0B 0B 0B 0B -"} {
		if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}
