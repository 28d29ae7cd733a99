package smartvm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"smartvm/firecracker"
	"smartvm/guest"
	"smartvm/internal/proof"
)

// These benchmarks measure what the front door adds to a VMM's start and restore: folders, staging, console, undo. The
// bare loop beside it spawns the same VMM and sends the same requests, and makes nothing. Each runs twice: with all folders
// in memory, which shows the code, and on the disk, which adds some six changes to folders at the disk's price.
//
//	go test -run '^$' -bench VM -benchtime 100x .

func inMemoryAndOnDisk(b *testing.B, benchmark func(*testing.B)) {
	b.Run("folders=memory", func(b *testing.B) {
		b.Setenv("TMPDIR", "/dev/shm")
		benchmark(b)
	})
	b.Run("folders=disk", benchmark)
}

// BenchmarkVMStartReal starts a VM on a real Firecracker. Target: 1.05.
func BenchmarkVMStartReal(b *testing.B) {
	options := Options{FirecrackerBinary: proof.Firecracker(b), NoJail: true}
	inMemoryAndOnDisk(b, func(b *testing.B) { benchmarkStart(b, options) })
}

// BenchmarkVMStartNull starts a VM on the emulator's null machine. Target: 1.15.
func BenchmarkVMStartNull(b *testing.B) {
	inMemoryAndOnDisk(b, func(b *testing.B) { benchmarkStart(b, vmms()[0].options(b)) })
}

// BenchmarkVMStartJailed starts a VM in a real Firecracker in its jail, beside a bare loop that runs the jailer. Target: 1.05.
func BenchmarkVMStartJailed(b *testing.B) {
	options := Options{FirecrackerBinary: proof.Firecracker(b), JailerBinary: proof.Jailer(b)}
	inMemoryAndOnDisk(b, func(b *testing.B) {
		m := newTestManager(b, options)
		config := smallConfig(b)
		if err := os.Chmod(config.BootSource.KernelImagePath, 0o644); err != nil {
			b.Fatal(err)
		}
		bare := newBareJail(b, options)
		proof.Pairs(b,
			func() func() {
				vm := start(b, m, config)
				return func() { discard(b, m, vm) }
			},
			func() func() {
				vmm := bare.start(b, map[string]string{"kernel": config.BootSource.KernelImagePath})
				vmm.Put(b, "/machine-config", firecracker.MachineConfig{VCPUCount: 1, MemSizeMiB: 128})
				vmm.Put(b, "/boot-source", firecracker.BootSource{KernelImagePath: "kernel", BootArgs: defaultBootArgs})
				vmm.Put(b, "/actions", map[string]string{"action_type": "InstanceStart"})
				return func() { bare.end(b, vmm) }
			})
	})
}

// BenchmarkVMRestoreJailed restores a snapshot of 128 MiB in a real Firecracker in its jail, beside a bare loop that runs the
// jailer. Target: 1.05.
func BenchmarkVMRestoreJailed(b *testing.B) {
	options := Options{FirecrackerBinary: proof.Firecracker(b), JailerBinary: proof.Jailer(b)}
	inMemoryAndOnDisk(b, func(b *testing.B) {
		m := newTestManager(b, options)
		snapshot := takeSnapshot(b, m)
		bare := newBareJail(b, options)
		proof.Pairs(b,
			func() func() { return restore(b, m, snapshot) },
			func() func() {
				vmm := bare.start(b, map[string]string{"state": filepath.Join(snapshot, snapshotState), "memory": filepath.Join(snapshot, snapshotMemory)})
				vmm.Put(b, "/snapshot/load", firecracker.SnapshotLoad{
					SnapshotPath: "state", ResumeVM: true,
					MemBackend: &firecracker.MemoryBackend{BackendType: firecracker.BackendFile, BackendPath: "memory"},
				})
				return func() { bare.end(b, vmm) }
			})
	})
}

// bareJail is where a bare loop has the jailer make its jail.
type bareJail struct {
	options   Options
	dir, root string
}

func newBareJail(b *testing.B, options Options) bareJail {
	b.Helper()
	name, err := firecracker.ExecName(options.FirecrackerBinary)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	return bareJail{options, dir, firecracker.Jail{Base: dir}.Root(name, "bare")}
}

