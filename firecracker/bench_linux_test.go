package firecracker

import (
	"testing"

	"smartvm/internal/proof"
)

// These benchmarks measure a start or a restore beside a bare loop that does the same: the same spawn and calls, with
// os/exec and net/http, waiting for the socket as hard as it can. The two take turns in one run. Reported are both
// medians in milliseconds and their ratio, which is what counts: machines differ.
//
//	go test -run '^$' -bench 'Real|Null' -benchtime 100x ./firecracker

// Target: 1.05.
func BenchmarkStartReal(b *testing.B) {
	benchmarkStart(b, proof.Firecracker(b))
}

// Target: 1.15.
func BenchmarkStartNull(b *testing.B) {
	benchmarkStart(b, proof.Emulator(b), "--machine", "null")
}

// Target: 1.1.
func BenchmarkRestoreReal(b *testing.B) {
	binary := proof.Firecracker(b)
	dir := newFolder(b)
	save(b, binary, dir)
	load := SnapshotLoad{SnapshotPath: "state", ResumeVM: true,
		MemBackend: &MemoryBackend{BackendType: BackendFile, BackendPath: "memory"}}
	proof.Pairs(b,
		func() func() {
			p := benchProcess(b, dir, binary)
			check(b, p.Client().LoadSnapshot(b.Context(), load))
			return func() { stop(b, p) }
		},
		func() func() {
			vmm := proof.StartBareVMM(b, dir, "run/fc.sock", binary)
			vmm.Put(b, "/snapshot/load", load)
			return vmm.Kill
		})
}

func benchmarkStart(b *testing.B, binary string, args ...string) {
	dir := newFolder(b)
	machine := MachineConfig{VCPUCount: 1, MemSizeMiB: 128}
	source := BootSource{KernelImagePath: "kernel", BootArgs: "console=ttyS0 reboot=k panic=1"}
	root := Drive{DriveID: "root", IsRootDevice: true, PathOnHost: "root.img"}
	proof.Pairs(b,
		func() func() {
			p := benchProcess(b, dir, binary, args...)
			vm, ctx := p.Client(), b.Context()
			check(b, vm.PutMachineConfig(ctx, machine))
			check(b, vm.PutBootSource(ctx, source))
			check(b, vm.PutDrive(ctx, root))
			check(b, vm.InstanceStart(ctx))
			return func() { stop(b, p) }
		},
		func() func() {
			vmm := proof.StartBareVMM(b, dir, "run/fc.sock", binary, args...)
			vmm.Put(b, "/machine-config", machine)
			vmm.Put(b, "/boot-source", source)
			vmm.Put(b, "/drives/root", root)
			vmm.Put(b, "/actions", map[string]string{"action_type": "InstanceStart"})
			return vmm.Kill
		})
}

// save leaves a snapshot of a VM with 128 MiB in dir.
func save(b *testing.B, binary, dir string) {
	b.Helper()
	p := benchProcess(b, dir, binary)
	defer stop(b, p)
	vm, ctx := p.Client(), b.Context()
	check(b, vm.PutMachineConfig(ctx, MachineConfig{VCPUCount: 1, MemSizeMiB: 128}))
	check(b, vm.PutBootSource(ctx, BootSource{KernelImagePath: "kernel", BootArgs: "console=ttyS0"}))
	check(b, vm.PutDrive(ctx, Drive{DriveID: "root", IsRootDevice: true, PathOnHost: "root.img"}))
	check(b, vm.InstanceStart(ctx))
	check(b, vm.Pause(ctx))
	check(b, vm.CreateSnapshot(ctx, SnapshotCreate{SnapshotPath: "state", MemFilePath: "memory"}))
}

func benchProcess(b *testing.B, dir, binary string, args ...string) *Process {
	b.Helper()
	p, err := Start(b.Context(), Command{Path: binary, Args: args, Dir: dir, Socket: "run/fc.sock"})
	check(b, err)
	return p
}

func stop(b *testing.B, p *Process) {
	b.Helper()
	_, err := p.Stop(b.Context(), Kill())
	check(b, err)
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
