package firecracker

// SnapshotCreate is the body of PUT /snapshot/create. The VM must be paused. Drives are neither copied nor flushed.
type SnapshotCreate struct {
	SnapshotPath string       `json:"snapshot_path"` // the devices' and vCPUs' state
	MemFilePath  string       `json:"mem_file_path"` // the guest's memory, sparse, not truncated when the size matches
	SnapshotType SnapshotType `json:"snapshot_type,omitempty"`
}

// SnapshotType says which memory is written.
type SnapshotType string

// The snapshot types. Diff writes what changed since the last one, in place into an existing file of the same size.
const (
	SnapshotFull SnapshotType = "Full"
	SnapshotDiff SnapshotType = "Diff"
)

// SnapshotLoad is the body of PUT /snapshot/load, the first request to a fresh VMM but for logger, metrics, serial and
// MMDS contents. Drives are opened at the paths that the snapshot holds: relative ones in this VMM's working folder.
// A load that fails ends the VMM, unless it was refused for coming too late.
type SnapshotLoad struct {
	SnapshotPath string         `json:"snapshot_path"`
	MemBackend   *MemoryBackend `json:"mem_backend,omitempty"`
	// MemFilePath is deprecated by Firecracker in favour of MemBackend, and excludes it.
	MemFilePath     string `json:"mem_file_path,omitempty"`
	TrackDirtyPages bool   `json:"track_dirty_pages,omitempty"` // since 1.13.0
	// EnableDiffSnapshots is TrackDirtyPages for versions before 1.13.0; deprecated since.
	EnableDiffSnapshots bool              `json:"enable_diff_snapshots,omitempty"`
	ResumeVM            bool              `json:"resume_vm,omitempty"`
	NetworkOverrides    []NetworkOverride `json:"network_overrides,omitempty"` // since 1.12.0
	VsockOverride       *VsockOverride    `json:"vsock_override,omitempty"`    // since 1.16.0
	// ClockRealtime advances kvm-clock by the time that went by since the snapshot. Since 1.15.1, x86_64 only, host
	// kernel 5.16 or newer at both ends.
	ClockRealtime bool `json:"clock_realtime,omitempty"`
}

// MemoryBackend says where the restored guest's memory comes from.
type MemoryBackend struct {
	BackendType BackendType `json:"backend_type"`
	BackendPath string      `json:"backend_path"` // the memory file, or the page-fault handler's socket
}

// BackendType is the kind of a MemoryBackend.
type BackendType string

// The memory backends. A file stays mapped as long as the VM lives and must not change.
const (
	BackendFile BackendType = "File"
	BackendUffd BackendType = "Uffd"
)

// NetworkOverride puts another TAP behind an interface of the snapshot.
type NetworkOverride struct {
	IfaceID     string `json:"iface_id"`
	HostDevName string `json:"host_dev_name"`
}

// VsockOverride puts another socket path in the place of the snapshot's.
type VsockOverride struct {
	UDSPath string `json:"uds_path"`
}
