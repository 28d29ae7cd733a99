package emulator

import (
	"errors"

	"smartvm/emulator/serde"
)

// maxVCPUs is Firecracker's MAX_SUPPORTED_VCPUS.
const maxVCPUs = 32

// machineConfig is the body of PUT /machine-config and the answer of GET.
type machineConfig struct {
	VCPUs           uint8  `json:"vcpu_count"`
	MemoryMiB       uint64 `json:"mem_size_mib"`
	SMT             bool   `json:"smt"`
	CPUTemplate     string `json:"cpu_template,omitempty"` // static templates only; None is none
	TrackDirtyPages bool   `json:"track_dirty_pages"`
	HugePages       string `json:"huge_pages"`
}

func defaultMachineConfig() machineConfig {
	return machineConfig{VCPUs: 1, MemoryMiB: 128, HugePages: "None"}
}

func decodeTemplate(p *string) serde.Decode {
	return serde.Enum(p, "C3", "T2", "T2S", "None", "T2CL", "T2A")
}

func decodeHugePages(p *string) serde.Decode { return serde.Enum(p, "None", "2M") }

// machineUpdate changes the machine configuration. PUT gives all fields, PATCH some.
type machineUpdate struct {
	onlyBeforeStart
	vcpus           *uint8
	memoryMiB       *uint64
	smt             *bool
	template        *string
	trackDirtyPages *bool
	hugePages       *string
}

// fullMachineConfig is the body of PUT: all fields, and the template as it was given.
type fullMachineConfig struct {
	machineConfig
	template *string
}

func decodeMachineConfig(m *fullMachineConfig) serde.Decode {
	m.HugePages = "None"
	return serde.Struct("MachineConfig",
		serde.Required("vcpu_count", serde.Uint8(&m.VCPUs)),
		serde.Required("mem_size_mib", serde.Usize(&m.MemoryMiB)),
		serde.Default("smt", serde.Bool(&m.SMT)),
		serde.Default("cpu_template", serde.Option(&m.template, decodeTemplate)),
		serde.Default("track_dirty_pages", serde.Bool(&m.TrackDirtyPages)),
		serde.Default("huge_pages", decodeHugePages(&m.HugePages)))
}

func (m *fullMachineConfig) update() *machineUpdate {
	return &machineUpdate{vcpus: &m.VCPUs, memoryMiB: &m.MemoryMiB, smt: &m.SMT, template: m.template,
		trackDirtyPages: &m.TrackDirtyPages, hugePages: &m.HugePages}
}

func parsePutMachineConfig(body []byte) (action, string, error) {
	var cfg fullMachineConfig
	err := decode(body, decodeMachineConfig(&cfg))
	update := cfg.update()
	return update, update.deprecation("PUT"), err
}

func parsePatchMachineConfig(body []byte) (action, string, error) {
	u := &machineUpdate{}
	err := decode(body, serde.Struct("MachineConfigUpdate",
		serde.Default("vcpu_count", serde.Option(&u.vcpus, serde.Uint8)),
		serde.Default("mem_size_mib", serde.Option(&u.memoryMiB, serde.Usize)),
		serde.Default("smt", serde.Option(&u.smt, serde.Bool)),
		serde.Default("cpu_template", serde.Option(&u.template, decodeTemplate)),
		serde.Default("track_dirty_pages", serde.Option(&u.trackDirtyPages, serde.Bool)),
		serde.Default("huge_pages", serde.Option(&u.hugePages, decodeHugePages))))
	if err == nil && *u == (machineUpdate{}) {
		err = errEmptyPatch
	}
	return u, u.deprecation("PATCH"), err
}

func (u *machineUpdate) deprecation(method string) string {
	if u.template == nil {
		return ""
	}
	return method + " /machine-config: cpu_template field is deprecated."
}

func (u *machineUpdate) beforeStart(c *controller) (any, error) {
	c.bootPath = true
	return nil, prefix("Machine config error: ", c.updateMachine(u))
}

var (
	errVCPUs = errors.New("The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number " +
		"if SMT is enabled.")
	errMemorySize   = errors.New("The memory size (MiB) is either 0, or not a multiple of the configured page size.")
	errBalloonLarge = errors.New("The memory size (MiB) is smaller than the previously set balloon device target size.")
)

// updateMachine applies a change and notes what of it the machine does not do.
func (c *controller) updateMachine(u *machineUpdate) error {
	if err := c.vm.updateMachine(u); err != nil {
		return err
	}
	if c.vm.machine.CPUTemplate != "" {
		c.warn("CPU templates")
	}
	if c.vm.machine.HugePages != "None" {
		c.warn("huge pages")
	}
	if c.vm.machine.TrackDirtyPages {
		c.warn("dirty page tracking")
	}
	return nil
}

// updateMachine checks and applies a change, in Firecracker's order.
func (vm *resources) updateMachine(u *machineUpdate) error {
	next := vm.machine
	assign(&next.VCPUs, u.vcpus)
	assign(&next.SMT, u.smt)
	if next.VCPUs == 0 || next.VCPUs > maxVCPUs || next.SMT && next.VCPUs > 1 && next.VCPUs%2 == 1 {
		return errVCPUs
	}
	assign(&next.MemoryMiB, u.memoryMiB)
	assign(&next.HugePages, u.hugePages)
	if next.MemoryMiB == 0 || next.HugePages == "2M" && next.MemoryMiB%2 != 0 {
		return errMemorySize
	}
	assign(&next.TrackDirtyPages, u.trackDirtyPages)
	if u.template != nil {
		next.CPUTemplate = *u.template
		if next.CPUTemplate == "None" {
			next.CPUTemplate = ""
		}
		vm.customCPU = false
	}
	if vm.balloon != nil && next.MemoryMiB < uint64(vm.balloon.AmountMiB) {
		return errBalloonLarge
	}
	vm.machine = next
	return nil
}

func assign[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// getMachineConfig answers GET /machine-config.
type getMachineConfig struct{}

func (getMachineConfig) beforeStart(c *controller) (any, error) { return c.vm.machine, nil }
func (getMachineConfig) afterStart(c *controller) (any, error)  { return c.vm.machine, nil }
