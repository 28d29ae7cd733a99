package emulator

import (
	"errors"
	"os"

	"smartvm/emulator/serde"
)

// fileConfig is the content of --config-file. Keys of no meaning at its top are ignored.
type fileConfig struct {
	balloon       *balloonConfig
	drives        []driveConfig
	boot          bootConfig
	cpu           *cpuTemplate
	logger        *loggerConfig
	machine       *fullMachineConfig
	metrics       *string
	mmds          *mmdsConfig
	interfaces    []interfaceConfig
	vsock         *vsockConfig
	entropy       *entropyConfig
	pmem          []pmemConfig
	memoryHotplug *memoryHotplugConfig
}

func decodeFile(f *fileConfig) serde.Decode {
	return serde.OpenStruct("VmmConfig",
		serde.Optional("balloon", serde.Option(&f.balloon, decodeBalloon)),
		serde.Required("drives", serde.Vec(&f.drives, decodeDrive)),
		serde.Required("boot-source", decodeBoot(&f.boot)),
		serde.Optional("cpu-config", serde.Option(&f.cpu, decodeCPUTemplate)),
		serde.Optional("logger", serde.Option(&f.logger, decodeLogger)),
		serde.Optional("machine-config", serde.Option(&f.machine, decodeMachineConfig)),
		serde.Optional("metrics", serde.Option(&f.metrics, decodeMetrics)),
		serde.Optional("mmds-config", serde.Option(&f.mmds, decodeMMDSConfig)),
		serde.Default("network-interfaces", serde.Vec(&f.interfaces, decodeInterface)),
		serde.Optional("vsock", serde.Option(&f.vsock, decodeVsock)),
		serde.Optional("entropy", serde.Option(&f.entropy, decodeEntropy)),
		serde.Default("pmem", serde.Vec(&f.pmem, decodePmem)),
		serde.Optional("memory-hotplug", serde.Option(&f.memoryHotplug, decodeMemoryHotplug)))
}

// cpuTemplate is a custom CPU template, or the path of a file with one.
type cpuTemplate struct {
	path *string
}

func decodeCPUTemplate(t *cpuTemplate) serde.Decode {
	var v any
	return serde.Check(serde.Any(&v), func() error {
		if path, ok := v.(string); ok {
			t.path = &path
			return nil
		}
		if serde.Unmarshal(serde.Marshal(v), decodeCPUConfig()) != nil {
			return serde.Fail("data did not match any variant of untagged enum CustomCpuTemplateOrPath")
		}
		return nil
	})
}

// configure applies a configuration file in Firecracker's order. metadata, if not nil, is the content of --metadata.
func (c *controller) configure(text []byte, metadata *any) error {
	var f fileConfig
	if err := serde.Unmarshal(text, decodeFile(&f)); err != nil {
		return prefix("Invalid JSON: ", err)
	}
	if f.logger != nil {
		if err := c.log.update(*f.logger); err != nil {
			return prefix("Logger error: ", err)
		}
	}
	if f.metrics != nil {
		if err := c.metrics.open(c.system, *f.metrics); err != nil {
			return prefix("Metrics error: ", err)
		}
	}
	if f.machine != nil {
		if err := c.updateMachine(f.machine.update()); err != nil {
			return prefix("VM config error: ", err)
		}
	}
	if f.cpu != nil {
		if err := c.configureCPU(*f.cpu); err != nil {
			return err
		}
	}
	if err := c.vm.setBootSource(f.boot); err != nil {
		return prefix("Boot source error: ", err)
	}
	return c.configureDevices(f, metadata)
}

func (c *controller) configureCPU(t cpuTemplate) error {
	if t.path != nil {
		text, err := os.ReadFile(*t.path)
		if err != nil {
			return osFault("File operation error: ", err)
		}
		if err := serde.Unmarshal(text, decodeCPUConfig()); err != nil {
			return prefix("Invalid JSON: ", err)
		}
	}
	c.setCustomCPU()
	return nil
}

func (c *controller) configureDevices(f fileConfig, metadata *any) error {
	for _, d := range f.drives {
		if err := c.insertDrive(d); err != nil {
			return prefix("Block device error: ", err)
		}
	}
	for _, n := range f.interfaces {
		if err := c.insertInterface(n); err != nil {
			return prefix("Network device error: ", err)
		}
	}
	if f.vsock != nil {
		if err := c.vm.setVsock(*f.vsock); err != nil {
			return prefix("Vsock device error: Cannot create backend for vsock device: ", err)
		}
	}
	if f.balloon != nil {
		if err := c.setBalloon(*f.balloon); err != nil {
			return prefix("Balloon device error: ", err)
		}
	}
	if metadata != nil {
		if err := c.vm.mmds.put(*metadata); err != nil {
			return prefix("MMDS error: ", err)
		}
	}
	if f.mmds != nil {
		if err := c.setMMDSConfig(*f.mmds); err != nil {
			return prefix("MMDS config error: ", err)
		}
	}
	if f.entropy != nil {
		c.setEntropy(*f.entropy)
	}
	for _, p := range f.pmem {
		if err := c.insertPmem(p); err != nil {
			return prefix("Pmem device error: ", err)
		}
	}
	if f.memoryHotplug != nil {
		if err := c.setMemoryHotplug(*f.memoryHotplug); err != nil {
			return prefix("Memory hotplug config error: ", err)
		}
	}
	return nil
}

// debugFault prints a fault of the configuration as Rust's {:?} would, as far as clients are known to look: the parts of
// a JSON error and of a missing kernel. Other faults are quoted.
func debugFault(err error) string {
	var json *serde.Error
	var boot *bootFault
	switch {
	case errors.As(err, &json):
		return "InvalidJson(" + json.Debug() + ")"
	case errors.As(err, &boot):
		return "BootSource(" + boot.debug() + ")"
	}
	return string(serde.AppendString(nil, err.Error()))
}

// debugJSON prints a JSON error as Rust's {:?} would.
func debugJSON(err error) string {
	var json *serde.Error
	if errors.As(err, &json) {
		return json.Debug()
	}
	return err.Error()
}
