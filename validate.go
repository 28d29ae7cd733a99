package smartvm

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"smartvm/internal/cpuarch"
	"smartvm/internal/lazyregexp"
)

// Bounds of Firecracker's API and of the kernel under it.
const (
	maxVCPUs         = 32          // MAX_SUPPORTED_VCPUS, vmm_config/machine_config.rs
	maxMemSizeMiB    = 1022 * 1024 // arch/*/layout.rs: what exceeds it Firecracker cuts off
	maxBootArgs      = 2047        // CMDLINE_MAX_SIZE in arch/*/layout.rs, which counts the NUL
	maxIfaceName     = 15          // IFNAMSIZ of netdevice(7), which counts the NUL
	maxSocketPath    = 107         // sun_path of unix(7), which counts the NUL
	maxPath          = 4095        // PATH_MAX of path_resolution(7), which counts the NUL
	maxIDLen         = 255
	maxStatsInterval = 1<<16 - 1
	minMTU, maxMTU   = 68, 1<<16 - 1

	minHotplugBlockMiB = 2
	minHotplugSlotMiB  = 128
	maxHotplugMiB      = 1<<32 - 1 // 1.16.1 wraps above (firecracker#6076)

	maxFaultsShown = 50 // nobody mends more at once

	cidAny = 1<<32 - 1 // VMADDR_CID_ANY of vsock(7)
)

// maxVirtioDevices is how many virtio devices fit on the MMIO bus: its interrupts (arch/*/layout.rs).
var maxVirtioDevices = map[string]int{cpuarch.X8664: 17, cpuarch.AArch64: 92}

