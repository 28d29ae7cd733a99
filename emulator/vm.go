package emulator

import (
	"time"

	"smartvm/emulator/serde"
)

// getInfo answers GET /.
type getInfo struct{}

// info is the answer of GET /.
type info struct {
	ID      string `json:"id"`
	State   state  `json:"state"`
	Version string `json:"vmm_version"`
	App     string `json:"app_name"`
}

func (a getInfo) beforeStart(c *controller) (any, error) {
	return info{ID: c.id, State: c.state, Version: version, App: appName}, nil
}

func (a getInfo) afterStart(c *controller) (any, error) { return a.beforeStart(c) }

// getVersion answers GET /version.
type getVersion struct{}

func (a getVersion) beforeStart(*controller) (any, error) {
	return struct {
		Version string `json:"firecracker_version"`
	}{version}, nil
}

func (a getVersion) afterStart(c *controller) (any, error) { return a.beforeStart(c) }

// vmConfig is the answer of GET /vm/config.
type vmConfig struct {
	Balloon       *balloonConfig       `json:"balloon"`
	Drives        []driveConfig        `json:"drives"`
	Boot          bootConfig           `json:"boot-source"`
	CPU           *struct{}            `json:"cpu-config"` // never shown
	Logger        *struct{}            `json:"logger"`     // never shown
	Machine       machineConfig        `json:"machine-config"`
	Metrics       *struct{}            `json:"metrics"` // never shown
	MMDS          *mmdsConfig          `json:"mmds-config"`
	Interfaces    []interfaceConfig    `json:"network-interfaces"`
	Vsock         *vsockConfig         `json:"vsock"`
	Entropy       *entropyConfig       `json:"entropy"`
	Pmem          []*pmemConfig        `json:"pmem"`
	MemoryHotplug *memoryHotplugConfig `json:"memory-hotplug"`
}

// config collects what was configured.
func (vm *resources) config() vmConfig {
	cfg := vmConfig{
		Balloon: vm.balloon, Boot: vm.bootConfig, Machine: vm.machine, MMDS: vm.mmdsConfig(), Entropy: vm.entropy,
		MemoryHotplug: vm.memoryHotplug,
		Drives:        []driveConfig{}, Interfaces: []interfaceConfig{}, Pmem: append([]*pmemConfig{}, vm.pmem...),
	}
	for _, d := range vm.drives {
		cfg.Drives = append(cfg.Drives, d.driveConfig)
	}
	for _, n := range vm.interfaces {
		cfg.Interfaces = append(cfg.Interfaces, n.interfaceConfig)
	}
	if vm.vsock != nil {
		cfg.Vsock = &vm.vsock.vsockConfig
	}
	return cfg
}

// getConfig answers GET /vm/config.
type getConfig struct{}

func (getConfig) beforeStart(c *controller) (any, error) { return c.vm.config(), nil }
func (getConfig) afterStart(c *controller) (any, error)  { return c.vm.config(), nil }

// parseAction reads the body of PUT /actions.
func parseAction(body []byte) (action, string, error) {
	var kind string
	err := decode(body, serde.Struct("ActionBody",
		serde.Required("action_type", serde.Enum(&kind, "FlushMetrics", "InstanceStart", "SendCtrlAltDel"))))
	switch kind {
	case "FlushMetrics":
		return flushMetrics{}, "", err
	case "InstanceStart":
		return startVM{}, "", err
	}
	return ctrlAltDel{}, "", err
}

// ctrlAltDel presses three keys in the guest.
type ctrlAltDel struct{ onlyAfterStart }

func (ctrlAltDel) afterStart(c *controller) (any, error) {
	return nil, prefix("Internal VMM error: I8042 error: ", c.machine.CtrlAltDel(c.ctx))
}

// setState is PATCH /vm. Firecracker lets a VM be paused and resumed twice, and so does the emulator.
type setState struct {
	onlyAfterStart
	state string
}

func parsePatchVM(body []byte) (action, string, error) {
	var a setState
	err := decode(body, serde.Struct("Vm", serde.Required("state", serde.Enum(&a.state, "Paused", "Resumed"))))
	return a, "", err
}

func (a setState) afterStart(c *controller) (any, error) {
	began := time.Now()
	if a.state == "Paused" {
		if c.state != statePaused {
			if err := c.machine.Pause(c.ctx); err != nil {
				return nil, prefix("Internal VMM error: Failed to pause the vCPUs: ", err)
			}
		}
		c.state = statePaused
		c.metrics.took("pause_vm", began)
		c.metrics.took("vmm_pause_vm", began)
		return nil, nil
	}
	if err := c.resume(); err != nil {
		return nil, prefix("Internal VMM error: ", err)
	}
	c.metrics.took("resume_vm", began)
	c.metrics.took("vmm_resume_vm", began)
	return nil, nil
}

func (c *controller) resume() error {
	if c.state == statePaused {
		if err := c.machine.Resume(c.ctx); err != nil {
			return prefix("Failed to resume the vCPUs: ", err)
		}
	}
	c.state = stateRunning
	return nil
}
