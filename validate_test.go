package smartvm

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"smartvm/internal/cpuarch"
)

// goodConfig is valid on both architectures and has every part.
func goodConfig() *Config {
	limit := func() *RateLimiter {
		return &RateLimiter{Bandwidth: &TokenBucket{Size: 1 << 20, RefillTime: 100, OneTimeBurst: 5}, Ops: &TokenBucket{}}
	}
	return &Config{
		SchemaVersion:    1,
		ID:               "Web server 1 (größte)",
		BootSource:       BootSource{KernelImagePath: "/k", BootArgs: "console=ttyS0 x=\"~\"", InitrdPath: "/i"},
		MachineConfig:    MachineConfig{VCPUCount: 32, MemSizeMiB: 512, HugePages: "2M", CPUTemplate: "None", TrackDirtyPages: true},
		CPUConfig:        &CPUConfig{KVMCapabilities: []string{"121", "!56"}},
		MemoryHotplug:    &MemoryHotplug{TotalSizeMiB: 1024},
		EphemeralStorage: "memory",
		Drives: []Drive{
			{DriveID: "rootfs", PathOnHost: "/r", IsRootDevice: true, PartUUID: "0eaa91a0-01", CacheType: "Writeback", IOEngine: "Async", RateLimiter: limit()},
			{DriveID: "DATA_2", PathOnHost: "/r", IsReadOnly: true, CacheType: "Unsafe", IOEngine: "Sync"},
			{DriveID: "remote", Socket: "/s"},
		},
		Pmem: []Pmem{{ID: "rootfs", PathOnHost: "/p", RateLimiter: limit()}},
		NetworkInterfaces: []NetworkInterface{
			{IfaceID: "eth0", HostDevName: "tap-0.1@x", GuestMAC: "06:00:AC:10:00:02", MTU: 68, RxRateLimiter: limit()},
			{IfaceID: "eth1", HostDevName: "fifteen-bytes-x", GuestMAC: "06:00:ac:10:00:03", MTU: 65535, TxRateLimiter: limit()},
		},
		Vsock:   &Vsock{GuestCID: 3, UDSPath: strings.Repeat("x", 107)},
		Balloon: &Balloon{AmountMiB: 512, StatsPollingIntervalS: 65535},
		Entropy: &Entropy{RateLimiter: limit()},
		Serial:  &Serial{SerialOutPath: "/o", RateLimiter: &TokenBucket{Size: 1}},
		MMDS:    &MMDS{Version: "V2", NetworkInterfaces: []string{"eth1", "eth0"}, IPv4Address: "169.254.254.255"},
		Logger:  &Logger{LogPath: "/l", Level: "warning", Module: "api_server::request"},
		Metrics: &Metrics{MetricsPath: "/m"},
		Guest:   &Guest{Init: "image", Hostname: "web-1.example", RootFSType: "ext4"},
	}
}

func TestGoodConfigurationsAreValid(t *testing.T) {
	t.Parallel()
	for _, arch := range []string{cpuarch.X8664, cpuarch.AArch64} {
		for name, c := range map[string]*Config{
			"with all parts": goodConfig(),
			"minimal":        {BootSource: BootSource{KernelImagePath: "/k"}},
		} {
			if err := c.validate(arch); err != nil {
				t.Errorf("%s, %s: %v", name, arch, err)
			}
		}
	}
}

type validationRow struct {
	change func(c *Config)
	want   string // the one fault that the change makes
}