var (
	deviceID = lazyregexp.New(`^[A-Za-z0-9_]+$`)                                // checked_id of Firecracker's api_server/parsed_request.rs
	hostname = lazyregexp.New(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$`) // sethostname(2) takes 64 bytes
	fsType   = lazyregexp.New(`^[a-z0-9_.]{1,32}$`)                             // as /proc/filesystems has them
	partUUID = lazyregexp.New(`^[0-9A-Fa-f-]+$`)                                // goes into root=PARTUUID=…: a space would start another argument
)

// validate reports every fault of the configuration for a machine of this architecture, as one error of code
// [InvalidConfig]. It looks at nothing but its arguments; checkFiles looks at the host.
func (c *Config) validate(arch string) error {
	v := validation{arch: arch}
	v.general(c)
	v.machine(&c.MachineConfig, c.CPUConfig)
	v.cpuConfig("cpuConfig", c.CPUConfig)
	v.memoryHotplug("memoryHotplug", c.MemoryHotplug)
	v.drives(c.Drives)
	v.pmem(c.Pmem, c.Drives)
	v.interfaces(c.NetworkInterfaces)
	v.vsock(c.Vsock)
	v.balloon(c.Balloon, c.MachineConfig.MemSizeMiB)
	v.mmds(c.MMDS, c.NetworkInterfaces)
	v.outputs(c)
	v.limits(c)
	v.guest(c.Guest)
	v.deviceCount(c)
	return v.faults.err()
}

// faults are the faults of one configuration, each a line of its own.
type faults []error

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

func (f faults) Error() string {
	if len(f) == 1 {
		return f[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d faults", len(f))
	for i, err := range f {
		if i == maxFaultsShown {
			fmt.Fprintf(&b, "\n  and %d more", len(f)-i)
			break
		}
		b.WriteString("\n  ")
		b.WriteString(err.Error())
	}
	return b.String()
}

// Unwrap lets errors.Is and errors.As see each fault.
func (f faults) Unwrap() []error { return f }

// err leaves the operation and the VM to the caller, who knows them.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return &Error{Code: InvalidConfig, Err: f}
}

// validation collects faults. Each method checks one part; key is the part's path in the configuration.
type validation struct {
	arch   string
	faults faults
}

func (v *validation) add(key, format string, args ...any) {
	v.faults.add("%s %s", key, fmt.Sprintf(format, args...))
}

func (v *validation) general(c *Config) {
	if _, ok := maxVirtioDevices[v.arch]; !ok {
		v.add("arch", "must be %s or %s, is %q", cpuarch.X8664, cpuarch.AArch64, v.arch)
	}
	if c.SchemaVersion != 0 && c.SchemaVersion != 1 {
		v.add("schemaVersion", "must be 1, is %d: this file is for another version of smartvm", c.SchemaVersion)
	}
	switch {
	case len(c.ID) > maxIDLen:
		v.add("id", "must have at most %d bytes, has %d", maxIDLen, len(c.ID))
	case !utf8.ValidString(c.ID) || strings.ContainsFunc(c.ID, unicode.IsControl):
		v.add("id", "must be UTF-8 without control characters, is %q", c.ID)
	}
	v.oneOf("ephemeralStorage", c.EphemeralStorage, "disk", "memory")

	v.path("bootSource.kernelImagePath", c.BootSource.KernelImagePath)
	v.optionalPath("bootSource.initrdPath", c.BootSource.InitrdPath)
	v.optionalPath("netns", c.NetNS)
	if n := len(c.BootSource.BootArgs); n > maxBootArgs {
		v.add("bootSource.bootArgs", "must have at most %d bytes, has %d", maxBootArgs, n)
	}
	if i := strings.IndexFunc(c.BootSource.BootArgs, notPrintableASCII); i >= 0 {
		v.add("bootSource.bootArgs", "must be printable ASCII on one line, is not at byte %d", i)
	}
}

func notPrintableASCII(r rune) bool { return r < ' ' || r > '~' }

// machine treats 0 as "default"; a file cannot say 0 (see the explicit tags in config.go).
func (v *validation) machine(m *MachineConfig, custom *CPUConfig) {
	if m.VCPUCount < 0 || m.VCPUCount > maxVCPUs {
		v.add("machineConfig.vcpuCount", "must be 1 to %d, is %d", maxVCPUs, m.VCPUCount)
	}
	if m.MemSizeMiB < 0 || m.MemSizeMiB > maxMemSizeMiB {
		v.add("machineConfig.memSizeMib", "must be 1 to %d, is %d", maxMemSizeMiB, m.MemSizeMiB)
	}
	if m.SMT && v.arch == cpuarch.AArch64 {
		v.add("machineConfig.smt", "cannot be true on aarch64")
	}
	if m.SMT && m.VCPUCount > 1 && m.VCPUCount%2 != 0 {
		v.add("machineConfig.vcpuCount", "must be 1 or even with smt, is %d", m.VCPUCount)
	}

	templates := []string{"None", "C3", "T2", "T2S", "T2CL", "T2A"}
	if v.arch == cpuarch.AArch64 {
		templates = []string{"None", "V1N1"}
	}
	v.oneOf("machineConfig.cpuTemplate", m.CPUTemplate, templates...)
	if custom != nil && m.CPUTemplate != "" && m.CPUTemplate != "None" {
		v.add("machineConfig.cpuTemplate", "and cpuConfig exclude each other")
	}

	v.oneOf("machineConfig.hugePages", m.HugePages, "None", "2M")
	if m.HugePages == "2M" && m.MemSizeMiB%2 != 0 {
		v.add("machineConfig.memSizeMib", "must be even with hugePages 2M, is %d", m.MemSizeMiB)
	}
}

func (v *validation) memoryHotplug(key string, m *MemoryHotplug) {
	if m == nil {
		return
	}
	block, slot := m.BlockSizeMiB, m.SlotSizeMiB
	if block == 0 {
		block = minHotplugBlockMiB
	}
	if slot == 0 {
		slot = minHotplugSlotMiB
	}
	blockOK := block >= minHotplugBlockMiB && block <= maxHotplugMiB && block&(block-1) == 0
	if !blockOK {
		v.add(key+".blockSizeMib", "must be a power of two and at least %d, is %d", minHotplugBlockMiB, block)
	}
	slotOK := slot >= minHotplugSlotMiB && slot <= maxHotplugMiB
	switch {
	case !slotOK:
		v.add(key+".slotSizeMib", "must be %d to %d, is %d", minHotplugSlotMiB, maxHotplugMiB, slot)
	case blockOK && slot%block != 0:
		v.add(key+".slotSizeMib", "must be a multiple of blockSizeMib %d, is %d", block, slot)
	}
	switch {
	case m.TotalSizeMiB == 0:
		v.add(key+".totalSizeMib", "is missing")
	case m.TotalSizeMiB < 0 || m.TotalSizeMiB > maxHotplugMiB:
		v.add(key+".totalSizeMib", "must be 1 to %d, is %d", maxHotplugMiB, m.TotalSizeMiB)
	case slotOK && m.TotalSizeMiB%slot != 0:
		v.add(key+".totalSizeMib", "must be a multiple of slotSizeMib %d, is %d", slot, m.TotalSizeMiB)
	}
}

// seen maps a value that must be there once to the key where it was found first.
type seen map[string]string

func (v *validation) deviceID(key, id string, ids seen) {
	switch {
	case id == "":
		v.add(key, "is missing")
	case !deviceID.MatchString(id):
		v.add(key, "must be letters, digits and `_`, is %q", id)
	default:
		v.unique(key, id, ids)
	}
}

func (v *validation) unique(key, value string, values seen) {
	if first, taken := values[value]; taken {
		v.add(key, "is the same as %s: %q", first, value)
		return
	}
	values[value] = key
}

func (v *validation) path(key, path string) {
	if path == "" {
		v.add(key, "is missing")
		return
	}
	v.optionalPath(key, path)
}

func (v *validation) optionalPath(key, path string) {
	switch {
	case strings.ContainsRune(path, 0):
		v.add(key, "must not hold a NUL byte, is %q", path)
	case !utf8.ValidString(path): // the API's JSON would name another file
		v.add(key, "must be UTF-8, is %q", path)
	case len(path) > maxPath:
		v.add(key, "must have at most %d bytes, has %d", maxPath, len(path))
	}
}

func (v *validation) socketPath(key, socket string) {
	v.optionalPath(key, socket)
	if n := len(socket); n > maxSocketPath {
		v.add(key, "must have at most %d bytes, as a Unix socket's path, has %d", maxSocketPath, n)
	}
}

// oneOf takes an empty value for the default.
func (v *validation) oneOf(key, value string, allowed ...string) {
	if value != "" && !slices.Contains(allowed, value) {
		last := len(allowed) - 1
		v.add(key, "must be %s or %s, is %q", strings.Join(allowed[:last], ", "), allowed[last], value)
	}
}
