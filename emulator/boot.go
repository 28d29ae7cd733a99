package emulator

import (
	"errors"
	"fmt"
	"math"
	"os"

	"smartvm/emulator/machine"
	"smartvm/emulator/serde"
)

// bootConfig is the body of PUT /boot-source, and its place in GET /vm/config.
type bootConfig struct {
	Kernel string  `json:"kernel_image_path"`
	Initrd *string `json:"initrd_path"`
	Args   *string `json:"boot_args"`
}

func decodeBoot(b *bootConfig) serde.Decode {
	return serde.Struct("BootSourceConfig",
		serde.Required("kernel_image_path", serde.String(&b.Kernel)),
		serde.Optional("initrd_path", serde.Option(&b.Initrd, serde.String)),
		serde.Optional("boot_args", serde.Option(&b.Args, serde.String)))
}

// bootSource is the configured kernel. Its files stay open from PUT on, as Firecracker's do.
type bootSource struct {
	kernel, initrd *os.File
	args           commandLine
}

func (b *bootSource) close() {
	if b == nil {
		return
	}
	_ = b.kernel.Close()
	if b.initrd != nil {
		_ = b.initrd.Close()
	}
}

type putBootSource struct {
	onlyBeforeStart
	cfg bootConfig
}

func parsePutBootSource(body []byte) (action, string, error) {
	var a putBootSource
	err := decode(body, decodeBoot(&a.cfg))
	return a, "", err
}

func (a putBootSource) beforeStart(c *controller) (any, error) {
	c.bootPath = true
	return nil, prefix("Boot source error: ", c.vm.setBootSource(a.cfg))
}

// bootFault is a fault of the boot source that the log also prints as Rust prints the error's parts.
type bootFault struct {
	words, kind string
	err         error
}

func (e *bootFault) Error() string { return e.words + osText(e.err) }
func (e *bootFault) debug() string { return fmt.Sprintf("%s(%s)", e.kind, debugOS(e.err)) }

func (vm *resources) setBootSource(cfg bootConfig) error {
	kernel, err := openFile(cfg.Kernel, true)
	if err != nil {
		return &bootFault{"The kernel file cannot be opened: ", "InvalidKernelPath", err}
	}
	next := &bootSource{kernel: kernel}
	if cfg.Initrd != nil {
		if next.initrd, err = openFile(*cfg.Initrd, true); err != nil {
			next.close()
			return &bootFault{"The initrd file cannot be opened due to invalid path or invalid permissions. ", "InvalidInitrdPath", err}
		}
	}
	args := defaultArgs
	assign(&args, cfg.Args)
	if next.args, err = parseCommandLine(args); err != nil {
		next.close()
		return prefix("The kernel command line is invalid: ", err)
	}
	vm.boot.close()
	vm.boot, vm.bootConfig = next, cfg
	return nil
}

// startVM is InstanceStart. A VM that fails to start can be configured again and started once more.
type startVM struct{ onlyBeforeStart }

func (startVM) beforeStart(c *controller) (any, error) {
	return nil, prefix("Start microvm error: ", c.start())
}

// start does what Firecracker's builder does, in its order, as far as a client can tell.
func (c *controller) start() (err error) {
	vm := &c.vm
	if vm.boot == nil {
		return errors.New("Cannot start microvm without kernel configuration.")
	}
	if err := checkMemory(vm.machine.MemoryMiB); err != nil {
		return err
	}
	if err := checkTemplate(vm.machine.CPUTemplate, c.system.cpu()); err != nil {
		return err
	}
	if err := vm.checkHotplugMemory(); err != nil {
		return err
	}
	console, err := c.openConsole()
	if err != nil {
		return prefix("Failed to create device manager: ", err)
	}
	defer func() {
		if err != nil {
			console.close()
		}
	}()
	memory := memoryRegions(vm.machine.MemoryMiB << 20)
	if err := checkKernel(vm.boot.kernel, memory); err != nil {
		return err
	}
	if vm.boot.initrd != nil {
		if err := checkInitrd(vm.boot.initrd, memory); err != nil {
			return err
		}
	}
	args, err := vm.commandLine()
	if err != nil {
		return err
	}
	spec := c.spec(console)
	spec.Args = args.String()
	if err := c.machine.Start(c.ctx, spec); err != nil {
		return prefix("Internal error while starting microVM: ", err)
	}
	c.console = console
	c.started(stateRunning)
	return nil
}

// checkHotplugMemory reserves the addresses of memory that could be plugged: 512 GiB lie above the gaps.
func (vm *resources) checkHotplugMemory() error {
	const room = 512 << 10
	if m := vm.memoryHotplug; m != nil && m.TotalMiB > room {
		return prefix("Failed to allocate guest resource: ", errResourceGone)
	}
	return nil
}