func checkRows(t *testing.T, arch string, rows []validationRow) {
	t.Helper()
	for _, row := range rows {
		c := goodConfig()
		row.change(c)
		err := c.validate(arch)
		if !errors.Is(err, InvalidConfig) {
			t.Errorf("got %v, want %s", err, row.want)
			continue
		}
		if diff := cmp.Diff(row.want+" (INVALID_CONFIG)", err.Error()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestValidateTheMachine(t *testing.T) {
	t.Parallel()
	checkRows(t, cpuarch.X8664, []validationRow{
		{func(c *Config) { c.SchemaVersion = 2 }, "schemaVersion must be 1, is 2: this file is for another version of smartvm"},
		{func(c *Config) { c.SchemaVersion = -1 }, "schemaVersion must be 1, is -1: this file is for another version of smartvm"},
		{func(c *Config) { c.ID = "a\nb" }, `id must be UTF-8 without control characters, is "a\nb"`},
		{func(c *Config) { c.ID = "a\xff" }, `id must be UTF-8 without control characters, is "a\xff"`},
		{func(c *Config) { c.ID = strings.Repeat("x", 256) }, "id must have at most 255 bytes, has 256"},
		{func(c *Config) { c.EphemeralStorage = "ram" }, `ephemeralStorage must be disk or memory, is "ram"`},
		{func(c *Config) { c.BootSource.KernelImagePath = "" }, "bootSource.kernelImagePath is missing"},
		{func(c *Config) { c.BootSource.KernelImagePath = "a\x00" }, `bootSource.kernelImagePath must not hold a NUL byte, is "a\x00"`},
		{func(c *Config) { c.BootSource.InitrdPath = strings.Repeat("x", 4096) }, "bootSource.initrdPath must have at most 4095 bytes, has 4096"},
		{func(c *Config) { c.BootSource.BootArgs = strings.Repeat("x", 2048) }, "bootSource.bootArgs must have at most 2047 bytes, has 2048"},
		{func(c *Config) { c.BootSource.BootArgs = "a\nb" }, "bootSource.bootArgs must be printable ASCII on one line, is not at byte 1"},
		{func(c *Config) { c.BootSource.BootArgs = "a\x00" }, "bootSource.bootArgs must be printable ASCII on one line, is not at byte 1"},
		{func(c *Config) { c.BootSource.BootArgs = "ü" }, "bootSource.bootArgs must be printable ASCII on one line, is not at byte 0"},
		{func(c *Config) { c.MachineConfig.VCPUCount = -1 }, "machineConfig.vcpuCount must be 1 to 32, is -1"},
		{func(c *Config) { c.MachineConfig.VCPUCount = 33 }, "machineConfig.vcpuCount must be 1 to 32, is 33"},
		{func(c *Config) { c.MachineConfig.SMT, c.MachineConfig.VCPUCount = true, 3 }, "machineConfig.vcpuCount must be 1 or even with smt, is 3"},
		{func(c *Config) { c.MachineConfig.MemSizeMiB, c.Balloon = -1, nil; c.MachineConfig.HugePages = "" }, "machineConfig.memSizeMib must be 1 to 1046528, is -1"},
		{func(c *Config) { c.MachineConfig.MemSizeMiB = 1022<<10 + 2 }, "machineConfig.memSizeMib must be 1 to 1046528, is 1046530"},
		{func(c *Config) { c.MachineConfig.MemSizeMiB = 513 }, "machineConfig.memSizeMib must be even with hugePages 2M, is 513"},
		{func(c *Config) { c.MachineConfig.HugePages = "1G" }, `machineConfig.hugePages must be None or 2M, is "1G"`},
		{func(c *Config) { c.MachineConfig.CPUTemplate = "V1N1"; c.CPUConfig = nil }, `machineConfig.cpuTemplate must be None, C3, T2, T2S, T2CL or T2A, is "V1N1"`},
		{func(c *Config) { c.MachineConfig.CPUTemplate = "T2" }, "machineConfig.cpuTemplate and cpuConfig exclude each other"},

		{func(c *Config) { c.MemoryHotplug.TotalSizeMiB = 0 }, "memoryHotplug.totalSizeMib is missing"},
		{func(c *Config) { c.MemoryHotplug.TotalSizeMiB = -128 }, "memoryHotplug.totalSizeMib must be 1 to 4294967295, is -128"},
		{func(c *Config) { c.MemoryHotplug.TotalSizeMiB = 1 << 32 }, "memoryHotplug.totalSizeMib must be 1 to 4294967295, is 4294967296"},
		{func(c *Config) { c.MemoryHotplug.TotalSizeMiB = 100 }, "memoryHotplug.totalSizeMib must be a multiple of slotSizeMib 128, is 100"},
		{func(c *Config) { c.MemoryHotplug.SlotSizeMiB = 64 }, "memoryHotplug.slotSizeMib must be 128 to 4294967295, is 64"},
		{func(c *Config) { c.MemoryHotplug.SlotSizeMiB = 1 << 40 }, "memoryHotplug.slotSizeMib must be 128 to 4294967295, is 1099511627776"},
		{func(c *Config) { c.MemoryHotplug.BlockSizeMiB = 3 }, "memoryHotplug.blockSizeMib must be a power of two and at least 2, is 3"},
		{func(c *Config) { c.MemoryHotplug.BlockSizeMiB = 1 }, "memoryHotplug.blockSizeMib must be a power of two and at least 2, is 1"},
		{func(c *Config) { c.MemoryHotplug.BlockSizeMiB = math.MinInt64 }, "memoryHotplug.blockSizeMib must be a power of two and at least 2, is -9223372036854775808"},
		{func(c *Config) { c.MemoryHotplug.BlockSizeMiB = 256 }, "memoryHotplug.slotSizeMib must be a multiple of blockSizeMib 256, is 128"},
	})
}

func TestValidateDrives(t *testing.T) {
	t.Parallel()
	yes := true
	checkRows(t, cpuarch.X8664, []validationRow{
		{func(c *Config) { c.Drives[1].DriveID = "" }, "drives[1].driveId is missing"},
		{func(c *Config) { c.Drives[1].DriveID = "a-b" }, "drives[1].driveId must be letters, digits and `_`, is \"a-b\""},
		{func(c *Config) { c.Drives[1].DriveID = "../x" }, "drives[1].driveId must be letters, digits and `_`, is \"../x\""},
		{func(c *Config) { c.Drives[1].DriveID = "rootfs" }, `drives[1].driveId is the same as drives[0].driveId: "rootfs"`},
		{func(c *Config) { c.Drives[1].DriveID = "smartvm_x" }, `drives[1].driveId must not begin with smartvm_, is "smartvm_x": those are our own`},
		{func(c *Config) { c.Drives[1].PathOnHost = "" }, "drives[1].pathOnHost is missing"},
		{func(c *Config) { c.BootSource.InitrdPath = "a\xff" }, `bootSource.initrdPath must be UTF-8, is "a\xff"`},
		{func(c *Config) { c.Drives[1].PathOnHost = "\x00" }, `drives[1].pathOnHost must not hold a NUL byte, is "\x00"`},
		{func(c *Config) { c.Drives[1].IsRootDevice = true }, "drives[1].isRootDevice is true, but drives[0] is the root drive already: there can be one"},
		{func(c *Config) { c.Drives[0].PartUUID = "x init=/bin/sh" }, "drives[0].partUuid must be hex digits and `-`, is \"x init=/bin/sh\""},
		{func(c *Config) { c.Drives[0].CacheType = "writeback" }, `drives[0].cacheType must be Unsafe or Writeback, is "writeback"`},
		{func(c *Config) { c.Drives[0].IOEngine = "io_uring" }, `drives[0].ioEngine must be Sync or Async, is "io_uring"`},
		{func(c *Config) { c.Drives[0].RateLimiter.Ops.Size = -1 }, "drives[0].rateLimiter.ops.size must be >= 0, is -1"},
		{func(c *Config) { c.Drives[0].RateLimiter.Bandwidth.RefillTime = -1 }, "drives[0].rateLimiter.bandwidth.refillTime must be >= 0, is -1"},
		{func(c *Config) { c.Drives[0].RateLimiter.Bandwidth.OneTimeBurst = -1 }, "drives[0].rateLimiter.bandwidth.oneTimeBurst must be >= 0, is -1"},
		{func(c *Config) { c.Drives[2].Socket = strings.Repeat("s", 108) }, "drives[2].socket must have at most 107 bytes, as a Unix socket's path, has 108"},
		{func(c *Config) { c.Drives[2].PathOnHost = "/x" }, "drives[2].pathOnHost and socket exclude each other"},
		{func(c *Config) { c.Drives[2].IsReadOnly = true }, "drives[2].isReadOnly and socket exclude each other"},
		{func(c *Config) { c.Drives[2].RateLimiter = &RateLimiter{} }, "drives[2].rateLimiter and socket exclude each other"},
		{func(c *Config) { c.Drives[2].IOEngine = "Sync" }, "drives[2].ioEngine and socket exclude each other"},
		{func(c *Config) { c.Drives[2].Ephemeral = &yes }, "drives[2].ephemeral and socket exclude each other"},

		{func(c *Config) { c.Drives[1] = Drive{DriveID: "blank", BlankMiB: 3} }, "drives[1].blankMib must be 4 to 16777215, is 3"},
		{func(c *Config) { c.Drives[1] = Drive{DriveID: "blank", BlankMiB: -1} }, "drives[1].blankMib must be 4 to 16777215, is -1"},
		{func(c *Config) { c.Drives[1] = Drive{DriveID: "blank", BlankMiB: 16 << 20} }, "drives[1].blankMib must be 4 to 16777215, is 16777216"},
		{func(c *Config) { c.Drives[1] = Drive{DriveID: "blank", BlankMiB: 4, PathOnHost: "/x"} }, "drives[1].pathOnHost and blankMib exclude each other"},
		{func(c *Config) { c.Drives[2].BlankMiB = 4 }, "drives[2].blankMib and socket exclude each other"},

		{func(c *Config) { c.Pmem[0].ID = "" }, "pmem[0].id is missing"},
		{func(c *Config) { c.Pmem = append(c.Pmem, c.Pmem[0]) }, `pmem[1].id is the same as pmem[0].id: "rootfs"`},
		{func(c *Config) { c.Pmem[0].PathOnHost = "" }, "pmem[0].pathOnHost is missing"},
		{func(c *Config) { c.Pmem[0].RootDevice = true }, "pmem[0].rootDevice is true, but drives[0] is the root device already: there can be one"},
		{func(c *Config) {
			c.Drives[0].IsRootDevice = false
			c.Pmem = []Pmem{{ID: "a", PathOnHost: "/a", RootDevice: true}, {ID: "b", PathOnHost: "/b", RootDevice: true}}
		}, "pmem[1].rootDevice is true, but pmem[0] is the root device already: there can be one"},
		{func(c *Config) { c.Pmem[0].RateLimiter.Bandwidth.Size = -1 }, "pmem[0].rateLimiter.bandwidth.size must be >= 0, is -1"},
	})
}

func TestValidateInterfacesAndMMDS(t *testing.T) {
	t.Parallel()
	checkRows(t, cpuarch.X8664, []validationRow{
		{func(c *Config) { c.NetworkInterfaces = append(c.NetworkInterfaces, NetworkInterface{HostDevName: "t"}) }, "networkInterfaces[2].ifaceId is missing"},
		{func(c *Config) {
			c.NetworkInterfaces = append(c.NetworkInterfaces, NetworkInterface{IfaceID: "eth0", HostDevName: "t"})
		}, `networkInterfaces[2].ifaceId is the same as networkInterfaces[0].ifaceId: "eth0"`},
		{func(c *Config) {
			c.NetworkInterfaces = append(c.NetworkInterfaces, NetworkInterface{IfaceID: "eth-2", HostDevName: "t"})
		}, "networkInterfaces[2].ifaceId must be letters, digits and `_`, is \"eth-2\""},
		{func(c *Config) { c.NetworkInterfaces[1].HostDevName = "" }, "networkInterfaces[1].hostDevName is missing: name an existing TAP of the host"},
		{func(c *Config) { c.NetworkInterfaces[1].HostDevName = "sixteen-bytes-xx" }, "networkInterfaces[1].hostDevName must be the name of a TAP: at most 15 bytes without white space and `/`, is \"sixteen-bytes-xx\""},
		{func(c *Config) { c.NetworkInterfaces[1].HostDevName = "a b" }, "networkInterfaces[1].hostDevName must be the name of a TAP: at most 15 bytes without white space and `/`, is \"a b\""},
		{func(c *Config) { c.NetworkInterfaces[1].HostDevName = "a/b" }, "networkInterfaces[1].hostDevName must be the name of a TAP: at most 15 bytes without white space and `/`, is \"a/b\""},
		{func(c *Config) { c.NetworkInterfaces[1].HostDevName = ".." }, "networkInterfaces[1].hostDevName must be the name of a TAP: at most 15 bytes without white space and `/`, is \"..\""},
		{func(c *Config) { c.NetworkInterfaces[1].HostDevName = "tap-0.1@x" }, `networkInterfaces[1].hostDevName is the same as networkInterfaces[0].hostDevName: "tap-0.1@x"`},
		{func(c *Config) { c.NetworkInterfaces[0].GuestMAC = "06:00:ac:10:00" }, "networkInterfaces[0].guestMac must be six bytes in hex with `:` between, is \"06:00:ac:10:00\""},
		{func(c *Config) { c.NetworkInterfaces[0].GuestMAC = "06-00-ac-10-00-02" }, "networkInterfaces[0].guestMac must be six bytes in hex with `:` between, is \"06-00-ac-10-00-02\""},
		{func(c *Config) { c.NetworkInterfaces[0].GuestMAC = "0600.ac10.0002" }, "networkInterfaces[0].guestMac must be six bytes in hex with `:` between, is \"0600.ac10.0002\""},
		{func(c *Config) { c.NetworkInterfaces[0].GuestMAC = "01:00:5e:00:00:01" }, "networkInterfaces[0].guestMac must be unicast: the lowest bit of the first byte says multicast, is \"01:00:5e:00:00:01\""},
		{func(c *Config) { c.NetworkInterfaces[0].GuestMAC = "00:00:00:00:00:00" }, "networkInterfaces[0].guestMac must not be all zero, is \"00:00:00:00:00:00\""},
		{func(c *Config) { c.NetworkInterfaces[0].GuestMAC = "06:00:AC:10:00:03" }, `networkInterfaces[1].guestMac is the same as networkInterfaces[0].guestMac: "06:00:ac:10:00:03"`},
		{func(c *Config) { c.NetworkInterfaces[0].MTU = 67 }, "networkInterfaces[0].mtu must be 68 to 65535, is 67"},
		{func(c *Config) { c.NetworkInterfaces[0].MTU = 65536 }, "networkInterfaces[0].mtu must be 68 to 65535, is 65536"},
		{func(c *Config) { c.NetworkInterfaces[0].RxRateLimiter.Bandwidth.Size = -1 }, "networkInterfaces[0].rxRateLimiter.bandwidth.size must be >= 0, is -1"},
		{func(c *Config) { c.NetworkInterfaces[1].TxRateLimiter.Ops.Size = -1 }, "networkInterfaces[1].txRateLimiter.ops.size must be >= 0, is -1"},

		{func(c *Config) { c.MMDS.Version = "v2" }, `mmds.version must be V1 or V2, is "v2"`},
		{func(c *Config) { c.MMDS.NetworkInterfaces = nil }, "mmds.networkInterfaces is missing: name at least one interface"},
		{func(c *Config) { c.MMDS.NetworkInterfaces[1] = "eth9" }, `mmds.networkInterfaces[1] names an interface that does not exist: "eth9"`},
		{func(c *Config) { c.MMDS.NetworkInterfaces[1] = "eth1" }, `mmds.networkInterfaces[1] is the same as mmds.networkInterfaces[0]: "eth1"`},
		{func(c *Config) { c.MMDS.IPv4Address = "10.0.0.1" }, `mmds.ipv4Address must be in 169.254.1.0 to 169.254.254.255, is "10.0.0.1"`},
		{func(c *Config) { c.MMDS.IPv4Address = "169.254.0.1" }, `mmds.ipv4Address must be in 169.254.1.0 to 169.254.254.255, is "169.254.0.1"`},
		{func(c *Config) { c.MMDS.IPv4Address = "169.254.255.1" }, `mmds.ipv4Address must be in 169.254.1.0 to 169.254.254.255, is "169.254.255.1"`},
		{func(c *Config) { c.MMDS.IPv4Address = "fe80::1" }, `mmds.ipv4Address must be in 169.254.1.0 to 169.254.254.255, is "fe80::1"`},
		{func(c *Config) { c.MMDS.IPv4Address = "169.254.1" }, `mmds.ipv4Address must be in 169.254.1.0 to 169.254.254.255, is "169.254.1"`},
	})
}

func TestValidateTheOtherDevices(t *testing.T) {
	t.Parallel()
	checkRows(t, cpuarch.X8664, []validationRow{
		{func(c *Config) { c.Vsock.GuestCID = 2 }, "vsock.guestCid must be >= 3, is 2: 0 to 2 have fixed meanings"},
		{func(c *Config) { c.Vsock.GuestCID = math.MaxUint32 }, "vsock.guestCid must be below 4294967295, which means any"},
		{func(c *Config) { c.Vsock.UDSPath += "x" }, "vsock.udsPath must have at most 107 bytes, as a Unix socket's path, has 108"},
		{func(c *Config) { c.Balloon.AmountMiB = 513 }, "balloon.amountMib must be at most the VM's memory of 512, is 513"},
		{func(c *Config) { c.Balloon.AmountMiB, c.MachineConfig.MemSizeMiB = 129, 0 }, "balloon.amountMib must be at most the VM's memory of 128, is 129"},
		{func(c *Config) { c.Balloon.AmountMiB = -1 }, "balloon.amountMib must be >= 0, is -1"},
		{func(c *Config) { c.Balloon.StatsPollingIntervalS = -1 }, "balloon.statsPollingIntervalS must be 0 to 65535, is -1"},
		{func(c *Config) { c.Balloon.StatsPollingIntervalS = 65536 }, "balloon.statsPollingIntervalS must be 0 to 65535, is 65536"},
		{func(c *Config) { c.Entropy.RateLimiter.Ops.RefillTime = -1 }, "entropy.rateLimiter.ops.refillTime must be >= 0, is -1"},
		{func(c *Config) { c.Serial.RateLimiter.Size = -1 }, "serial.rateLimiter.size must be >= 0, is -1"},
		{func(c *Config) { c.Serial.SerialOutPath = "\x00" }, `serial.serialOutPath must not hold a NUL byte, is "\x00"`},
		{func(c *Config) { c.Logger.Level = "loud" }, `logger.level must be Off, Error, Warning, Info, Debug or Trace, is "loud"`},
		{func(c *Config) { c.Logger.LogPath = "\x00" }, `logger.logPath must not hold a NUL byte, is "\x00"`},
		{func(c *Config) { c.Logger.Module = "a\nb" }, `logger.module must be printable ASCII, is "a\nb"`},
		{func(c *Config) { c.Metrics.MetricsPath = "" }, "metrics.metricsPath is missing"},
		{func(c *Config) { c.Guest.Init = "systemd" }, `guest.init must be smartvm or image, is "systemd"`},
		{func(c *Config) { c.Guest.Hostname = "a b" }, "guest.hostname must be letters, digits, `-` and `.`, at most 64, is \"a b\""},
		{func(c *Config) { c.Guest.Hostname = strings.Repeat("x", 65) }, "guest.hostname must be letters, digits, `-` and `.`, at most 64, is \"" + strings.Repeat("x", 65) + "\""},
		{func(c *Config) { c.Guest.RootFSType = "ext4 init=/x" }, `guest.rootFsType must be the name of a filesystem, such as ext4, is "ext4 init=/x"`},
		{func(c *Config) {
			for i := range 8 {
				c.Pmem = append(c.Pmem, Pmem{ID: fmt.Sprint("p", i), PathOnHost: "/p"})
			}
		}, "18 virtio devices (drives, pmem, networkInterfaces, vsock, balloon, entropy, memoryHotplug) are too many: x86_64 has room for 17"},
	})
}

func TestValidateCPUTemplates(t *testing.T) {
	t.Parallel()
	cpuid := func(m CPUIDModifier) func(*Config) {
		return func(c *Config) { c.CPUConfig.CPUIDModifiers = []CPUIDModifier{m} }
	}
	one := []RegisterModifier{{Register: "eax", Bitmap: "0b" + strings.Repeat("x01_x", 8)}}
	good := CPUIDModifier{Leaf: "0x80000001", Subleaf: "0b0", Modifiers: one}
	c := goodConfig()
	c.CPUConfig.CPUIDModifiers, c.CPUConfig.MSRModifiers = []CPUIDModifier{good}, []MSRModifier{{Addr: "0x10a", Bitmap: "0b1"}}
	if err := c.validate(cpuarch.X8664); err != nil {
		t.Error(err)
	}
	checkRows(t, cpuarch.X8664, []validationRow{
		{func(c *Config) { c.CPUConfig.KVMCapabilities[1] = "!!5" }, `cpuConfig.kvmCapabilities[1] must be a number, with ! in front to remove it, is "!!5"`},
		{func(c *Config) { c.CPUConfig.KVMCapabilities[1] = "4294967296" }, `cpuConfig.kvmCapabilities[1] must be a number, with ! in front to remove it, is "4294967296"`},
		{cpuid(CPUIDModifier{Subleaf: "0x0", Modifiers: one}), "cpuConfig.cpuidModifiers[0].leaf is missing"},
		{cpuid(CPUIDModifier{Leaf: "1", Subleaf: "0x0", Modifiers: one}), `cpuConfig.cpuidModifiers[0].leaf must be a number of 32 bits that starts with 0x or 0b, is "1"`},
		{cpuid(CPUIDModifier{Leaf: "0x1", Subleaf: "0x100000000", Modifiers: one}), `cpuConfig.cpuidModifiers[0].subleaf must be a number of 32 bits that starts with 0x or 0b, is "0x100000000"`},
		{cpuid(CPUIDModifier{Leaf: "0x1", Subleaf: "0b2", Modifiers: one}), `cpuConfig.cpuidModifiers[0].subleaf must be a number of 32 bits that starts with 0x or 0b, is "0b2"`},
		{cpuid(CPUIDModifier{Leaf: "0x1", Subleaf: "0x0"}), "cpuConfig.cpuidModifiers[0].modifiers is missing"},
		{cpuid(CPUIDModifier{Leaf: "0x1", Subleaf: "0x0", Modifiers: []RegisterModifier{{Bitmap: "0b1"}}}), "cpuConfig.cpuidModifiers[0].modifiers[0].register is missing"},
		{cpuid(CPUIDModifier{Leaf: "0x1", Subleaf: "0x0", Modifiers: []RegisterModifier{{Register: "rax", Bitmap: "0b1"}}}), `cpuConfig.cpuidModifiers[0].modifiers[0].register must be eax, ebx, ecx or edx, is "rax"`},
		{cpuid(CPUIDModifier{Leaf: "0x1", Subleaf: "0x0", Modifiers: []RegisterModifier{{Register: "eax"}}}), "cpuConfig.cpuidModifiers[0].modifiers[0].bitmap is missing"},
		{cpuid(CPUIDModifier{Leaf: "0x1", Subleaf: "0x0", Modifiers: []RegisterModifier{{Register: "eax", Bitmap: "0b2"}}}), `cpuConfig.cpuidModifiers[0].modifiers[0].bitmap must be 0b and up to 32 of 0, 1 and x, is "0b2"`},
		{cpuid(CPUIDModifier{Leaf: "0x1", Subleaf: "0x0", Modifiers: []RegisterModifier{{Register: "eax", Bitmap: "0b" + strings.Repeat("1", 33)}}}),
			`cpuConfig.cpuidModifiers[0].modifiers[0].bitmap must be 0b and up to 32 of 0, 1 and x, is "0b` + strings.Repeat("1", 33) + `"`},
		{func(c *Config) { c.CPUConfig.MSRModifiers = []MSRModifier{{Addr: "0x1", Bitmap: "1"}} }, `cpuConfig.msrModifiers[0].bitmap must be 0b and up to 64 of 0, 1 and x, is "1"`},
		{func(c *Config) { c.CPUConfig.RegModifiers = []RegModifier{{Addr: "0x1", Bitmap: "0b1"}} }, "cpuConfig.regModifiers can only be given on aarch64"},
		{func(c *Config) { c.CPUConfig.VCPUFeatures = []VCPUFeature{{Bitmap: "0b1"}} }, "cpuConfig.vcpuFeatures can only be given on aarch64"},
	})
	checkRows(t, cpuarch.AArch64, []validationRow{
		{cpuid(good), "cpuConfig.cpuidModifiers can only be given on x86_64"},
		{func(c *Config) { c.CPUConfig.MSRModifiers = []MSRModifier{{Addr: "0x1", Bitmap: "0b1"}} }, "cpuConfig.msrModifiers can only be given on x86_64"},
		{func(c *Config) {
			c.CPUConfig.RegModifiers = []RegModifier{{Addr: "0x10000000000000000", Bitmap: "0b1"}}
		}, `cpuConfig.regModifiers[0].addr must be a number of 64 bits that starts with 0x or 0b, is "0x10000000000000000"`},
		{func(c *Config) { c.CPUConfig.VCPUFeatures = []VCPUFeature{{Bitmap: "0b"}} }, `cpuConfig.vcpuFeatures[0].bitmap must be 0b and up to 32 of 0, 1 and x, is "0b"`},
	})
}

func TestValidateOnAArch64(t *testing.T) {
	t.Parallel()
	checkRows(t, cpuarch.AArch64, []validationRow{
		{func(c *Config) { c.MachineConfig.SMT = true }, "machineConfig.smt cannot be true on aarch64"},
		{func(c *Config) { c.MachineConfig.CPUTemplate = "T2"; c.CPUConfig = nil }, `machineConfig.cpuTemplate must be None or V1N1, is "T2"`},
	})
	c := goodConfig()
	for i := range 80 { // the bus has more room there
		c.Pmem = append(c.Pmem, Pmem{ID: fmt.Sprint("p", i), PathOnHost: "/p"})
	}
	c.MachineConfig.CPUTemplate, c.CPUConfig = "V1N1", nil
	if err := c.validate(cpuarch.AArch64); err != nil {
		t.Error(err)
	}
	if err := goodConfig().validate("riscv64"); err == nil || !strings.Contains(err.Error(), `arch must be x86_64 or aarch64, is "riscv64"`) {
		t.Errorf("got %v", err)
	}
}

func TestValidateReportsEveryFault(t *testing.T) {
	t.Parallel()
	c := &Config{
		MachineConfig:     MachineConfig{VCPUCount: -1, MemSizeMiB: -1},
		Drives:            []Drive{{}, {DriveID: "a", PathOnHost: "/a", IsRootDevice: true}, {DriveID: "a", PathOnHost: "/a", IsRootDevice: true}},
		NetworkInterfaces: []NetworkInterface{{HostDevName: "tap0"}},
		Vsock:             &Vsock{},
		MMDS:              &MMDS{NetworkInterfaces: []string{"eth0"}},
	}
	err := c.validate(cpuarch.X8664)
	want := `10 faults
  bootSource.kernelImagePath is missing
  machineConfig.vcpuCount must be 1 to 32, is -1
  machineConfig.memSizeMib must be 1 to 1046528, is -1
  drives[0].driveId is missing
  drives[0].pathOnHost is missing
  drives[2].driveId is the same as drives[1].driveId: "a"
  drives[2].isRootDevice is true, but drives[1] is the root drive already: there can be one
  networkInterfaces[0].ifaceId is missing
  vsock.guestCid must be >= 3, is 0: 0 to 2 have fixed meanings
  mmds.networkInterfaces[0] names an interface that does not exist: "eth0" (INVALID_CONFIG)`
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

func TestAnErrorStaysReadable(t *testing.T) {
	t.Parallel()
	c := goodConfig()
	c.Drives = make([]Drive, 1000)
	err := c.validate(cpuarch.X8664)
	if err == nil || !strings.HasPrefix(err.Error(), "2001 faults\n") || !strings.Contains(err.Error(), "\n  and 1951 more (INVALID_CONFIG)") {
		t.Errorf("got %.200v", err)
	}
}
