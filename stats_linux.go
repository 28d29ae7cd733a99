package smartvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"smartvm/internal/cgroup"
)

// Stats is what a running VM has used up to now, as the host's kernel counts it. The CPU time and the bytes are of the VMM
// and the processes that it started; of one that has ended meanwhile only the CPU time is left in the sum. With limits the
// CPU time is what the VM's cgroup counts, to the microsecond.
type Stats struct {
	ID        string        `json:"id"`
	Name      string        `json:"name,omitempty"`
	At        time.Time     `json:"at"`
	CPUTime   time.Duration `json:"cpuTime"`   // in nanoseconds
	CPUs      int           `json:"cpus"`      // vCPUs
	MemoryRSS int64         `json:"memoryRss"` // bytes of the host's memory, shared ones counted in full
	MemoryMiB int           `json:"memoryMib"` // the guest's memory
	Processes int           `json:"processes"`

	// What went through the host's page cache to and from disks (proc_pid_io(5)); 0 where that may not be read.
	DiskRead    int64 `json:"diskRead"`
	DiskWritten int64 `json:"diskWritten"`
	// What went through the VM's TAPs, as the guest sees it.
	NetReceived int64 `json:"netReceived"`
	NetSent     int64 `json:"netSent"`

	// Limits are the VM's; nil without any.
	Limits *Limits `json:"limits,omitempty"`
	// Cgroup is what the VM's cgroup counts; nil without limits.
	Cgroup *CgroupStats `json:"cgroup,omitempty"`
}

// CgroupStats is what a VM's cgroup counts: the VMM, and the jailer that it was. What this host's kernel does not count in a
// cgroup is 0, and not in the JSON.
type CgroupStats struct {
	CPUTime       time.Duration `json:"cpuTime"`                 // in nanoseconds
	Periods       int64         `json:"periods,omitempty"`       // of 100 ms, in which there was something to do
	Throttled     int64         `json:"throttled,omitempty"`     // of these, those in which limits.cpus held the VM back
	ThrottledTime time.Duration `json:"throttledTime,omitempty"` // for how long, all threads added up, in nanoseconds

	Memory     int64 `json:"memory,omitempty"`     // bytes, the host's cache of the VM's files included: what limits.memoryMib bounds
	MemoryPeak int64 `json:"memoryPeak,omitempty"` // the most that it was
	PIDs       int   `json:"pids,omitempty"`       // processes and threads: what limits.pids bounds

	DiskRead    int64 `json:"diskRead,omitempty"` // bytes
	DiskWritten int64 `json:"diskWritten,omitempty"`
}

// ThrottledShare is in how much of the time between two measurements limits.cpus held the VM back: 1 is always.
func (s Stats) ThrottledShare(earlier Stats) float64 {
	if s.Cgroup == nil || earlier.Cgroup == nil || s.Cgroup.Periods <= earlier.Cgroup.Periods {
		return 0
	}
	return max(0, float64(s.Cgroup.Throttled-earlier.Cgroup.Throttled)/float64(s.Cgroup.Periods-earlier.Cgroup.Periods))
}

// CPUShare is how much of one CPU was used between two measurements: 1 is all of it, a VM with two vCPUs can come to 2.
func (s Stats) CPUShare(earlier Stats) float64 {
	passed := s.At.Sub(earlier.At)
	if passed <= 0 {
		return 0
	}
	return max(0, float64(s.CPUTime-earlier.CPUTime)/float64(passed))
}

// Stats measures what the VM has used. Without a VMM it is NoClient.
func (vm *VM) Stats(_ context.Context) (Stats, error) {
	const op = "stats"
	look := vm.look()
	if look.err != nil {
		return Stats{}, vm.lost(op)
	}
	if !look.alive {
		return Stats{}, &Error{Code: NoClient, Op: op, VM: vm.id, Err: errors.New("the VM has no VMM process; start it first")}
	}
	machine := look.rec.Config.MachineConfig
	s := Stats{ID: vm.id, Name: look.rec.Name, At: time.Now().UTC(), CPUs: machine.VCPUCount, MemoryMiB: machine.MemSizeMiB}
	if err := s.addProcess(look.jour.VMM.PID); err != nil {
		return Stats{}, vm.fail(op, NoClient, err)
	}
	if err := s.addCgroup(look.jour.Cgroup); err != nil {
		return Stats{}, vm.fail(op, NoClient, err)
	}
	if limits := look.rec.Config.Limits; limits != nil && *limits != (Limits{}) {
		s.Limits = limits
	}
	if look.rec.Config.NetNS != "" {
		s.addNamespace(look.jour.VMM.PID, look.rec.Config.NetworkInterfaces)
		return s, nil
	}
	for i := range look.rec.Config.NetworkInterfaces {
		counters := filepath.Join("/sys/class/net", look.rec.Config.NetworkInterfaces[i].HostDevName, "statistics")
		s.NetReceived += readNumber(filepath.Join(counters, "tx_bytes")) // what the host sends
		s.NetSent += readNumber(filepath.Join(counters, "rx_bytes"))
	}
	return s, nil
}

// clockTicks is USER_HZ, in which /proc counts CPU time: 100 on every architecture that we know.
const clockTicks = 100

// addProcess adds a process and, below it, those that it started.
func (s *Stats) addProcess(pid int) error {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return err
	}
	// proc_pid_stat(5): fields 14 to 17 are the CPU time of the process and of its children that have ended, 24 the pages
	// in memory. The second field, the command's name, may have blanks and parentheses in it.
	const first, userTime, pages = 3, 14, 24
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) <= pages-first {
		return fmt.Errorf("%s/stat has %d fields", dir, len(fields))
	}
	for _, field := range fields[userTime-first : userTime-first+4] {
		ticks, _ := strconv.ParseInt(field, 10, 64)
		s.CPUTime += time.Duration(ticks) * time.Second / clockTicks
	}
	resident, _ := strconv.ParseInt(fields[pages-first], 10, 64)
	s.MemoryRSS += resident * int64(os.Getpagesize())
	s.Processes++
	if text, err := os.ReadFile(filepath.Join(dir, "io")); err == nil {
		for line := range lines(text) {
			var n int64
			if _, err := fmt.Sscanf(line, "read_bytes: %d", &n); err == nil {
				s.DiskRead += n
			} else if _, err := fmt.Sscanf(line, "write_bytes: %d", &n); err == nil {
				s.DiskWritten += n
			}
		}
	}
	children, err := filepath.Glob(filepath.Join(dir, "task", "*", "children"))
	if err != nil {
		return err
	}
	for _, name := range children {
		text, _ := os.ReadFile(name)
		for child := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(child); err == nil {
				_ = s.addProcess(pid) // one that has ended just now
			}
		}
	}
	return nil
}

// addCgroup has the VM's cgroup tell, where there is one.
func (s *Stats) addCgroup(dir string) error {
	if dir == "" {
		return nil
	}
	usage, err := cgroup.UsageOf(dir)
	if err != nil {
		return err
	}
	stats := CgroupStats(usage)
	s.Cgroup, s.CPUTime = &stats, stats.CPUTime
	return nil
}

// readNumber returns the number in a file of the kernel's, 0 where there is none.
func readNumber(path string) int64 {
	text, _ := os.ReadFile(path)
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}
