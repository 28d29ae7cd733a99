package firecracker

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"smartvm/internal/proof"
)

// newFolder is a VM's folder with a kernel and a 1 MiB disk.
func newFolder(t testing.TB) string {
	t.Helper()
	dir := shortDir(t)
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	proof.WriteKernel(t, filepath.Join(dir, "kernel"))
	for _, name := range []string{"root.img", "data.img", "pmem.img"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 2<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// newConsole is a console that is drained for the time of the test.
func newConsole(t testing.TB, dir, name string) *Console {
	t.Helper()
	c, err := NewConsole(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	c.Drain(io.Discard)
	t.Cleanup(func() { c.Close() })
	return c
}

// startReal starts the real Firecracker in dir.
func startReal(t testing.TB, binary, dir string) *Process {
	t.Helper()
	p, err := Start(t.Context(), Command{Path: binary, ID: "test-vm", Dir: dir, Socket: "run/fc.sock",
		Console: newConsole(t, dir, filepath.Base(dir)+"-console")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end() })
	return p
}

// A step is one call, and what Firecracker's own message has in it when the call must be refused.
type step struct {
	name    string
	call    func(context.Context) error
	refused string
}

func run(t *testing.T, steps []step) {
	t.Helper()
	for _, s := range steps {
		err := s.call(t.Context())
		var refused *APIError
		switch {
		case s.refused == "" && err != nil:
			t.Fatalf("%s: %v", s.name, err)
		case s.refused != "" && (!errors.As(err, &refused) || refused.Status != 400 || !strings.Contains(refused.Fault, s.refused)):
			t.Fatalf("%s: got %v, want a refusal with %q", s.name, err, s.refused)
		}
	}
}

func with[T any](call func(context.Context, T) error, body T) func(context.Context) error {
	return func(ctx context.Context) error { return call(ctx, body) }
}

// A VM's whole life on the real Firecracker: configured with every device that needs nothing of the host, started,
// paused, saved, and continued by a second VMM in a folder of its own. Its guest makes no progress where KVM is of no
// use, so nothing here depends on a driver in the guest.
func TestARealVMLivesItsWholeLife(t *testing.T) {
	binary := proof.Firecracker(t)
	t.Parallel()
	dir := newFolder(t)
	first := startReal(t, binary, dir)
	run(t, configure(first.Client()))
	run(t, runAndSave(first.Client()))
	checkConfig(t, first.Client())
	if by, err := first.Stop(t.Context(), nil); by != BySIGTERM || err != nil {
		t.Errorf("a paused VM was stopped by %q: %v", by, err)
	}

	// The second VMM finds everything at the same relative paths in a folder of its own.
	clone := newFolder(t)
	for _, name := range []string{"state", "memory"} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(clone, name)); err != nil {
			t.Fatal(err)
		}
	}
	second := startReal(t, binary, clone)
	vm := second.Client()
	run(t, []step{
		{"metadata", with(vm.PutMMDS, any(map[string]any{"before": "the load"})), ""},
		{"load", with(vm.LoadSnapshot, SnapshotLoad{SnapshotPath: "state",
			MemBackend:    &MemoryBackend{BackendType: BackendFile, BackendPath: "memory"},
			VsockOverride: &VsockOverride{UDSPath: "run/other.sock"}, TrackDirtyPages: true}), ""},
		{"load again", with(vm.LoadSnapshot, SnapshotLoad{SnapshotPath: "state", MemFilePath: "memory"}), "after starting"},
		{"resume", vm.Resume, ""},
	})
	if info, err := vm.Info(t.Context()); err != nil || info.State != StateRunning {
		t.Errorf("after the restore: %+v %v", info, err)
	}
	if _, err := os.Lstat(filepath.Join(clone, "run", "other.sock")); err != nil {
		t.Errorf("the vsock's other path: %v", err)
	}
	if by, err := second.Stop(t.Context(), Kill()); by != BySIGKILL || err != nil {
		t.Errorf("stopped by %q: %v", by, err)
	}
}

func configure(vm *Client) []step {
	limiter := &RateLimiter{Bandwidth: &TokenBucket{Size: 1 << 20, OneTimeBurst: 1, RefillTime: 100}, Ops: &TokenBucket{}}
	return []step{
		{"logger", with(vm.PutLogger, Logger{LogPath: "log", Level: LogDebug, ShowLevel: true}), ""},
		{"metrics", with(vm.PutMetrics, Metrics{MetricsPath: "metrics"}), ""},
		{"metrics again", with(vm.PutMetrics, Metrics{MetricsPath: "metrics"}), "Reinitialization"},
		{"serial", with(vm.PutSerial, Serial{SerialOutPath: "serial", RateLimiter: &TokenBucket{Size: 1 << 20, RefillTime: 100}}), ""},
		{"machine", with(vm.PutMachineConfig, MachineConfig{VCPUCount: 1, MemSizeMiB: 64, TrackDirtyPages: true}), ""},
		{"33 vCPUs", with(vm.PutMachineConfig, MachineConfig{VCPUCount: 33, MemSizeMiB: 64}), "number of vCPUs"},
		{"machine patch", with(vm.PatchMachineConfig, MachineConfigUpdate{MemSizeMiB: new(128)}), ""},
		{"CPU template", with(vm.PutCPUConfig, CPUConfig{}), ""},
		{"no kernel", with(vm.PutBootSource, BootSource{KernelImagePath: "nowhere"}), "No such file"},
		{"boot source", with(vm.PutBootSource, BootSource{KernelImagePath: "kernel", BootArgs: "console=ttyS0 a=<&>"}), ""},
		{"root", with(vm.PutDrive, Drive{DriveID: "root", IsRootDevice: true, PathOnHost: "root.img", CacheType: CacheWriteback,
			RateLimiter: limiter}), ""},
		{"second root", with(vm.PutDrive, Drive{DriveID: "other", IsRootDevice: true, PathOnHost: "data.img"}), "root block device already"},
		{"data", with(vm.PutDrive, Drive{DriveID: "data", PathOnHost: "data.img", IsReadOnly: true, IOEngine: IOEngineSync}), ""},
		{"pmem", with(vm.PutPmem, Pmem{ID: "pmem0", PathOnHost: "pmem.img", RateLimiter: limiter}), ""},
		{"no TAP", with(vm.PutNetworkInterface, NetworkInterface{IfaceID: "eth0", HostDevName: "a/b", MTU: 1400}), "Open tap device failed"},
		{"metadata for no interface", with(vm.PutMMDSConfig, MMDSConfig{NetworkInterfaces: []string{"eth0"}, Version: MMDSV2}), "does not correspond"},
		{"vsock", with(vm.PutVsock, Vsock{GuestCID: 3, UDSPath: "run/v.sock"}), ""},
		{"entropy", with(vm.PutEntropy, Entropy{RateLimiter: limiter}), ""},
		{"balloon", with(vm.PutBalloon, Balloon{AmountMiB: 1, StatsPollingIntervalS: 1, FreePageHinting: true, FreePageReporting: true}), ""},
		{"memory hotplug", with(vm.PutMemoryHotplug, MemoryHotplug{TotalSizeMiB: 1024}), ""},
		{"metadata patch before any", with(vm.PatchMMDS, any(map[string]any{"c": 1})), "not initialized"},
		{"metadata", with(vm.PutMMDS, any(map[string]any{"a": "b"})), ""},
		{"metadata patch", with(vm.PatchMMDS, any(map[string]any{"c": 1})), ""},
		{"pause before the boot", vm.Pause, "before starting"},
	}
}

func runAndSave(vm *Client) []step {
	return []step{
		{"start", vm.InstanceStart, ""},
		{"start again", vm.InstanceStart, "after starting"},
		{"another file", with(vm.PatchDrive, DriveUpdate{DriveID: "data", PathOnHost: "root.img"}), ""},
		{"unknown drive", with(vm.PatchDrive, DriveUpdate{DriveID: "nope", PathOnHost: "root.img"}), "Device not found"},
		{"pmem limits", with(vm.PatchPmem, PmemUpdate{ID: "pmem0", RateLimiter: &RateLimiter{Ops: &TokenBucket{}}}), ""},
		{"interface limits", with(vm.PatchNetworkInterface, NetworkInterfaceUpdate{IfaceID: "eth0"}), "Device not found"},
		{"balloon without a driver", with(vm.PatchBalloon, BalloonUpdate{AmountMiB: 2}), "not activated"},
		{"statistics", with(vm.PatchBalloonStats, BalloonStatsUpdate{StatsPollingIntervalS: 2}), ""},
		{"hinting without a driver", with(vm.StartBalloonHinting, BalloonHintingStart{AcknowledgeOnStop: new(true)}), "not activated"},
		{"stop hinting", vm.StopBalloonHinting, "not activated"},
		{"hotplug without a driver", with(vm.PatchMemoryHotplug, MemoryHotplugUpdate{RequestedSizeMiB: 128}), "not active"},
		{"keys", vm.SendCtrlAltDel, ""},
		{"flush", vm.FlushMetrics, ""},
		{"save while running", with(vm.CreateSnapshot, SnapshotCreate{SnapshotPath: "state", MemFilePath: "memory"}), "while running"},
		{"pause", vm.Pause, ""},
		{"resume", vm.Resume, ""},
		{"pause again", vm.Pause, ""},
		{"save", with(vm.CreateSnapshot, SnapshotCreate{SnapshotPath: "state", MemFilePath: "memory", SnapshotType: SnapshotFull}), ""},
	}
}

// checkConfig reads back what configure sent.
func checkConfig(t *testing.T, vm *Client) {
	t.Helper()
	ctx := t.Context()
	config, err := vm.GetVMConfig(ctx)
	if err != nil {
		t.Fatal(err)
	}
	limiter := &RateLimiter{Bandwidth: &TokenBucket{Size: 1 << 20, OneTimeBurst: 1, RefillTime: 100}}
	machine := MachineConfig{VCPUCount: 1, MemSizeMiB: 128, TrackDirtyPages: true, HugePages: HugePagesNone}
	balloon := Balloon{AmountMiB: 1, StatsPollingIntervalS: 2, FreePageHinting: true, FreePageReporting: true}
	want := VMConfig{
		Balloon:    &balloon,
		BootSource: &BootSource{KernelImagePath: "kernel", BootArgs: "console=ttyS0 a=<&>"},
		Drives: []Drive{
			{DriveID: "data", PathOnHost: "root.img", IsReadOnly: true, CacheType: CacheUnsafe, IOEngine: IOEngineSync},
			{DriveID: "root", IsRootDevice: true, PathOnHost: "root.img", CacheType: CacheWriteback, IOEngine: IOEngineSync, RateLimiter: limiter},
		},
		Entropy:       &Entropy{RateLimiter: limiter},
		MachineConfig: &machine,
		MemoryHotplug: &MemoryHotplug{TotalSizeMiB: 1024, SlotSizeMiB: 128, BlockSizeMiB: 2},
		Pmem:          []Pmem{{ID: "pmem0", PathOnHost: "pmem.img", RateLimiter: &RateLimiter{Bandwidth: limiter.Bandwidth, Ops: &TokenBucket{}}}},
		Vsock:         &Vsock{GuestCID: 3, UDSPath: "run/v.sock"},
	}
	slices.SortFunc(config.Drives, func(a, b Drive) int { return strings.Compare(a.DriveID, b.DriveID) })
	if diff := cmp.Diff(want, config, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("GET /vm/config (-want +got):\n%s", diff)
	}
	expect(t, machine)(vm.GetMachineConfig(ctx))
	expect(t, balloon)(vm.GetBalloon(ctx))
	expect(t, MemoryHotplugStatus{TotalSizeMiB: 1024, SlotSizeMiB: 128, BlockSizeMiB: 2})(vm.GetMemoryHotplug(ctx))
	expect(t, BalloonStats{TargetPages: 256, TargetMiB: 1})(vm.GetBalloonStats(ctx))
	expect(t, BalloonHintingStatus{})(vm.GetBalloonHinting(ctx))
	expect(t, InstanceInfo{ID: "test-vm", State: StatePaused, VMMVersion: vm.Version().String(), AppName: "Firecracker"})(vm.Info(ctx))
	if _, err := vm.GetMMDS(ctx); err == nil || !strings.Contains(err.Error(), "not initialized") {
		t.Errorf("metadata of a running VM without an interface for it: %v", err)
	}
}

func expect[T any](t *testing.T, want T) func(got T, err error) {
	return func(got T, err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestARealVMMRefusesWhatItsHTTPServerDoesNotTake(t *testing.T) {
	binary := proof.Firecracker(t)
	t.Parallel()
	vm := startReal(t, binary, newFolder(t)).Client()
	big := map[string]string{"log_path": strings.Repeat("x", 60_000)}
	reply, err := vm.Do(t.Context(), "PUT", "/logger", big)
	if err != nil || reply.OK || reply.Status != 400 || !strings.HasPrefix(fault(reply.Body), "Request payload with size") {
		t.Errorf("a body over the limit: %d %s %v", reply.Status, reply.Body, err)
	}
	// It takes the rest of that body for requests: their answers must not be taken for those of what comes now.
	if reply, err := vm.Do(t.Context(), "GET", "/", struct{}{}); err != nil || fault(reply.Body) != "GET request cannot have a body." {
		t.Errorf("a GET with a body: %d %s %v", reply.Status, reply.Body, err)
	}
	if contents, err := vm.GetMMDS(t.Context()); err != nil || string(contents) != "{}" {
		t.Errorf("no metadata: %s %v", contents, err)
	}
	if err := vm.PutMMDS(t.Context(), map[string]int{"n": 9007199254740993}); err != nil {
		t.Error(err)
	}
	if contents, err := vm.GetMMDS(t.Context()); err != nil || string(contents) != `{"n":9007199254740993}` {
		t.Errorf("metadata: %s %v", contents, err)
	}
}

func TestAFailedLoadEndsTheRealVMM(t *testing.T) {
	binary := proof.Firecracker(t)
	t.Parallel()
	p := startReal(t, binary, newFolder(t))
	err := p.Client().LoadSnapshot(t.Context(), SnapshotLoad{SnapshotPath: "root.img",
		MemBackend: &MemoryBackend{BackendType: BackendFile, BackendPath: "root.img"}})
	var refused *APIError
	if !errors.As(err, &refused) || refused.Status != 400 || !strings.HasPrefix(refused.Fault, "Load snapshot error: ") {
		t.Errorf("got %v", err)
	}
	<-p.Done()
	if exit := p.Exit(); exit.Code != 1 || exit.Signal != 0 {
		t.Errorf("exit %v", exit)
	}
	if by, err := p.Stop(t.Context(), nil); by != ByItself || err != nil {
		t.Errorf("%q %v", by, err)
	}
}

func TestARealVMMThatCannotStartSaysWhy(t *testing.T) {
	binary := proof.Firecracker(t)
	t.Parallel()
	dir := newFolder(t)
	_, err := Start(t.Context(), Command{Path: binary, Args: []string{"--nonsense"}, Dir: dir, Socket: "run/fc.sock",
		Console: newConsole(t, dir, "out"), Stderr: newConsole(t, dir, "err")})
	var failed *StartError
	if !errors.As(err, &failed) || failed.Stage != StageSocket || failed.Exit == nil || failed.Exit.Code != 153 {
		t.Fatalf("got %v", err)
	}
	if want := "(exit code 153: wrong command line arguments); its last output: Error: ParseArguments"; !strings.Contains(err.Error(), want) {
		t.Errorf("%q does not say %q", err, want)
	}
}

func TestTheRealBinaryTellsItsVersions(t *testing.T) {
	binary := proof.Firecracker(t)
	t.Parallel()
	build, err := BinaryVersion(t.Context(), binary)
	if err != nil || build.Emulator() || build.Version.Compare(Oldest()) < 0 {
		t.Errorf("%+v %v", build, err)
	}
	if v, err := SnapshotVersion(t.Context(), binary); err != nil || v.Major < 6 {
		t.Errorf("%v %v", v, err)
	}
}
