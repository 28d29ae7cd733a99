package firecracker

// The replies' bodies. Keys that are not listed are ignored: a newer Firecracker may say more.

// InstanceInfo is the reply of GET /.
type InstanceInfo struct {
	ID         string `json:"id"`
	State      State  `json:"state"`
	VMMVersion string `json:"vmm_version"`
	AppName    string `json:"app_name"` // "Firecracker"; our emulator says its own name
}

// State is what the VMM says of its VM.
type State string

// The states of a VM.
const (
	StateNotStarted State = "Not started"
	StateRunning    State = "Running"
	StatePaused     State = "Paused"
)

// VMConfig is the reply of GET /vm/config: what is configured, nil for what is not. Firecracker leaves out logger,
// metrics, serial and CPU template, and after a restore boot source, SMT and static CPU template. The order of the
// drives after the boot is not that of the requests.
type VMConfig struct {
	Balloon           *Balloon           `json:"balloon"`
	BootSource        *BootSource        `json:"boot-source"`
	CPUConfig         *CPUConfig         `json:"cpu-config"`
	Drives            []Drive            `json:"drives"`
	Entropy           *Entropy           `json:"entropy"`
	Logger            *Logger            `json:"logger"`
	MachineConfig     *MachineConfig     `json:"machine-config"`
	MemoryHotplug     *MemoryHotplug     `json:"memory-hotplug"`
	Metrics           *Metrics           `json:"metrics"`
	MMDSConfig        *MMDSConfig        `json:"mmds-config"`
	NetworkInterfaces []NetworkInterface `json:"network-interfaces"`
	Pmem              []Pmem             `json:"pmem"`
	Vsock             *Vsock             `json:"vsock"`
}

// BalloonStats is the reply of GET /balloon/statistics. A nil field was not reported by the guest's driver. Pages are of
// 4 KiB; guest fields without another unit in their name are bytes or counts, as virtio defines them.
type BalloonStats struct {
	TargetPages int64 `json:"target_pages"`
	ActualPages int64 `json:"actual_pages"`
	TargetMiB   int64 `json:"target_mib"`
	ActualMiB   int64 `json:"actual_mib"`

	SwapIn             *int64 `json:"swap_in,omitempty"`
	SwapOut            *int64 `json:"swap_out,omitempty"`
	MajorFaults        *int64 `json:"major_faults,omitempty"`
	MinorFaults        *int64 `json:"minor_faults,omitempty"`
	FreeMemory         *int64 `json:"free_memory,omitempty"`
	TotalMemory        *int64 `json:"total_memory,omitempty"`
	AvailableMemory    *int64 `json:"available_memory,omitempty"`
	DiskCaches         *int64 `json:"disk_caches,omitempty"`
	HugetlbAllocations *int64 `json:"hugetlb_allocations,omitempty"`
	HugetlbFailures    *int64 `json:"hugetlb_failures,omitempty"`
	OOMKill            *int64 `json:"oom_kill,omitempty"`
	AllocStall         *int64 `json:"alloc_stall,omitempty"`
	AsyncScan          *int64 `json:"async_scan,omitempty"`
	DirectScan         *int64 `json:"direct_scan,omitempty"`
	AsyncReclaim       *int64 `json:"async_reclaim,omitempty"`
	DirectReclaim      *int64 `json:"direct_reclaim,omitempty"`
}

// BalloonHintingStatus is the reply of GET /balloon/hinting/status.
type BalloonHintingStatus struct {
	HostCmd  int64  `json:"host_cmd"`
	GuestCmd *int64 `json:"guest_cmd,omitempty"` // nil before the guest's first command
}

// MemoryHotplugStatus is the reply of GET /hotplug/memory.
type MemoryHotplugStatus struct {
	TotalSizeMiB     int `json:"total_size_mib"`
	SlotSizeMiB      int `json:"slot_size_mib"`
	BlockSizeMiB     int `json:"block_size_mib"`
	PluggedSizeMiB   int `json:"plugged_size_mib"`
	RequestedSizeMiB int `json:"requested_size_mib"`
}
