package smartvm

import "smartvm/internal/cgroup"

// Bounds of limits, beside those of Firecracker and the kernel in validate.go.
const (
	// limitOverheadMiB is what a VMM needs beside the guest's memory: up to 5 MiB of its own (SPECIFICATION.md of Firecracker),
	// the page tables for the guest (2 MiB for each GiB, twice), and a cache for its drives.
	limitOverheadMiB = 32
	// limitOverheadPIDs are Firecracker's threads beside the vCPUs', main and API, one that KVM makes in the VMM's name, and one
	// to spare.
	limitOverheadPIDs = 4

	maxLimitCPUs = 1024
	maxLimitMiB  = 1<<32 - 1
	maxLimitPIDs = 1 << 22 // PID_MAX_LIMIT of include/linux/threads.h

	// minLimitBps keeps one request of the block layer, of up to 1.25 MiB (BLK_DEF_MAX_SECTORS_CAP), from taking longer than
	// some 20 s.
	minLimitBps  = 64 << 10
	maxLimitIOPS = 1<<32 - 1 // the kernel's type (throtl_grp.iops)

	// What a Firecracker 1.16 has open, counted: 38 with vsock, balloon and entropy, 3 for each vCPU, 5 for each drive. The rest
	// is for connections, each of which takes some.
	limitOpenFiles          = 64
	limitOpenFilesForVCPU   = 3
	limitOpenFilesForDevice = 8
)

func (v *validation) limits(c *Config) {
	l, m, hotplug := c.Limits, &c.MachineConfig, c.MemoryHotplug
	if l == nil {
		return
	}
	vcpus := max(m.VCPUCount, DefaultVCPUCount)
	for _, bps := range []struct {
		key   string
		value int64
	}{{"readBps", l.ReadBps}, {"writeBps", l.WriteBps}} {
		if bps.value != 0 && bps.value < minLimitBps {
			v.add("limits."+bps.key, "must be at least %d bytes a second, is %d", minLimitBps, bps.value)
		}
	}
	for _, iops := range []struct {
		key   string
		value int64
	}{{"readIops", l.ReadIOPS}, {"writeIops", l.WriteIOPS}} {
		if iops.value < 0 || iops.value > maxLimitIOPS {
			v.add("limits."+iops.key, "must be 1 to %d operations a second, is %d", maxLimitIOPS, iops.value)
		}
	}
	devices := len(c.Drives) + len(c.Pmem) + len(c.NetworkInterfaces)
	if least := limitOpenFiles + limitOpenFilesForVCPU*vcpus + limitOpenFilesForDevice*devices; l.OpenFiles != 0 && l.OpenFiles < least {
		v.add("limits.openFiles", "must be at least %d, for the VMM, its vCPUs and its devices, is %d", least, l.OpenFiles)
	}
	if l.FileSizeMiB < 0 || int64(l.FileSizeMiB) > maxLimitMiB {
		v.add("limits.fileSizeMib", "must be 1 to %d, is %d", maxLimitMiB, l.FileSizeMiB)
	}
	if l.CPUs != 0 && !(l.CPUs >= cgroup.MinCPUs && l.CPUs <= maxLimitCPUs) { // so that NaN is refused
		v.add("limits.cpus", "must be %v to %d, is %v", cgroup.MinCPUs, maxLimitCPUs, l.CPUs)
	}
	memory := int64(m.MemSizeMiB)
	if memory == 0 {
		memory = DefaultMemSizeMiB
	}
	if hotplug != nil {
		memory += hotplug.TotalSizeMiB
	}
	switch least := memory + limitOverheadMiB; {
	case l.MemoryMiB == 0:
	case l.MemoryMiB < 0 || int64(l.MemoryMiB) > maxLimitMiB:
		v.add("limits.memoryMib", "must be %d to %d, is %d", least, maxLimitMiB, l.MemoryMiB)
	case int64(l.MemoryMiB) < least:
		v.add("limits.memoryMib", "must be at least %d, the guest's memory and %d for its VMM, is %d", least, limitOverheadMiB, l.MemoryMiB)
	}
	if least := vcpus + limitOverheadPIDs; l.PIDs != 0 && (l.PIDs < least || l.PIDs > maxLimitPIDs) {
		v.add("limits.pids", "must be %d, the vCPUs and %d for the VMM, to %d, is %d", least, limitOverheadPIDs, maxLimitPIDs, l.PIDs)
	}
}
