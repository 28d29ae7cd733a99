package smartvm

import (
	"path/filepath"
	"slices"
	"strings"
)

// What Firecracker itself assumes when no machine configuration is sent (vmm_config/machine_config.rs).
const (
	DefaultVCPUCount  = 1
	DefaultMemSizeMiB = 128
)

// Config says what a VM is made of. Its keys in a file (YAML or JSON, see [LoadConfig]) are the json tags; the same
// tags serve encoding/json, so a Config that was written out can be read back.
//
// A zero field means the default that its comment names, or "not there". Where zero and absent differ the field is a
// pointer. A Config is copied when a VM takes it: changing it afterwards changes nothing.
type Config struct {
	// SchemaVersion is 1, or 0 for "the newest that this build knows".
	SchemaVersion int `json:"schemaVersion,omitempty" explicit:"nonzero"`

	// ID names the VM. Default: a UUID of version 4. Up to 255 bytes, no control characters.
	ID string `json:"id,omitempty"`

	BootSource    BootSource     `json:"bootSource"`
	MachineConfig MachineConfig  `json:"machineConfig,omitzero"`
	CPUConfig     *CPUConfig     `json:"cpuConfig,omitempty"`     // a custom CPU template; default: the host's CPU
	MemoryHotplug *MemoryHotplug `json:"memoryHotplug,omitempty"` // default: no hotpluggable memory

	// Drives in the order in which the guest sees them; the root drive always comes first (/dev/vda).
	Drives []Drive `json:"drives,omitempty"`
	// EphemeralStorage says where ephemeral drives lie: "disk" (default: the VM's folder, on the filesystem of the
	// images, where a reflink is possible) or "memory" (the runtime folder: nothing ever touches a disk).
	EphemeralStorage string `json:"ephemeralStorage,omitempty"`

	// NetNS is the network namespace that the VMM runs in, and that its TAPs are in: a name that ip-netns(8) knows, or a path
	// with a `/` in it. Default: that of the process that starts the VM. Only in a jail.
	NetNS string `json:"netns,omitempty"`

	Pmem              []Pmem             `json:"pmem,omitempty"`
	NetworkInterfaces []NetworkInterface `json:"networkInterfaces,omitempty"`
	Vsock             *Vsock             `json:"vsock,omitempty"`
	Balloon           *Balloon           `json:"balloon,omitempty"`
	Entropy           *Entropy           `json:"entropy,omitempty"`
	Serial            *Serial            `json:"serial,omitempty"`
	MMDS              *MMDS              `json:"mmds,omitempty"`
	Logger            *Logger            `json:"logger,omitempty"`
	Metrics           *Metrics           `json:"metrics,omitempty"`

	// Limits bounds what the VM takes of the host. Nil: nothing does but the size of its machine.
	Limits *Limits `json:"limits,omitempty"`

	// Guest says that SmartVM's init runs in the guest, and what it does. Nil: the guest is the image's own business, and
	// has no agent.
	Guest *Guest `json:"guest,omitempty"`
}

// BootSource is the kernel and how it is started.
type BootSource struct {
	// KernelImagePath is required: an uncompressed ELF `vmlinux` on x86_64, an `Image` on aarch64.
	KernelImagePath string `json:"kernelImagePath"`
	// BootArgs is the kernel command line: printable ASCII, at most 2047 bytes together with what the VMM appends
	// (root=, pci=off, one virtio_mmio.device= per device).
	BootArgs string `json:"bootArgs,omitempty"`
	// InitrdPath is an optional initramfs (cpio, compressed or not).
	InitrdPath string `json:"initrdPath,omitempty"`
}

// MachineConfig is the size and the kind of the machine.
type MachineConfig struct {
	VCPUCount  int `json:"vcpuCount,omitempty" explicit:"nonzero"`  // 1 to 32, default 1; with SMT 1 or even
	MemSizeMiB int `json:"memSizeMib,omitempty" explicit:"nonzero"` // at least 1, default 128; even with 2M pages

	SMT bool `json:"smt,omitempty"` // x86_64 only

	// CPUTemplate is a static template: C3, T2, T2S, T2CL, T2A (x86_64), V1N1 (aarch64) or None. Firecracker calls
	// them deprecated; CPUConfig is the custom form. Only one of both may be given.
	CPUTemplate string `json:"cpuTemplate,omitempty"`

	TrackDirtyPages bool   `json:"trackDirtyPages,omitempty"` // needed for Diff snapshots
	HugePages       string `json:"hugePages,omitempty"`       // "None" (default) or "2M", since Firecracker 1.7
}

