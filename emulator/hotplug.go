package emulator

import (
	"errors"
	"slices"

	"smartvm/emulator/serde"
)

// deviceKind is a kind of device that can be plugged while the VM runs.
type deviceKind string

const (
	kindDrive     deviceKind = "drives"
	kindPmem      deviceKind = "pmem"
	kindInterface deviceKind = "network-interfaces"
)

// hotplug adds a device to a running VM with add. It takes --enable-pci. The guest of an emulated machine does not see
// the device; the API does.
func (c *controller) hotplug(kind deviceKind, id string, add func() error) error {
	switch {
	case !c.vm.pci:
		return errPCINotEnabled
	case c.vm.has(kind, id):
		return errDeviceIDInUse
	}
	err := add()
	if err == nil {
		c.warn("hot-plugged devices")
	}
	return err
}

func (vm *resources) has(kind deviceKind, id string) bool {
	switch kind {
	case kindDrive:
		return vm.drive(id) != nil
	case kindPmem:
		return slices.ContainsFunc(vm.pmem, func(p *pmemConfig) bool { return p.ID == id })
	}
	return vm.netInterface(id) != nil
}

// unplug takes a device out of a running VM.
type unplug struct {
	onlyAfterStart
	kind deviceKind
	id   string
}

func parseUnplug(kind deviceKind, id *string) (action, string, error) {
	if err := checkID(id); err != nil {
		return nil, "", err
	}
	return unplug{kind: kind, id: *id}, "", nil
}

func (a unplug) afterStart(c *controller) (any, error) {
	vm := &c.vm
	switch {
	case !vm.pci:
		return nil, errPCINotEnabled
	case !vm.has(a.kind, a.id):
		return nil, errDeviceNotFound
	}
	c.warn("hot-unplugged devices")
	switch a.kind {
	case kindDrive:
		if vm.drive(a.id).Root {
			return nil, errUnplugRoot
		}
		vm.drives = slices.DeleteFunc(vm.drives, func(d *drive) bool {
			if d.ID != a.id {
				return false
			}
			d.close()
			return true
		})
	case kindPmem:
		if slices.ContainsFunc(vm.pmem, func(p *pmemConfig) bool { return p.ID == a.id && p.Root }) {
			return nil, errUnplugRoot
		}
		vm.pmem = slices.DeleteFunc(vm.pmem, func(p *pmemConfig) bool { return p.ID == a.id })
	case kindInterface:
		vm.interfaces = slices.DeleteFunc(vm.interfaces, func(n *netInterface) bool {
			if n.ID != a.id {
				return false
			}
			n.close()
			return true
		})
	}
	return nil, nil
}

// memoryHotplugConfig is the body of PUT /hotplug/memory, and its place in GET /vm/config.
type memoryHotplugConfig struct {
	TotalMiB uint64 `json:"total_size_mib"`
	BlockMiB uint64 `json:"block_size_mib"`
	SlotMiB  uint64 `json:"slot_size_mib"`
}

const (
	minBlockMiB = 2
	minSlotMiB  = 128
)

func decodeMemoryHotplug(m *memoryHotplugConfig) serde.Decode {
	m.BlockMiB, m.SlotMiB = minBlockMiB, minSlotMiB
	return serde.Struct("MemoryHotplugConfig",
		serde.Required("total_size_mib", serde.Usize(&m.TotalMiB)),
		serde.Default("block_size_mib", serde.Usize(&m.BlockMiB)),
		serde.Default("slot_size_mib", serde.Usize(&m.SlotMiB)))
}

type putMemoryHotplug struct {
	onlyBeforeStart
	cfg memoryHotplugConfig
}

func parsePutMemoryHotplug(body []byte) (action, string, error) {
	var a putMemoryHotplug
	err := decode(body, decodeMemoryHotplug(&a.cfg))
	return a, "", err
}

func (a putMemoryHotplug) beforeStart(c *controller) (any, error) {
	c.bootPath = true
	return nil, prefix("Memory hotplug config error: ", c.setMemoryHotplug(a.cfg))
}

func (c *controller) setMemoryHotplug(cfg memoryHotplugConfig) error {
	if err := cfg.check(); err != nil {
		return err
	}
	c.warn("memory hotplug")
	c.vm.memoryHotplug = &cfg
	return nil
}

func (m memoryHotplugConfig) check() error {
	switch {
	case m.BlockMiB < minBlockMiB:
		return errf("Block size must not be lower than %d MiB", minBlockMiB)
	case m.BlockMiB&(m.BlockMiB-1) != 0:
		return errors.New("Block size must be a power of 2")
	case m.SlotMiB < minSlotMiB:
		return errf("Slot size must not be lower than %d MiB", minSlotMiB)
	case m.SlotMiB%m.BlockMiB != 0:
		return errf("Slot size must be a multiple of block size (%d MiB)", m.BlockMiB)
	case m.TotalMiB < m.SlotMiB:
		return errf("Total size must not be lower than slot size (%d MiB)", m.SlotMiB)
	case m.TotalMiB%m.SlotMiB != 0:
		return errf("Total size must be a multiple of slot size (%d MiB)", m.SlotMiB)
	}
	return nil
}

// memoryHotplugStatus is the answer of GET /hotplug/memory. Nothing is ever plugged: the guest has no such device.
type memoryHotplugStatus struct {
	BlockMiB     uint64 `json:"block_size_mib"`
	TotalMiB     uint64 `json:"total_size_mib"`
	SlotMiB      uint64 `json:"slot_size_mib"`
	PluggedMiB   uint64 `json:"plugged_size_mib"`
	RequestedMiB uint64 `json:"requested_size_mib"`
}

type getMemoryHotplug struct{ onlyAfterStart }

func (getMemoryHotplug) afterStart(c *controller) (any, error) {
	m := c.vm.memoryHotplug
	if m == nil {
		return nil, prefix("Internal VMM error: ", errNoSuchDevice)
	}
	return memoryHotplugStatus{BlockMiB: m.BlockMiB, TotalMiB: m.TotalMiB, SlotMiB: m.SlotMiB}, nil
}

type patchMemoryHotplug struct{ onlyAfterStart }

func parsePatchMemoryHotplug(body []byte) (action, string, error) {
	var requested uint64
	err := decode(body, serde.Struct("MemoryHotplugSizeUpdate",
		serde.Required("requested_size_mib", serde.Usize(&requested))))
	return patchMemoryHotplug{}, "", err
}

func (patchMemoryHotplug) afterStart(c *controller) (any, error) {
	if c.vm.memoryHotplug == nil {
		return nil, prefix("Memory hotplug update error: ", errNoSuchDevice)
	}
	return nil, errors.New("Memory hotplug update error: Failed to create memory hotplug device: Device is not active")
}
