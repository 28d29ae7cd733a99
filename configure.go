package smartvm

import (
	"context"
	"strings"

	"smartvm/firecracker"
	"smartvm/internal/cpuarch"
)

// defaultBootArgs is sent whenever the configuration has no boot arguments. Nothing is not an option: Firecracker's own
// default (vmm_config/boot_source.rs) has `nomodule`, which leaves a modular kernel without devices, and no console. The
// i8042 settings spare the probing of a mouse and of ports that are not there.
const defaultBootArgs = "console=ttyS0 reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd"

// bootArgs returns the kernel command line to send: the configuration's, else the default for the architecture, and
// behind it what our init needs to know.
func bootArgs(given, arch string, guestArgs []string) string {
	args := given
	if args == "" {
		args = defaultBootArgs
		if arch == cpuarch.AArch64 {
			// There is no i8042, and without keep_bootcon the console falls silent before the real one is up.
			args = "keep_bootcon console=ttyS0 reboot=k panic=1"
		}
		if len(guestArgs) > 0 {
			args += " quiet"
		}
	}
	return strings.TrimSpace(strings.Join(append([]string{args}, guestArgs...), " "))
}

// vmmConfig says in Firecracker's words what the VMM shall be told. Paths are taken as they are.
func vmmConfig(c *Config) firecracker.VMConfig {
	out := firecracker.VMConfig{
		BootSource: &firecracker.BootSource{
			KernelImagePath: c.BootSource.KernelImagePath,
			InitrdPath:      c.BootSource.InitrdPath,
			BootArgs:        c.BootSource.BootArgs,
		},
		MachineConfig: &firecracker.MachineConfig{
			VCPUCount:       c.MachineConfig.VCPUCount,
			MemSizeMiB:      c.MachineConfig.MemSizeMiB,
			SMT:             c.MachineConfig.SMT,
			CPUTemplate:     firecracker.CPUTemplate(c.MachineConfig.CPUTemplate),
			TrackDirtyPages: c.MachineConfig.TrackDirtyPages,
			HugePages:       firecracker.HugePages(c.MachineConfig.HugePages),
		},
		CPUConfig: cpuConfig(c.CPUConfig),
	}
	addDisksAndInterfaces(&out, c)
	if v := c.Vsock; v != nil {
		out.Vsock = &firecracker.Vsock{GuestCID: v.GuestCID, UDSPath: v.UDSPath}
	}
	if b := c.Balloon; b != nil {
		out.Balloon = &firecracker.Balloon{
			AmountMiB: b.AmountMiB, DeflateOnOOM: b.DeflateOnOOM, StatsPollingIntervalS: b.StatsPollingIntervalS,
			FreePageHinting: b.FreePageHinting, FreePageReporting: b.FreePageReporting,
		}
	}
	if e := c.Entropy; e != nil {
		out.Entropy = &firecracker.Entropy{RateLimiter: rateLimiter(e.RateLimiter)}
	}
	if h := c.MemoryHotplug; h != nil {
		out.MemoryHotplug = &firecracker.MemoryHotplug{
			TotalSizeMiB: int(h.TotalSizeMiB), BlockSizeMiB: int(h.BlockSizeMiB), SlotSizeMiB: int(h.SlotSizeMiB),
		}
	}
	if m := c.MMDS; m != nil {
		out.MMDSConfig = &firecracker.MMDSConfig{
			NetworkInterfaces: m.NetworkInterfaces, Version: firecracker.MMDSVersion(m.Version), IPv4Address: m.IPv4Address, IMDSCompat: m.IMDSCompat,
		}
	}
	if l := c.Logger; l != nil {
		out.Logger = &firecracker.Logger{
			LogPath: l.LogPath, Level: firecracker.LogLevel(l.Level), ShowLevel: l.ShowLevel, ShowLogOrigin: l.ShowLogOrigin, Module: l.Module,
		}
	}
	if m := c.Metrics; m != nil {
		out.Metrics = &firecracker.Metrics{MetricsPath: m.MetricsPath}
	}
	return out
}

func addDisksAndInterfaces(out *firecracker.VMConfig, c *Config) {
	for _, d := range c.Drives {
		out.Drives = append(out.Drives, firecracker.Drive{
			DriveID: d.DriveID, IsRootDevice: d.IsRootDevice, PartUUID: d.PartUUID,
			PathOnHost: d.PathOnHost, IsReadOnly: d.IsReadOnly,
			CacheType: firecracker.CacheType(d.CacheType), IOEngine: firecracker.IOEngine(d.IOEngine),
			RateLimiter: rateLimiter(d.RateLimiter), Socket: d.Socket,
		})
	}
	for _, p := range c.Pmem {
		out.Pmem = append(out.Pmem, firecracker.Pmem{
			ID: p.ID, PathOnHost: p.PathOnHost, RootDevice: p.RootDevice, ReadOnly: p.ReadOnly, RateLimiter: rateLimiter(p.RateLimiter),
		})
	}
	for _, n := range c.NetworkInterfaces {
		out.NetworkInterfaces = append(out.NetworkInterfaces, firecracker.NetworkInterface{
			IfaceID: n.IfaceID, HostDevName: n.HostDevName, GuestMAC: n.GuestMAC, MTU: uint16(n.MTU),
			RxRateLimiter: rateLimiter(n.RxRateLimiter), TxRateLimiter: rateLimiter(n.TxRateLimiter),
		})
	}
}