// CPUConfig is a custom CPU template (Firecracker's docs/cpu_templates/cpu-templates.md). Numbers are strings, "0x1" or
// "0b1" (the documentation promises decimal too, templates_serde.rs refuses it); a bitmap is "0b" and at most one
// character for each bit, `0`, `1` or `x` (leave it as it is), highest bit first, `_` anywhere between.
type CPUConfig struct {
	KVMCapabilities []string        `json:"kvmCapabilities,omitempty"` // "121" adds, "!121" removes
	CPUIDModifiers  []CPUIDModifier `json:"cpuidModifiers,omitempty"`  // x86_64
	MSRModifiers    []MSRModifier   `json:"msrModifiers,omitempty"`    // x86_64
	RegModifiers    []RegModifier   `json:"regModifiers,omitempty"`    // aarch64
	VCPUFeatures    []VCPUFeature   `json:"vcpuFeatures,omitempty"`    // aarch64
}

// CPUIDModifier changes one leaf and subleaf of CPUID.
type CPUIDModifier struct {
	Leaf      string             `json:"leaf"`
	Subleaf   string             `json:"subleaf"`
	Flags     uint32             `json:"flags"` // KVM's flags of the leaf
	Modifiers []RegisterModifier `json:"modifiers,omitempty"`
}

// RegisterModifier changes one CPUID register; the bitmap has 32 bits.
type RegisterModifier struct {
	Register string `json:"register"` // eax, ebx, ecx or edx
	Bitmap   string `json:"bitmap"`
}

// MSRModifier changes a model specific register; the bitmap has 64 bits.
type MSRModifier struct {
	Addr   string `json:"addr"`
	Bitmap string `json:"bitmap"`
}

// RegModifier changes a register of an ARM CPU; the bitmap has up to 128 bits.
type RegModifier struct {
	Addr   string `json:"addr"`
	Bitmap string `json:"bitmap"`
}

// VCPUFeature changes an entry of kvm_vcpu_init.features; the bitmap has 32 bits.
type VCPUFeature struct {
	Index  uint32 `json:"index"`
	Bitmap string `json:"bitmap"`
}

// MemoryHotplug is memory that can be plugged while the VM runs (virtio-mem), since Firecracker 1.14. Sizes in MiB.
type MemoryHotplug struct {
	TotalSizeMiB int64 `json:"totalSizeMib"`                              // a multiple of the slot, below 2^32
	BlockSizeMiB int64 `json:"blockSizeMib,omitempty" explicit:"nonzero"` // a power of two, at least 2 (default)
	SlotSizeMiB  int64 `json:"slotSizeMib,omitempty" explicit:"nonzero"`  // a multiple of the block, at least 128 (default)
}

// Drive is a block device.
type Drive struct {
	DriveID    string `json:"driveId"`              // letters, digits and `_`
	PathOnHost string `json:"pathOnHost,omitempty"` // a file or a block device; required without Socket
	// BlankMiB makes an empty, sparse drive of the VM's own, formatted ext4 and gone with the VM, in MiB. It excludes
	// PathOnHost, Socket, IsReadOnly and Ephemeral.
	BlankMiB     int    `json:"blankMib,omitempty" explicit:"nonzero"`
	IsRootDevice bool   `json:"isRootDevice,omitempty"`
	IsReadOnly   bool   `json:"isReadOnly,omitempty"`
	PartUUID     string `json:"partUuid,omitempty"` // of the root partition; only read on the root drive

	// CacheType "Unsafe" (default) ignores the guest's flushes, "Writeback" turns them into fsync.
	CacheType   string       `json:"cacheType,omitempty"`
	RateLimiter *RateLimiter `json:"rateLimiter,omitempty"`
	// IOEngine is "Sync" (default) or "Async" (io_uring; a developer preview of Firecracker).
	IOEngine string `json:"ioEngine,omitempty"`

	// Ephemeral true: the VM gets its own copy, gone with the VM. False: the guest writes to the file itself. Nil:
	// true for a writable drive, unless the manager says otherwise; false for a read-only one.
	Ephemeral *bool `json:"ephemeral,omitempty"`

	// Socket is the Unix socket of a vhost-user-blk back end. It excludes PathOnHost, IsReadOnly, RateLimiter,
	// IOEngine and Ephemeral. A VM with such a drive cannot be snapshotted.
	Socket string `json:"socket,omitempty"`
}

// Pmem is a file that the guest maps as persistent memory (virtio-pmem), since Firecracker 1.14.
type Pmem struct {
	ID          string       `json:"id"` // letters, digits and `_`
	PathOnHost  string       `json:"pathOnHost"`
	RootDevice  bool         `json:"rootDevice,omitempty"`
	ReadOnly    bool         `json:"readOnly,omitempty"`
	RateLimiter *RateLimiter `json:"rateLimiter,omitempty"` // since Firecracker 1.16
}