// start runs a VMM in a jail with these files, by their names in it.
func (j bareJail) start(b *testing.B, files map[string]string) *proof.BareVMM {
	b.Helper()
	if err := os.MkdirAll(filepath.Join(j.root, "run"), 0o700); err != nil {
		b.Fatal(err)
	}
	for name, target := range files {
		if err := os.Link(target, filepath.Join(j.root, name)); err != nil {
			b.Fatal(err)
		}
	}
	return proof.StartJailedVMM(b, j.root, "run/fc.sock", j.options.JailerBinary, "--id", "bare", "--exec-file", j.options.FirecrackerBinary,
		"--uid", "1234567", "--gid", "1234567", "--chroot-base-dir", j.dir, "--cgroup-version", "2", "--")
}

func (j bareJail) end(b *testing.B, vmm *proof.BareVMM) {
	b.Helper()
	vmm.Kill()
	if err := os.RemoveAll(filepath.Dir(filepath.Dir(j.root))); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkVMStartDetached starts a VM on the null machine that outlives its starter: folder, record, supervisor and all.
// Target: 1.5.
func BenchmarkVMStartDetached(b *testing.B) {
	inMemoryAndOnDisk(b, func(b *testing.B) {
		options := vmms()[0].options(b)
		options.Supervisor = []string{proof.Command(b), "supervise"}
		benchmarkStart(b, options)
	})
}

// BenchmarkVMStartDetachedReal does the same with a real Firecracker.
func BenchmarkVMStartDetachedReal(b *testing.B) {
	inMemoryAndOnDisk(b, func(b *testing.B) {
		options := Options{FirecrackerBinary: proof.Firecracker(b), NoJail: true}
		options.Supervisor = []string{proof.Command(b), "supervise"}
		benchmarkStart(b, options)
	})
}

// BenchmarkList tells of running VMs, each of which is asked. Target: 100 VMs in 50 ms.
func BenchmarkList(b *testing.B) {
	for _, running := range []int{1, 100} {
		b.Run(fmt.Sprintf("running=%d", running), func(b *testing.B) {
			m := newTestManager(b, vmms()[0].options(b))
			config := smallConfig(b)
			for range running {
				start(b, m, config)
			}
			listAll(b, m, running)
		})
	}
	b.Run("created=1000", func(b *testing.B) {
		m := newTestManager(b, vmms()[0].options(b))
		for range 1000 {
			if err := create(b, m, smallConfig(b)).Save(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		listAll(b, m, 1000)
	})
}

func listAll(b *testing.B, m *Manager, want int) {
	for b.Loop() {
		all, err := m.List(b.Context(), ListOptions{})
		if err != nil || len(all) != want {
			b.Fatal(len(all), err)
		}
	}
}

// BenchmarkSupervisorMemory starts ten VMs and reports what their supervisors cost each. Targets: 3 MiB anonymous, 4 MiB
// PSS.
func BenchmarkSupervisorMemory(b *testing.B) {
	options := vmms()[0].options(b)
	options.Supervisor = []string{proof.Command(b), "supervise"}
	m := newTestManager(b, options)
	var anonymous, pss int64
	const vms = 10
	for range vms {
		start(b, m, smallConfig(b))
	}
	for b.Loop() {
	}
	for _, id := range m.IDs() {
		vm, err := m.VM(id)
		if err != nil {
			b.Fatal(err)
		}
		pid := vm.look().jour.Monitor.PID
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			b.Fatal(err)
		}
		for line := range lines(text) {
			var kib int64
			if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kib); n == 1 {
				pss += kib
			}
			if n, _ := fmt.Sscanf(line, "Anonymous: %d kB", &kib); n == 1 {
				anonymous += kib
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(anonymous)/vms, "anonymous-KiB")
	b.ReportMetric(float64(pss)/vms, "pss-KiB")
}

func benchmarkStart(b *testing.B, options Options) {
	m := newTestManager(b, options)
	binary, err := m.options.vmm()
	if err != nil {
		b.Fatal(err)
	}
	config := smallConfig(b)
	no := false
	config.Drives = []Drive{{DriveID: "root", PathOnHost: diskImage(b, "root.img", 1<<20), IsRootDevice: true, Ephemeral: &no}}
	dir := bareFolder(b, config.BootSource.KernelImagePath, config.Drives[0].PathOnHost)
	proof.Pairs(b,
		func() func() {
			vm := start(b, m, config)
			return func() { discard(b, m, vm) }
		},
		func() func() {
			vmm := proof.StartBareVMM(b, dir, "fc.sock", binary, options.VMMArgs...)
			vmm.Put(b, "/machine-config", firecracker.MachineConfig{VCPUCount: 1, MemSizeMiB: 128})
			vmm.Put(b, "/boot-source", firecracker.BootSource{KernelImagePath: "kernel", BootArgs: defaultBootArgs})
			vmm.Put(b, "/drives/root", firecracker.Drive{DriveID: "root", PathOnHost: "root.img", IsRootDevice: true})
			vmm.Put(b, "/actions", map[string]string{"action_type": "InstanceStart"})
			return vmm.Kill
		})
}

// BenchmarkVMRestoreReal restores a snapshot of 128 MiB on a real Firecracker. Target: 1.1.
func BenchmarkVMRestoreReal(b *testing.B) {
	options := Options{FirecrackerBinary: proof.Firecracker(b), NoJail: true}
	inMemoryAndOnDisk(b, func(b *testing.B) { benchmarkRestore(b, options) })
}

func benchmarkRestore(b *testing.B, options Options) {
	m := newTestManager(b, options)
	binary, err := m.options.vmm()
	if err != nil {
		b.Fatal(err)
	}
	snapshot := takeSnapshot(b, m)
	proof.Pairs(b,
		func() func() { return restore(b, m, snapshot) },
		func() func() {
			vmm := proof.StartBareVMM(b, snapshot, "fc.sock", binary)
			vmm.Put(b, "/snapshot/load", firecracker.SnapshotLoad{
				SnapshotPath: snapshotState, ResumeVM: true,
				MemBackend: &firecracker.MemoryBackend{BackendType: firecracker.BackendFile, BackendPath: snapshotMemory},
			})
			return vmm.Kill
		})
}

// takeSnapshot takes a snapshot of a VM that is gone afterwards.
func takeSnapshot(b *testing.B, m *Manager) string {
	b.Helper()
	vm := start(b, m, smallConfig(b))
	if err := vm.Pause(b.Context()); err != nil {
		b.Fatal(err)
	}
	snapshot := filepath.Join(b.TempDir(), "snapshot")
	if _, err := vm.Snapshot(b.Context(), snapshot, SnapshotOptions{}); err != nil {
		b.Fatal(err)
	}
	discard(b, m, vm)
	return snapshot
}

// restore makes a VM of a snapshot and returns what takes it away.
func restore(b *testing.B, m *Manager, snapshot string) func() {
	b.Helper()
	vm := create(b, m, Config{})
	if err := vm.Restore(b.Context(), snapshot, RestoreOptions{}); err != nil {
		b.Fatal(err)
	}
	return func() { discard(b, m, vm) }
}

// BenchmarkGuest measures what an agent in a real guest under the emulator carries each way, and how long one `true` takes
// there and back.
func BenchmarkGuest(b *testing.B) {
	m, config := guestManager(b)
	_, agent := boot(b, m, config)
	const size = 8 << 20
	command := func(b *testing.B, c guest.Command) {
		session, err := agent.Start(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		if status, err := session.Wait(b.Context()); err != nil || status.ExitCode() != 0 {
			b.Fatal(status, err)
		}
	}
	b.Run("stdin", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			command(b, guest.Command{Args: []string{"dd", "of=/dev/null", "bs=32k"}, Stdin: bytes.NewReader(make([]byte, size))})
		}
	})
	b.Run("stdout", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			command(b, guest.Command{Args: []string{"dd", "if=/dev/zero", "bs=32k", "count=" + strconv.Itoa(size/32768)}, Stdout: io.Discard})
		}
	})
	b.Run("true", func(b *testing.B) {
		for b.Loop() {
			command(b, guest.Command{Args: []string{"true"}})
		}
	})
}

// BenchmarkVMStop measures the end of a VM that needs no shutdown: the kill, and the walk back.
func BenchmarkVMStop(b *testing.B) {
	m := newTestManager(b, vmms()[0].options(b))
	config := smallConfig(b)
	for b.Loop() {
		b.StopTimer()
		vm := start(b, m, config)
		b.StartTimer()
		discard(b, m, vm)
	}
}

func discard(b *testing.B, m *Manager, vm *VM) {
	b.Helper()
	if err := vm.Kill(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := m.Remove(b.Context(), vm.ID(), true); err != nil {
		b.Fatal(err)
	}
}

// bareFolder is a folder with links to what a bare VMM is told about.
func bareFolder(b *testing.B, kernel, root string) string {
	b.Helper()
	dir := b.TempDir()
	for name, target := range map[string]string{"kernel": kernel, "root.img": root} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}
