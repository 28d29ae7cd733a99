package smartvm

// Guest configures SmartVM's init, which the VM's initrd starts as process 1. With it the guest has an agent, and
// commands can be run ([VM.Agent]); the VM gets a vsock device for that where the configuration has none.
type Guest struct {
	// Init says who is process 1 in the end: "smartvm" (default: our init, which shuts the VM down when the main command
	// has ended) or "image" (the root drive's own /sbin/init, with the agent as one of its services).
	Init string `json:"init,omitempty"`
	// Hostname of the guest. Default: the VM's id made safe.
	Hostname string `json:"hostname,omitempty"`
	// RootFSType is the root drive's filesystem. Default: whatever the kernel finds.
	RootFSType string `json:"rootFsType,omitempty"`
	// OverlayInMemory puts a writable layer in the guest's memory over a read-only root drive. Without it a read-only root
	// drive stays read-only, and a writable one that is too expensive to copy gets its layer on a sparse drive.
	OverlayInMemory bool `json:"overlayInMemory,omitempty"`
}
