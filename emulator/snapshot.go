package emulator

import (
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"smartvm/emulator/machine"
	"smartvm/emulator/serde"
)

// createSnapshot is PUT /snapshot/create. A diff snapshot is a full one: the emulator does not track dirty pages.
type createSnapshot struct {
	onlyAfterStart
	kind, statePath, memoryPath string
}

func parsePutSnapshot(body []byte, what *string) (action, string, error) {
	switch {
	case what == nil:
		return nil, "", errors.New("Missing snapshot operation type.")
	case *what == "load":
		return parseLoadSnapshot(body)
	case *what != "create":
		return nil, "", invalidPath("PUT", "/snapshot/"+*what)
	}
	a := createSnapshot{kind: "Full"}
	err := decode(body, serde.Struct("CreateSnapshotParams",
		serde.Default("snapshot_type", serde.Enum(&a.kind, "Diff", "Full")),
		serde.Required("snapshot_path", serde.Path(&a.statePath)),
		serde.Required("mem_file_path", serde.Path(&a.memoryPath))))
	return a, "", err
}

func (a createSnapshot) afterStart(c *controller) (any, error) {
	began := time.Now()
	if a.kind == "Diff" {
		c.warn("diff snapshots, which are full ones")
	}
	if err := a.save(c); err != nil {
		return nil, prefix("Create snapshot error: ", err)
	}
	name := strings.ToLower(a.kind) + "_create_snapshot"
	c.metrics.took(name, began)
	c.metrics.took("vmm_"+name, began)
	return nil, nil
}

func (a createSnapshot) save(c *controller) error {
	const notAllowed = "Cannot save the microVM state: Operation not allowed: "
	var vhost []string
	for _, d := range c.vm.drives {
		if d.vhostUser() {
			vhost = append(vhost, "vhost-user-block(id: "+d.ID+")")
		}
	}
	switch {
	case vhost != nil:
		return errors.New(notAllowed + "Devices without snapshot support are present: " + strings.Join(vhost, ","))
	case c.state != statePaused:
		return errors.New(notAllowed + "save/restore unavailable while running")
	}
	balloon, err := c.saveBalloon()
	if err != nil {
		return prefix("Cannot save the microVM state: ", err)
	}
	f, err := createOutput(a.statePath)
	if err != nil {
		return osFault("Cannot perform open on the snapshot backing file: ", err)
	}
	defer f.Close()
	if err := checkMemoryFile(a.memoryPath); err != nil {
		return osFault("Cannot perform open on the memory backing file: ", err)
	}
	saved := savedVM{Format: stateFormat, Version: version, Machine: c.machineName, Config: c.vm.config(), PCI: c.vm.pci, Balloon: balloon}
	err = writeState(f, saved, func(w io.Writer) error { return c.machine.Save(c.ctx, w, a.memoryPath) })
	if err != nil {
		return osFault("Cannot save the microVM state: ", err)
	}
	if err := f.Sync(); err != nil {
		return osFault("Cannot perform sync_all on the snapshot backing file: ", err)
	}
	return f.Close()
}