// NetworkInterface is a network card, connected to a TAP of the host.
type NetworkInterface struct {
	IfaceID       string       `json:"ifaceId"`                          // letters, digits and `_`
	HostDevName   string       `json:"hostDevName,omitempty"`            // an existing TAP, at most 15 bytes
	GuestMAC      string       `json:"guestMac,omitempty"`               // six bytes in hex with `:` between, unicast
	MTU           int          `json:"mtu,omitempty" explicit:"nonzero"` // 68 to 65535, told to the guest; since Firecracker 1.16
	RxRateLimiter *RateLimiter `json:"rxRateLimiter,omitempty"`
	TxRateLimiter *RateLimiter `json:"txRateLimiter,omitempty"`
}

// RateLimiter limits bytes and operations; traffic passes when both buckets have tokens.
type RateLimiter struct {
	Bandwidth *TokenBucket `json:"bandwidth,omitempty"` // tokens are bytes
	Ops       *TokenBucket `json:"ops,omitempty"`       // tokens are operations, for a network interface frames
}

// TokenBucket starts full and is refilled at Size/RefillTime. Size or RefillTime 0 means no limit.
type TokenBucket struct {
	Size         int64 `json:"size"`                   // tokens that it holds
	RefillTime   int64 `json:"refillTime"`             // milliseconds from empty to full
	OneTimeBurst int64 `json:"oneTimeBurst,omitempty"` // extra tokens, spent first and never refilled
}

// Vsock connects guest and host by sockets without a network.
type Vsock struct {
	GuestCID uint32 `json:"guestCid"` // at least 3: 0 to 2 are the hypervisor, the local host and the host
	// UDSPath is the host's Unix socket, at most 107 bytes. Default: a socket in the VM's runtime folder.
	UDSPath string `json:"udsPath,omitempty"`
}

// Balloon takes memory back from the guest.
type Balloon struct {
	AmountMiB             int  `json:"amountMib"` // the target, at most the VM's memory
	DeflateOnOOM          bool `json:"deflateOnOom,omitempty"`
	StatsPollingIntervalS int  `json:"statsPollingIntervalS,omitempty"` // seconds, at most 65535; 0: no statistics
	FreePageReporting     bool `json:"freePageReporting,omitempty"`     // since Firecracker 1.14
	FreePageHinting       bool `json:"freePageHinting,omitempty"`       // since Firecracker 1.14, a developer preview
}

// Entropy is a source of random numbers for the guest (virtio-rng).
type Entropy struct {
	RateLimiter *RateLimiter `json:"rateLimiter,omitempty"`
}

// Serial is where the guest's serial port goes, since Firecracker 1.14.
type Serial struct {
	SerialOutPath string       `json:"serialOutPath,omitempty"` // a file or FIFO; default: the VM's console log
	RateLimiter   *TokenBucket `json:"rateLimiter,omitempty"`   // bytes; what exceeds it is dropped. Since Firecracker 1.16
}

// MMDS is the metadata service that the guest asks at a link-local address.
type MMDS struct {
	Version           string   `json:"version,omitempty"`           // "V1" (Firecracker's default, deprecated) or "V2" (with a session token)
	NetworkInterfaces []string `json:"networkInterfaces,omitempty"` // at least one, each the id of an interface
	IPv4Address       string   `json:"ipv4Address,omitempty"`       // link-local, default 169.254.169.254
	IMDSCompat        bool     `json:"imdsCompat,omitempty"`        // plain text replies as EC2 gives them; since Firecracker 1.13
}

// Logger is the VMM's own log.
type Logger struct {
	LogPath       string `json:"logPath,omitempty"`
	Level         string `json:"level,omitempty"` // Off, Error, Warning, Info (default), Debug or Trace, in any case
	ShowLevel     bool   `json:"showLevel,omitempty"`
	ShowLogOrigin bool   `json:"showLogOrigin,omitempty"`
	Module        string `json:"module,omitempty"` // only this module, such as api_server::request; since Firecracker 1.7
}

// Metrics is where the VMM writes its counters, one JSON object for each line.
type Metrics struct {
	MetricsPath string `json:"metricsPath"`
}

// isEphemeral reports whether the drive is staged: never with a vhost-user back end; otherwise what the drive says, or
// whether it is writable. A manager that says "no ephemeral drives" (writable false) overrules both.
func (d *Drive) isEphemeral(allowed bool) bool {
	switch {
	case !allowed, d.Socket != "":
		return false
	case d.Ephemeral != nil:
		return *d.Ephemeral
	default:
		return !d.IsReadOnly
	}
}

// applyDefaults fills in what the VM needs as a number. The id is the manager's business.
func (c *Config) applyDefaults() {
	if c.MachineConfig.VCPUCount == 0 {
		c.MachineConfig.VCPUCount = DefaultVCPUCount
	}
	if c.MachineConfig.MemSizeMiB == 0 {
		c.MachineConfig.MemSizeMiB = DefaultMemSizeMiB
	}
}