// sendObservers tells the VMM where its log, its metrics and the guest's serial port go. They are part of no snapshot, so
// a restore sends them too.
func sendObservers(ctx context.Context, client *firecracker.Client, c *Config, vmm firecracker.VMConfig) error {
	if vmm.Logger != nil {
		if err := client.PutLogger(ctx, *vmm.Logger); err != nil {
			return err
		}
	}
	if vmm.Metrics != nil {
		if err := client.PutMetrics(ctx, *vmm.Metrics); err != nil {
			return err
		}
	}
	if s := vmmSerial(c.Serial); s != nil {
		return client.PutSerial(ctx, *s)
	}
	return nil
}

// sendDevices tells the VMM the machine: in the order in which each request may refer to what came before it.
func sendDevices(ctx context.Context, client *firecracker.Client, vmm firecracker.VMConfig) error {
	calls := []func() error{func() error { return client.PutMachineConfig(ctx, *vmm.MachineConfig) }}
	add := func(wanted bool, call func() error) {
		if wanted {
			calls = append(calls, call)
		}
	}
	add(vmm.CPUConfig != nil, func() error { return client.PutCPUConfig(ctx, *vmm.CPUConfig) })
	add(true, func() error { return client.PutBootSource(ctx, *vmm.BootSource) })
	for _, d := range vmm.Drives {
		add(true, func() error { return client.PutDrive(ctx, d) })
	}
	for _, p := range vmm.Pmem {
		add(true, func() error { return client.PutPmem(ctx, p) })
	}
	for _, n := range vmm.NetworkInterfaces {
		add(true, func() error { return client.PutNetworkInterface(ctx, n) })
	}
	add(vmm.Vsock != nil, func() error { return client.PutVsock(ctx, *vmm.Vsock) })
	add(vmm.Balloon != nil, func() error { return client.PutBalloon(ctx, *vmm.Balloon) })
	add(vmm.Entropy != nil, func() error { return client.PutEntropy(ctx, *vmm.Entropy) })
	add(vmm.MemoryHotplug != nil, func() error { return client.PutMemoryHotplug(ctx, *vmm.MemoryHotplug) })
	add(vmm.MMDSConfig != nil, func() error { return client.PutMMDSConfig(ctx, *vmm.MMDSConfig) })
	for _, call := range calls {
		if err := call(); err != nil {
			return err
		}
	}
	return nil
}

// vmmSerial is apart from vmmConfig, as Firecracker never shows it in GET /vm/config.
func vmmSerial(s *Serial) *firecracker.Serial {
	if s == nil {
		return nil
	}
	return &firecracker.Serial{SerialOutPath: s.SerialOutPath, RateLimiter: tokenBucket(s.RateLimiter)}
}

func rateLimiter(r *RateLimiter) *firecracker.RateLimiter {
	if r == nil {
		return nil
	}
	return &firecracker.RateLimiter{Bandwidth: tokenBucket(r.Bandwidth), Ops: tokenBucket(r.Ops)}
}

func tokenBucket(b *TokenBucket) *firecracker.TokenBucket {
	if b == nil {
		return nil
	}
	return &firecracker.TokenBucket{Size: b.Size, OneTimeBurst: b.OneTimeBurst, RefillTime: b.RefillTime}
}

func cpuConfig(c *CPUConfig) *firecracker.CPUConfig {
	if c == nil {
		return nil
	}
	out := &firecracker.CPUConfig{KVMCapabilities: c.KVMCapabilities}
	for _, m := range c.CPUIDModifiers {
		leaf := firecracker.CPUIDLeafModifier{Leaf: m.Leaf, Subleaf: m.Subleaf, Flags: int32(m.Flags)}
		for _, r := range m.Modifiers {
			leaf.Modifiers = append(leaf.Modifiers, firecracker.CPUIDRegisterModifier(r))
		}
		out.CPUIDModifiers = append(out.CPUIDModifiers, leaf)
	}
	for _, m := range c.MSRModifiers {
		out.MSRModifiers = append(out.MSRModifiers, firecracker.MSRModifier(m))
	}
	for _, m := range c.RegModifiers {
		out.RegModifiers = append(out.RegModifiers, firecracker.RegModifier(m))
	}
	for _, f := range c.VCPUFeatures {
		out.VCPUFeatures = append(out.VCPUFeatures, firecracker.VCPUFeature{Index: int32(f.Index), Bitmap: f.Bitmap})
	}
	return out
}