// checkMemory refuses sizes that a file offset cannot express, that no process can map, or that KVM takes in no slot.
func checkMemory(mib uint64) error {
	const (
		addressSpace = 127 << 40              // of a process, less what it uses itself
		slot         = (1<<31 - 1) * pageSize // KVM_MEM_MAX_NR_PAGES
		most         = math.MaxUint64 >> 20   // in MiB
	)
	bytes := mib << 20
	switch {
	case mib > most, bytes > math.MaxInt64:
		return errors.New("Invalid Memory Configuration: Total sum of memory regions exceeds largest possible file offset")
	case bytes > addressSpace:
		return errors.New("Invalid Memory Configuration: Cannot create mmap region: Cannot allocate memory (os error 12)")
	}
	for _, r := range memoryRegions(bytes) {
		if r.size > slot {
			return errors.New("Error with the KvmVm object: Cannot set the memory regions: Invalid argument (os error 22)")
		}
	}
	return nil
}

// commandLine builds the kernel's command line and finds out whether all devices have a place. The order of the devices
// is Firecracker's.
func (vm *resources) commandLine() (commandLine, error) {
	bus := &transport{pci: vm.pci, args: vm.boot.args}
	if !vm.pci {
		if err := bus.args.add("pci=off"); err != nil {
			return bus.args, prefix("Invalid kernel command line: ", err)
		}
	}
	err := vm.attachDevices(bus)
	if err == nil {
		err = bus.finish()
	}
	return bus.args, err
}

func (vm *resources) attachDevices(bus *transport) error {
	bus.attachIf(vm.balloon != nil)
	for _, d := range vm.drives {
		if d.Root {
			device := "/dev/vda"
			if d.PartUUID != nil {
				device = "PARTUUID=" + *d.PartUUID
			}
			bus.root(device, d.readOnly())
		}
		bus.attachIf(true)
	}
	for range vm.interfaces {
		bus.attachIf(true)
	}
	for i, p := range vm.pmem {
		if p.Root {
			bus.root(fmt.Sprintf("/dev/pmem%d", i), p.ReadOnly)
		}
		if bus.err == nil {
			bus.err = prefix("Cannot create pmem device: ", checkPmem(*p))
		}
		bus.attachIf(true)
	}
	bus.attachIf(vm.vsock != nil)
	bus.attachIf(vm.entropy != nil)
	bus.attachIf(vm.memoryHotplug != nil)
	return bus.err
}

// transport counts the places of virtio devices and notes the first fault.
type transport struct {
	pci      bool
	args     commandLine
	attached int
	err      error
}

const (
	// interrupts are the lines of virtio-mmio and ACPI devices (GSI_LEGACY_NUM); the first is number 5.
	interrupts     = 19
	firstInterrupt = 5
	// pciSlots are the slots of the PCI bus; the host bridge has one.
	pciSlots = 31
	// mmioStart and mmioSize place virtio-mmio devices (MEM_32BIT_DEVICES_START, MMIO_LEN).
	mmioStart, mmioSize = 0xc0001000, 0x1000
)

// attachIf finds a place for a device, if there is the device.
func (t *transport) attachIf(present bool) {
	if !present || t.err != nil {
		return
	}
	n := t.attached
	t.attached++
	switch {
	case t.pci && n >= pciSlots:
		t.err = errors.New("Could not attach device: Error attach PCI device: PCI root error: Could not find an available device slot on the PCI bus.")
	case t.pci:
	case n >= interrupts:
		t.err = prefix("Could not attach device: MMIO transport error: Failed to allocate requested resource: ", errResourceGone)
	default:
		t.err = prefix("Could not attach device: MMIO transport error: Failed to allocate requested resourc: ",
			t.args.reserve(fmt.Sprintf("virtio_mmio.device=4K@0x%x:%d", mmioStart+n*mmioSize, firstInterrupt+n)))
	}
}

// root makes a device the one with the root file system.
func (t *transport) root(device string, readOnly bool) {
	mode := "rw"
	if readOnly {
		mode = "ro"
	}
	for _, arg := range []string{"root=" + device, mode} {
		if t.err == nil {
			t.err = prefix("Invalid kernel command line: ", t.args.add(arg))
		}
	}
}

// finish finds interrupts for the ACPI devices, which come last.
func (t *transport) finish() error {
	if t.pci {
		return nil
	}
	for i, device := range []string{"VMGenID", "VMClock"} {
		if t.attached+i >= interrupts {
			return prefix("Could not attach device: Error while registering ACPI with KVM: "+device+": Could not allocate GSI: ", errResourceGone)
		}
	}
	return nil
}

// spec describes the configured VM to the machine.
func (c *controller) spec(console *console) machine.Spec {
	vm := &c.vm
	s := machine.Spec{
		VCPUs: int(vm.machine.VCPUs), MemoryMiB: int(vm.machine.MemoryMiB), SMT: vm.machine.SMT,
		Kernel: vm.bootConfig.Kernel,
		Vsock:  vm.vsock.spec(), Balloon: vm.balloon.spec(), Entropy: vm.entropy != nil,
		SerialIn: console.in, SerialOut: console.out,
	}
	if vm.bootConfig.Initrd != nil {
		s.Initrd = *vm.bootConfig.Initrd
	}
	for _, d := range vm.drives {
		if !d.vhostUser() {
			s.Drives = append(s.Drives, d.spec())
		}
	}
	for _, n := range vm.interfaces {
		s.Interfaces = append(s.Interfaces, n.spec())
	}
	return s
}