// netNSPath is the path of a network namespace that is named: ip-netns(8) has names in /run/netns.
func netNSPath(name string) string {
	if name == "" || strings.ContainsRune(name, '/') {
		return name
	}
	return "/run/netns/" + name
}

// makeAbsolute makes every path absolute: whoever starts the VM later may do so from another folder.
func (c *Config) makeAbsolute() error {
	paths := []*string{&c.BootSource.KernelImagePath, &c.BootSource.InitrdPath}
	for i := range c.Drives {
		paths = append(paths, &c.Drives[i].PathOnHost, &c.Drives[i].Socket)
	}
	for i := range c.Pmem {
		paths = append(paths, &c.Pmem[i].PathOnHost)
	}
	if c.Vsock != nil {
		paths = append(paths, &c.Vsock.UDSPath)
	}
	if c.Logger != nil {
		paths = append(paths, &c.Logger.LogPath)
	}
	if c.Metrics != nil {
		paths = append(paths, &c.Metrics.MetricsPath)
	}
	if c.Serial != nil {
		paths = append(paths, &c.Serial.SerialOutPath)
	}
	c.NetNS = netNSPath(c.NetNS)
	paths = append(paths, &c.NetNS)
	for _, path := range paths {
		if *path == "" || strings.ContainsRune(*path, 0) { // which validation refuses, by its key
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	return nil
}

// clone returns a copy that shares no memory with c.
func (c *Config) clone() *Config {
	d := *c
	d.CPUConfig = clonePtr(c.CPUConfig, (*CPUConfig).detach)
	d.MemoryHotplug = clonePtr(c.MemoryHotplug, nil)
	d.Drives = slices.Clone(c.Drives)
	for i := range d.Drives {
		drive := &d.Drives[i]
		drive.RateLimiter = clonePtr(drive.RateLimiter, (*RateLimiter).detach)
		drive.Ephemeral = clonePtr(drive.Ephemeral, nil)
	}
	d.Pmem = slices.Clone(c.Pmem)
	for i := range d.Pmem {
		d.Pmem[i].RateLimiter = clonePtr(d.Pmem[i].RateLimiter, (*RateLimiter).detach)
	}
	d.NetworkInterfaces = slices.Clone(c.NetworkInterfaces)
	for i := range d.NetworkInterfaces {
		iface := &d.NetworkInterfaces[i]
		iface.RxRateLimiter = clonePtr(iface.RxRateLimiter, (*RateLimiter).detach)
		iface.TxRateLimiter = clonePtr(iface.TxRateLimiter, (*RateLimiter).detach)
	}
	d.Vsock = clonePtr(c.Vsock, nil)
	d.Balloon = clonePtr(c.Balloon, nil)
	d.Entropy = clonePtr(c.Entropy, func(e *Entropy) { e.RateLimiter = clonePtr(e.RateLimiter, (*RateLimiter).detach) })
	d.Serial = clonePtr(c.Serial, func(s *Serial) { s.RateLimiter = clonePtr(s.RateLimiter, nil) })
	d.MMDS = clonePtr(c.MMDS, func(m *MMDS) { m.NetworkInterfaces = slices.Clone(m.NetworkInterfaces) })
	d.Logger = clonePtr(c.Logger, nil)
	d.Metrics = clonePtr(c.Metrics, nil)
	d.Limits = clonePtr(c.Limits, nil)
	d.Guest = clonePtr(c.Guest, nil)
	return &d
}

// detach replaces what a shallow copy still shares with its original.
func (c *CPUConfig) detach() {
	c.KVMCapabilities = slices.Clone(c.KVMCapabilities)
	c.CPUIDModifiers = slices.Clone(c.CPUIDModifiers)
	for i := range c.CPUIDModifiers {
		c.CPUIDModifiers[i].Modifiers = slices.Clone(c.CPUIDModifiers[i].Modifiers)
	}
	c.MSRModifiers = slices.Clone(c.MSRModifiers)
	c.RegModifiers = slices.Clone(c.RegModifiers)
	c.VCPUFeatures = slices.Clone(c.VCPUFeatures)
}

// detach replaces what a shallow copy still shares with its original.
func (r *RateLimiter) detach() {
	r.Bandwidth = clonePtr(r.Bandwidth, nil)
	r.Ops = clonePtr(r.Ops, nil)
}

// clonePtr copies what p points to and lets detach, if there is one, copy what that points to.
func clonePtr[T any](p *T, detach func(*T)) *T {
	if p == nil {
		return nil
	}
	v := *p
	if detach != nil {
		detach(&v)
	}
	return &v
}
