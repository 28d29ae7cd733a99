package qemu

import (
	"encoding/json"
	"fmt"
	"strconv"

	"smartvm/emulator/machine"
	"smartvm/internal/portmux"
)

// The files that QEMU inherits, by their descriptors there: the first three always, the port's only with a vsock, then
// one per interface.
const (
	fdQMP = 3 + iota
	fdSerial
	fdMemory
	fdNext
)

// The names of QEMU's objects that are asked for later.
const (
	balloonID   = "balloon"
	balloonPath = "/machine/peripheral/" + balloonID
)

// command is what decides QEMU's command line.
type command struct {
	spec machine.Spec
	kvm  bool
	// load: the machine waits for a saved state instead of booting.
	load bool
	// tscKHz is the host's, 0 when it is not needed.
	tscKHz int
	// nodes are the drives' files, in the order of spec.Drives; serials their serial numbers; macs the interfaces'
	// addresses.
	nodes   []node
	serials []string
	macs    []string
}

// args returns QEMU's arguments. All names and paths of the client's are either arguments of their own or in JSON: QEMU's
// own lists (`a=b,c=d`) would read a comma in them.
func (c command) args() []string {
	// ACPI tells the guest of its devices; the old interrupt controller and timer only cost time at boot (a tenth with
	// Debian's kernel). suppress-vmdesc: the state has no description of itself, see doc.go.
	args := []string{
		"-M", "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,x-option-roms=off,suppress-vmdesc=on,memory-backend=ram",
		"-nodefaults", "-no-user-config", "-display", "none", "-S",
		"-no-reboot", "-no-shutdown", // a reset pauses QEMU with an event, as does a power-off
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-m", strconv.Itoa(c.spec.MemoryMiB) + "M",
		"-smp", c.smp(),
	}
	if c.kvm {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		args = append(args, "-accel", "tcg", "-cpu", "max")
	}
	args = append(args,
		"-object", object(map[string]any{"qom-type": "memory-backend-file", "id": "ram", "share": true,
			"size": int64(c.spec.MemoryMiB) << 20, "mem-path": fmt.Sprintf("/proc/self/fd/%d", fdMemory)}),
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fdQMP), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=serial,fd=%d", fdSerial), "-serial", "chardev:serial",
		"-device", "i8042",
	)
	if c.load {
		args = append(args, "-incoming", "defer", "-global", "migration.send-configuration=off")
	} else {
		args = append(args, "-kernel", c.spec.Kernel, "-append", c.kernelArgs())
		if c.spec.Initrd != "" {
			args = append(args, "-initrd", c.spec.Initrd)
		}
	}
	return append(args, c.devices()...)
}

func (c command) smp() string {
	if n := c.spec.VCPUs; c.spec.SMT && n%2 == 0 {
		return fmt.Sprintf("cpus=%d,sockets=1,cores=%d,threads=2", n, n/2)
	}
	return fmt.Sprintf("cpus=%d,sockets=1,cores=%d,threads=1", c.spec.VCPUs, c.spec.VCPUs)
}

// kernelArgs adds to the client's what a guest of QEMU needs besides.
func (c command) kernelArgs() string {
	switch {
	case c.tscKHz == 0:
		return c.spec.Args
	case c.spec.Args == "":
		return fmt.Sprintf("tsc_early_khz=%d", c.tscKHz)
	}
	// In front: what follows `--` would be init's.
	return fmt.Sprintf("tsc_early_khz=%d %s", c.tscKHz, c.spec.Args)
}

// devices returns the virtio devices in the order in which the guest shall find them, which is Firecracker's.
func (c command) devices() []string {
	var args []string
	for i, drive := range c.spec.Drives {
		args = append(args, "-blockdev", object(c.nodes[i]), "-device", object(map[string]any{
			"driver": "virtio-blk-device", "id": driveID(drive.ID), "drive": c.nodes[i].NodeName, "serial": c.serials[i],
			"werror": "report", "rerror": "report", // QEMU's default pauses the guest when the disk is full
		}))
	}
	fd := fdNext
	if c.spec.Vsock != nil {
		fd++
	}
	for i, nic := range c.spec.Interfaces {
		device := map[string]any{"driver": "virtio-net-device", "netdev": fmt.Sprintf("net%d", i), "mac": c.macs[i]}
		if nic.MTU != 0 {
			device["host_mtu"] = nic.MTU
		}
		args = append(args, "-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, fd+i), "-device", object(device))
	}
	if b := c.spec.Balloon; b != nil {
		args = append(args, "-device", object(map[string]any{"driver": "virtio-balloon-device", "id": balloonID,
			"deflate-on-oom": b.DeflateOnOOM, "free-page-reporting": b.FreePageRept}))
	}
	if c.spec.Vsock != nil {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=agent,fd=%d", fdNext), "-device", "virtio-serial-device",
			"-device", "virtserialport,chardev=agent,name="+portmux.PortName)
	}
	if c.spec.Entropy {
		args = append(args, "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng")
	}
	return args
}

// node is a file or block device as QEMU's block layer opens it (BlockdevOptions in its qapi/block-core.json).
type node struct {
	Driver   string `json:"driver"` // "file", "host_device", or "raw" over one of them
	NodeName string `json:"node-name,omitempty"`
	Filename string `json:"filename,omitempty"`
	// Locking is "off": Firecracker takes no locks, and two machines may read one file.
	Locking  string `json:"locking,omitempty"`
	AIO      string `json:"aio,omitempty"`
	ReadOnly bool   `json:"read-only"`
	Cache    cache  `json:"cache"`
	// Size and File are a raw node's: it shows the first Size bytes of File.
	Size int64 `json:"size,omitempty"`
	File *node `json:"file,omitempty"`
}

type cache struct {
	NoFlush bool `json:"no-flush"` // the guest's flushes are ignored
}

// newNode describes the file behind a drive. bytes is its size.
func newNode(name string, drive machine.Drive, device bool, bytes int64) node {
	n := node{Driver: "file", NodeName: name, Filename: drive.Path, Locking: "off", AIO: "threads", ReadOnly: drive.ReadOnly,
		Cache: cache{NoFlush: !drive.Writeback}}
	if device {
		n.Driver = "host_device"
	}
	if drive.Async {
		n.AIO = "io_uring"
	}
	if bytes%sectorSize == 0 {
		return n
	}
	// Firecracker rounds down, QEMU up.
	n.NodeName = ""
	return node{Driver: "raw", NodeName: name, Size: bytes - bytes%sectorSize, ReadOnly: drive.ReadOnly, Cache: n.Cache, File: &n}
}

const sectorSize = 512

// driveID is a drive's name in QEMU, where it may begin with a letter only.
func driveID(id string) string { return "drive-" + id }

// object is a JSON object as QEMU takes it in place of its own lists.
func object(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and booleans only
	}
	return string(text)
}
