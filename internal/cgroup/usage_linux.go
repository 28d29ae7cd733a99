package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// UsageOf measures the cgroup. One that is gone is an error.
func UsageOf(dir string) (Usage, error) {
	// It is there with and without the controller: "This file exists whether the controller is enabled or not."
	text, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return Usage{}, err
	}
	cpu := func(key string) int64 { return int64(countIn(string(text), key)) }
	u := Usage{
		CPUTime: time.Duration(cpu("usage_usec")) * time.Microsecond,
		Periods: cpu("nr_periods"), Throttled: cpu("nr_throttled"), ThrottledTime: time.Duration(cpu("throttled_usec")) * time.Microsecond,
		Memory: number(dir, "memory.current"), MemoryPeak: number(dir, "memory.peak"), PIDs: int(number(dir, "pids.current")),
	}
	disks, _ := os.ReadFile(filepath.Join(dir, "io.stat")) // not there without the controller
	u.DiskRead, u.DiskWritten = bytesIn(string(disks))
	return u, nil
}

// bytesIn adds up what went from and to all disks: "Lines are keyed by $MAJ:$MIN device numbers", and have rbytes=N and
// wbytes=N in them.
func bytesIn(text string) (read, written int64) {
	for field := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(field, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
		case key == "rbytes":
			read += n
		case key == "wbytes":
			written += n
		}
	}
	return read, written
}

// number reads a file with one number in it; 0 for one that is not there.
func number(dir, name string) int64 {
	text, _ := os.ReadFile(filepath.Join(dir, name))
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}
