// Package firecracker drives one Firecracker VMM: its process, its API, its vsock socket. It knows nothing of the rest
// of this module and can be used alone.
//
// [Start] spawns the VMM in a working folder of its own and returns once the API answers; [Process.Client] then speaks
// the whole API as typed calls; [Process.Stop] ends it by a ladder of means, each with a limit. [DialVsock] reaches a
// port inside the guest.
//
//	p, err := firecracker.Start(ctx, firecracker.Command{Path: "/usr/bin/firecracker", Dir: dir, Socket: "fc.sock"})
//	if err != nil { … }
//	defer p.Stop(context.WithoutCancel(ctx))
//	vm := p.Client()
//	err = errors.Join(
//		vm.PutMachineConfig(ctx, firecracker.MachineConfig{VCPUCount: 1, MemSizeMiB: 256}),
//		vm.PutBootSource(ctx, firecracker.BootSource{KernelImagePath: "vmlinux", BootArgs: "console=ttyS0"}),
//		vm.InstanceStart(ctx))
//
// Every path in a request is opened by the VMM: it is relative to the VMM's working folder ([Command.Dir]), or to the
// root of its jail.
//
// Facts about Firecracker are taken from its source at v1.16.1; a comment names the file where a fact is surprising.
package firecracker
