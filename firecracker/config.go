package firecracker

// The requests' bodies, as Firecracker's API description has them (testdata/firecracker-v1.16.1.yaml). A zero field that
// is marked omitempty is not sent, and Firecracker's default holds; a pointer marks the fields whose zero means
// something else than their absence. Sizes named MiB are in mebibytes.

// MachineConfig is the body of PUT /machine-config and the reply of GET. Without it a VM has 1 vCPU and 128 MiB.
type MachineConfig struct {
	VCPUCount  int  `json:"vcpu_count"`    // 1 to 32; with SMT 1 or even
	MemSizeMiB int  `json:"mem_size_mib"`  // more than 0; even with 2M pages
	SMT        bool `json:"smt,omitempty"` // x86_64 only
	// CPUTemplate is a static template. Deprecated by Firecracker in favour of PUT /cpu-config.
	CPUTemplate CPUTemplate `json:"cpu_template,omitempty"`
	// TrackDirtyPages is needed for Diff snapshots that hold no more than what changed.
	TrackDirtyPages bool      `json:"track_dirty_pages,omitempty"`
	HugePages       HugePages `json:"huge_pages,omitempty"`
}

// MachineConfigUpdate is the body of PATCH /machine-config: nil leaves a setting as it is.
type MachineConfigUpdate struct {
	VCPUCount       *int         `json:"vcpu_count,omitempty"`
	MemSizeMiB      *int         `json:"mem_size_mib,omitempty"`
	SMT             *bool        `json:"smt,omitempty"`
	CPUTemplate     *CPUTemplate `json:"cpu_template,omitempty"`
	TrackDirtyPages *bool        `json:"track_dirty_pages,omitempty"`
	HugePages       *HugePages   `json:"huge_pages,omitempty"`
}

// CPUTemplate names a static CPU template.
type CPUTemplate string

// The static CPU templates. V1N1 is for aarch64, the others are for x86_64.
const (
	CPUTemplateNone CPUTemplate = "None"
	CPUTemplateC3   CPUTemplate = "C3"
	CPUTemplateT2   CPUTemplate = "T2"
	CPUTemplateT2S  CPUTemplate = "T2S"
	CPUTemplateT2CL CPUTemplate = "T2CL"
	CPUTemplateT2A  CPUTemplate = "T2A"
	CPUTemplateV1N1 CPUTemplate = "V1N1"
)

// HugePages says what backs the guest's memory.
type HugePages string

// The kinds of pages. HugePages2M needs a hugetlbfs pool that is large enough: a shortage kills the VMM (exit code 149).
const (
	HugePagesNone HugePages = "None"
	HugePages2M   HugePages = "2M"
)

// CPUConfig is a custom CPU template, the body of PUT /cpu-config. Numbers and bitmaps are text in Firecracker's own
// notation (docs/cpu_templates/cpu-templates.md).
type CPUConfig struct {
	KVMCapabilities []string            `json:"kvm_capabilities,omitempty"` // "121" adds, "!121" removes
	CPUIDModifiers  []CPUIDLeafModifier `json:"cpuid_modifiers,omitempty"`  // x86_64
	MSRModifiers    []MSRModifier       `json:"msr_modifiers,omitempty"`    // x86_64
	RegModifiers    []RegModifier       `json:"reg_modifiers,omitempty"`    // aarch64
	VCPUFeatures    []VCPUFeature       `json:"vcpu_features,omitempty"`    // aarch64
}

// CPUIDLeafModifier changes registers of one CPUID leaf and subleaf.
type CPUIDLeafModifier struct {
	Leaf      string                  `json:"leaf"`
	Subleaf   string                  `json:"subleaf"`
	Flags     int32                   `json:"flags"` // KVM's flags of the leaf
	Modifiers []CPUIDRegisterModifier `json:"modifiers"`
}

// CPUIDRegisterModifier changes bits of one register: "eax", "ebx", "ecx" or "edx".
type CPUIDRegisterModifier struct {
	Register string `json:"register"`
	Bitmap   string `json:"bitmap"` // "0b" and 32 of 0, 1, x
}

// MSRModifier changes bits of a model-specific register.
type MSRModifier struct {
	Addr   string `json:"addr"`
	Bitmap string `json:"bitmap"` // "0b" and 64 of 0, 1, x
}

