// Package cgroup bounds what processes take of the host, by cgroups of version 2: cgroups(7), and
// Documentation/admin-guide/cgroup-v2.rst of Linux, of which the quotations are.
//
// It makes and removes cgroups and moves no process: whoever starts one starts it in the cgroup.
package cgroup

import "time"

// Limits are what all processes of a cgroup may take together. 0 is no limit.
type Limits struct {
	CPUs   float64 // CPU time in CPUs: 1.5 is what one and a half give; at least MinCPUs
	Memory int64   // bytes, page cache included; who needs more than can be reclaimed is killed, and all of the cgroup with it
	PIDs   int     // processes and threads

	IO      IO       // of each of these disks
	Devices []string // "major:minor" of whole disks: a partition is refused
}

// IO are bytes and operations a second. What goes through the page cache counts when it is written back, where the
// filesystem tells whose it is: "Currently cgroup writeback is implemented on ext2, ext4, btrfs, f2fs, and xfs."
type IO struct{ ReadBytes, WriteBytes, ReadOps, WriteOps int64 }

// period is for how long a share of CPU time is reckoned, in microseconds: the kernel's default.
const period = 100_000

// MinCPUs is the smallest share of CPU time: the kernel refuses less than a millisecond in each period
// (min_cfs_quota_period in kernel/sched/core.c).
const MinCPUs = 0.01

// Events are how often limits of a cgroup were met.
type Events struct {
	OOMKills uint64 // "the number of processes belonging to this cgroup killed by any kind of OOM killer"
	PIDs     uint64 // processes and threads that were not made
}

// Usage is what the processes of a cgroup take, and have taken since it was made. What the cgroup does not count is 0: for
// that it takes the controller that is named.
type Usage struct {
	CPUTime       time.Duration
	Periods       int64         // cpu: of 100 ms, in which there was something to do
	Throttled     int64         // cpu: of these, those whose CPU time was used up before their end
	ThrottledTime time.Duration // cpu: how long that held processes back, all threads added up

	Memory     int64 // memory: bytes, page cache included
	MemoryPeak int64 // memory, Linux 5.19: the most that it was
	PIDs       int   // pids: processes and threads

	DiskRead    int64 // io: bytes
	DiskWritten int64
}
