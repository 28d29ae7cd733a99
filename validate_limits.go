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
)

func (v *validation) limits(l *Limits, m *MachineConfig, hotplug *MemoryHotplug) {
	if l == nil {
		return
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
	vcpus := max(m.VCPUCount, DefaultVCPUCount)
	if least := vcpus + limitOverheadPIDs; l.PIDs != 0 && (l.PIDs < least || l.PIDs > maxLimitPIDs) {
		v.add("limits.pids", "must be %d, the vCPUs and %d for the VMM, to %d, is %d", least, limitOverheadPIDs, maxLimitPIDs, l.PIDs)
	}
}