// RegModifier changes bits of an aarch64 register.
type RegModifier struct {
	Addr   string `json:"addr"`
	Bitmap string `json:"bitmap"` // "0b" and up to 128 of 0, 1, x
}

// VCPUFeature changes bits of one word of kvm_vcpu_init.features.
type VCPUFeature struct {
	Index  int32  `json:"index"`
	Bitmap string `json:"bitmap"` // "0b" and 32 of 0, 1, x
}

// BootSource is the body of PUT /boot-source. The files are opened when it is sent.
type BootSource struct {
	KernelImagePath string `json:"kernel_image_path"` // x86_64: ELF vmlinux; aarch64: Image
	InitrdPath      string `json:"initrd_path,omitempty"`
	// BootArgs replaces Firecracker's default, which has `nomodule` and no console. At most 2048 bytes on x86_64,
	// with all that Firecracker appends (root=, one virtio_mmio.device= for each device).
	BootArgs string `json:"boot_args,omitempty"`
}

// Logger is the body of PUT /logger. It may be sent again; one without a level resets the level to Info.
type Logger struct {
	LogPath       string   `json:"log_path,omitempty"` // a file, made if missing and written from its start, or a FIFO
	Level         LogLevel `json:"level,omitempty"`
	ShowLevel     bool     `json:"show_level,omitempty"`
	ShowLogOrigin bool     `json:"show_log_origin,omitempty"`
	Module        string   `json:"module,omitempty"` // only messages of this module path
}

// LogLevel is how much the VMM logs.
type LogLevel string

// The log levels, least first.
const (
	LogOff     LogLevel = "Off"
	LogError   LogLevel = "Error"
	LogWarning LogLevel = "Warning"
	LogInfo    LogLevel = "Info"
	LogDebug   LogLevel = "Debug"
	LogTrace   LogLevel = "Trace"
)

// Metrics is the body of PUT /metrics, which is taken once.
type Metrics struct {
	MetricsPath string `json:"metrics_path"`
}

// Serial is the body of PUT /serial, since 1.14.0. Without it the console goes to the VMM's stdout. It is not part of a
// snapshot: send it again before a load.
type Serial struct {
	SerialOutPath string       `json:"serial_out_path,omitempty"`
	RateLimiter   *TokenBucket `json:"rate_limiter,omitempty"` // since 1.16.0; what is over is dropped
}

// Entropy is the body of PUT /entropy: one virtio-rng device.
type Entropy struct {
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
}

// Balloon is the body of PUT /balloon and the reply of GET.
type Balloon struct {
	AmountMiB             int  `json:"amount_mib"`
	DeflateOnOOM          bool `json:"deflate_on_oom"`
	StatsPollingIntervalS int  `json:"stats_polling_interval_s,omitempty"` // seconds; 0 means no statistics, for good
	FreePageHinting       bool `json:"free_page_hinting,omitempty"`        // since 1.14.0
	FreePageReporting     bool `json:"free_page_reporting,omitempty"`      // since 1.14.0
}

// BalloonUpdate is the body of PATCH /balloon, a wish that the guest follows or not.
type BalloonUpdate struct {
	AmountMiB int `json:"amount_mib"`
}

// BalloonStatsUpdate is the body of PATCH /balloon/statistics; from or to 0 is refused.
type BalloonStatsUpdate struct {
	StatsPollingIntervalS int `json:"stats_polling_interval_s"`
}

// BalloonHintingStart is the body of PATCH /balloon/hinting/start.
type BalloonHintingStart struct {
	AcknowledgeOnStop *bool `json:"acknowledge_on_stop,omitempty"` // default true
}

// MemoryHotplug is the body of PUT /hotplug/memory (virtio-mem), since 1.14.0.
type MemoryHotplug struct {
	TotalSizeMiB int `json:"total_size_mib"`           // a multiple of the slot size
	SlotSizeMiB  int `json:"slot_size_mib,omitempty"`  // default 128, at least that
	BlockSizeMiB int `json:"block_size_mib,omitempty"` // default 2, a power of 2
}

// MemoryHotplugUpdate is the body of PATCH /hotplug/memory, a wish that the guest follows or not.
type MemoryHotplugUpdate struct {
	RequestedSizeMiB int `json:"requested_size_mib"` // a multiple of the block size
}
