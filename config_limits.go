package smartvm

// Limits bounds what a VMM, and with it the guest, takes of the host: by a cgroup (v2) of the VM's own, which needs root, and
// by resource limits of the VMM's process, which need the jail. A VMM that is restored from a snapshot has the snapshot's
// limits.
type Limits struct {
	// CPUs is CPU time, in CPUs: 1.5 is as much as one and a half give (cpu.max); 0.01 to 1024, default: no limit. The guest
	// has its vCPUs whatever this is, and they stand still when it is used up, for at most a tenth of a second.
	CPUs float64 `json:"cpus,omitempty" explicit:"nonzero"`
	// MemoryMiB is the memory of guest and VMM and what the host caches of their files (memory.max); at least the guest's and 32
	// more, default: no limit. A VMM that needs more, as one that a guest has taken over might, is killed.
	MemoryMiB int `json:"memoryMib,omitempty" explicit:"nonzero"`
	// PIDs is how many processes and threads there may be (pids.max); at least the vCPUs and 4 more, default: no limit.
	PIDs int `json:"pids,omitempty" explicit:"nonzero"`

	// ReadBps and WriteBps are bytes a second, ReadIOPS and WriteIOPS operations a second, that all of the VM may ask of each
	// disk that its drives lie on (io.max): the disk of the data folder, where staged drives are, and those of files and block
	// devices that are used in place. At least 65536 bytes and 1 operation, default: no limit.
	ReadBps   int64 `json:"readBps,omitempty" explicit:"nonzero"`
	WriteBps  int64 `json:"writeBps,omitempty" explicit:"nonzero"`
	ReadIOPS  int64 `json:"readIops,omitempty" explicit:"nonzero"`
	WriteIOPS int64 `json:"writeIops,omitempty" explicit:"nonzero"`

	// OpenFiles is how many files the VMM may have open (RLIMIT_NOFILE of getrlimit(2)), sockets and devices included; at
	// least 64, 3 for each vCPU and 8 for each drive, pmem and interface; default: the jailer's 2048. Only in a jail.
	OpenFiles int `json:"openFiles,omitempty" explicit:"nonzero"`
	// FileSizeMiB is how large a file may become that the VMM writes (RLIMIT_FSIZE); at least the largest drive that the guest
	// may write to, and the guest's memory for a snapshot to be possible; default: no limit. A VMM that would write more ends
	// with code 151. Only in a jail.
	FileSizeMiB int `json:"fileSizeMib,omitempty" explicit:"nonzero"`
}