// checkMemoryFile tries to open the file as Firecracker does, before the machine writes it.
func checkMemoryFile(path string) error {
	if strings.IndexByte(path, 0) >= 0 {
		return errNUL
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	return f.Close()
}

// loadSnapshot is PUT /snapshot/load.
type loadSnapshot struct {
	onlyBeforeStart
	statePath       string
	memory          *memoryBackend
	trackDirtyPages bool
	resume          bool
	interfaces      []interfaceOverride
	vsock           *string
}

type memoryBackend struct{ path, kind string }

func decodeMemoryBackend(m *memoryBackend) serde.Decode {
	return serde.Struct("MemBackendConfig",
		serde.Required("backend_path", serde.Path(&m.path)),
		serde.Required("backend_type", serde.Enum(&m.kind, "File", "Uffd")))
}

type interfaceOverride struct{ id, device string }

func decodeInterfaceOverride(o *interfaceOverride) serde.Decode {
	return serde.OpenStruct("NetworkOverride",
		serde.Required("iface_id", serde.String(&o.id)),
		serde.Required("host_dev_name", serde.String(&o.device)))
}

func decodeVsockOverride(path *string) serde.Decode {
	return serde.OpenStruct("VsockOverride", serde.Required("uds_path", serde.String(path)))
}

func parseLoadSnapshot(body []byte) (action, string, error) {
	var a loadSnapshot
	var memoryFile *string
	var diff, realtime bool
	err := decode(body, serde.Struct("LoadSnapshotConfig",
		serde.Required("snapshot_path", serde.Path(&a.statePath)),
		serde.Optional("mem_file_path", serde.Option(&memoryFile, serde.Path)),
		serde.Optional("mem_backend", serde.Option(&a.memory, decodeMemoryBackend)),
		serde.Default("enable_diff_snapshots", serde.Bool(&diff)),
		serde.Default("track_dirty_pages", serde.Bool(&a.trackDirtyPages)),
		serde.Default("resume_vm", serde.Bool(&a.resume)),
		serde.Default("network_overrides", serde.Vec(&a.interfaces, decodeInterfaceOverride)),
		serde.Optional("vsock_override", serde.Option(&a.vsock, decodeVsockOverride)),
		serde.Default("clock_realtime", serde.Bool(&realtime))))
	if err != nil {
		return nil, "", err
	}
	const words = "An error occurred when deserializing the json body of a request: "
	switch {
	case a.memory != nil && memoryFile != nil:
		return nil, "", errors.New(words + "too many fields: either `mem_backend` or `mem_file_path` exclusively is required.")
	case a.memory == nil && memoryFile == nil:
		return nil, "", errors.New(words + "missing field: either `mem_backend` or `mem_file_path` is required.")
	}
	deprecation := ""
	if memoryFile != nil || diff {
		deprecation = "PUT /snapshot/load: mem_file_path and enable_diff_snapshots fields are deprecated."
	}
	if memoryFile != nil {
		a.memory = &memoryBackend{*memoryFile, "File"}
	}
	a.trackDirtyPages = a.trackDirtyPages || diff
	return a, deprecation, nil
}

// errRestore and errResume end the process after a load that failed half-way.
var (
	errRestore = errors.New("Loading snapshot failed.")
	errResume  = errors.New("Resuming MicroVM after loading snapshot failed.")
)

func (a loadSnapshot) beforeStart(c *controller) (any, error) {
	began := time.Now()
	if c.bootPath {
		return nil, errors.New("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.")
	}
	if err := a.restore(c); err != nil {
		c.fatal = errRestore
		return nil, prefix("Load snapshot error: Failed to restore from snapshot: ", err)
	}
	c.started(statePaused)
	if a.resume {
		if err := c.resume(); err != nil {
			c.fatal = errResume
			return nil, prefix("Load snapshot error: Failed to resume microVM: ", err)
		}
	}
	c.metrics.took("load_snapshot", began)
	c.metrics.took("vmm_load_snapshot", began)
	return nil, nil
}

// restore does what Firecracker's restore_from_snapshot does, in its order.
func (a loadSnapshot) restore(c *controller) error {
	saved, blob, err := readState(a.statePath, c.machineName)
	if err == nil {
		err = a.override(&saved.Config)
	}
	if err != nil {
		return prefix("Failed to get snapshot state from file: ", err)
	}
	cfg := saved.Config
	cfg.Machine.TrackDirtyPages = a.trackDirtyPages
	c.vm.machine, c.vm.pci = cfg.Machine, saved.PCI
	if err := a.checkMemory(cfg.Machine); err != nil {
		return prefix("Failed to load guest memory: ", err)
	}
	c.vm.bootConfig = cfg.Boot
	c.restoreBalloon(saved.Balloon)
	const words = "Failed to build microVM from snapshot: "
	console, err := c.openConsole()
	if err != nil {
		return prefix(words+"Failed to restore devices: Error creating DeviceManager: ", err)
	}
	c.console = console
	if err := c.restoreDevices(cfg); err != nil {
		bus := "MMIO"
		if saved.PCI {
			bus = "PCI"
		}
		return prefix(words+"Failed to restore devices: Error restoring "+bus+" devices: ", err)
	}
	return prefix(words, c.machine.Load(c.ctx, c.spec(console), blob, a.memory.path))
}

// override puts the load request's TAPs and socket in the place of the saved ones.
func (a loadSnapshot) override(cfg *vmConfig) error {
	for _, o := range a.interfaces {
		found := false
		for i := range cfg.Interfaces {
			if !found && cfg.Interfaces[i].ID == o.id {
				cfg.Interfaces[i].Device, found = o.device, true
			}
		}
		if !found {
			return errors.New("Unknown Network Device.")
		}
	}
	if a.vsock != nil {
		if cfg.Vsock == nil {
			return errors.New("Unknown Vsock Device.")
		}
		cfg.Vsock.Path = *a.vsock
	}
	return nil
}

// checkMemory tells why guest memory cannot come from where the request says.
func (a loadSnapshot) checkMemory(m machineConfig) error {
	if a.memory.kind == "Uffd" {
		return errors.New("Error creating guest memory from uffd: Failed to connect to UDS Unix stream: " +
			"the Firecracker emulator loads guest memory from files only")
	}
	const words = "Error creating guest memory from file: "
	if m.HugePages == "2M" {
		return errors.New(words + "Cannot restore hugetlbfs backed snapshot by mapping the memory file. Please use uffd.")
	}
	f, err := openFile(a.memory.path, true)
	if err != nil {
		return osFault(words+"Failed to load guest memory: ", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return osFault(words+"Failed to restore guest memory: Cannot retrieve snapshot file metadata: ", err)
	case uint64(info.Size()) < m.MemoryMiB<<20:
		return errors.New(words + "Failed to restore guest memory: Total sum of memory regions exceeds largest possible file offset")
	}
	return nil
}

// restoreDevices opens what is behind the saved devices, in the order in which Firecracker does.
func (c *controller) restoreDevices(cfg vmConfig) error {
	vm := &c.vm
	vm.balloon, vm.entropy, vm.memoryHotplug, vm.pmem = cfg.Balloon, cfg.Entropy, cfg.MemoryHotplug, cfg.Pmem
	for _, saved := range cfg.Drives {
		d, err := c.openDrive(saved)
		if err != nil {
			return prefix("Block: ", err)
		}
		vm.drives = append(vm.drives, d)
	}
	for _, saved := range cfg.Interfaces {
		tap, name, err := c.system.openTAP(saved.Device)
		if err != nil {
			return prefix("Net: Failed to create a network device: Open tap device failed: ", err)
		}
		saved.Device = name
		vm.interfaces = append(vm.interfaces, &netInterface{interfaceConfig: saved, tap: tap})
	}
	if cfg.MMDS != nil {
		if err := c.setMMDSConfig(*cfg.MMDS); err != nil {
			return prefix("MmdsConfig: ", err)
		}
	}
	if cfg.Vsock != nil {
		v, err := bindVsock(*cfg.Vsock)
		if err != nil {
			return prefix("VsockUnixBackend: ", err)
		}
		vm.vsock = v
	}
	for _, p := range cfg.Pmem {
		if err := checkPmem(*p); err != nil {
			return prefix("Pmem: Error creating Pmem devie: ", err)
		}
	}
	return nil
}

var _ machine.Warner = (*controller)(nil).machineWarn

// machineWarn passes a machine's own warnings on to the log.
func (c *controller) machineWarn(format string, args ...any) { c.log.Warn(moduleMain, format, args...) }
