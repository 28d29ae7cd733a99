package smartvm

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"smartvm/firecracker"
)

func TestVMLivesFromCreateToCleanUp(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		ctx := t.Context()
		config := smallConfig(t)
		config.ID = "Life_1"
		config.Drives = []Drive{{DriveID: "data", PathOnHost: diskImage(t, "data.img", 1<<20)}}
		config.Vsock = &Vsock{GuestCID: 3}
		config.Balloon = &Balloon{AmountMiB: 0, StatsPollingIntervalS: 1}
		vm := create(t, m, config)
		wantState(t, vm, Created)
		if dir := vm.RuntimeDir(); dir != "" {
			t.Errorf("a runtime folder %s before the start", dir)
		}
		if err := vm.Start(ctx); err != nil {
			t.Fatal(err)
		}
		wantState(t, vm, Running)
		info, err := vm.Info(ctx)
		if err != nil || info.ID != vm.Key() || info.State != firecracker.StateRunning {
			t.Errorf("info %+v, %v", info, err)
		}
		if version, err := vm.Version(ctx); err != nil || version.String() != "1.16.1" {
			t.Errorf("version %v, %v", version, err)
		}
		if err := vm.UpdateBalloon(ctx, 8); !errors.Is(err, APIError) { // no driver is there to follow
			t.Errorf("balloon without a guest: %v", err)
		}
		if err := vm.Pause(ctx); err != nil {
			t.Fatal(err)
		}
		wantState(t, vm, Paused)
		if err := vm.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		if err := vm.Kill(ctx); err != nil {
			t.Fatal(err)
		}
		wantState(t, vm, Stopped)
		if err := vm.Stop(ctx); err != nil {
			t.Errorf("stop of a stopped VM: %v", err)
		}
		if err := vm.Start(ctx); err != nil {
			t.Fatalf("second start: %v", err)
		}
		if err := vm.CleanUp(ctx); err != nil {
			t.Fatal(err)
		}
		wantState(t, vm, Stopped)
		if dir := vm.RuntimeDir(); dir != "" {
			t.Errorf("a runtime folder %s after the clean-up", dir)
		}
		if err := vm.Start(ctx); err != nil {
			t.Fatalf("start after the clean-up: %v", err)
		}
	})
}

func TestCallsInTheWrongStateNameStateAndCall(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		ctx := t.Context()
		vm := create(t, m, smallConfig(t))
		refused := map[string]func() error{
			"pause":          func() error { return vm.Pause(ctx) },
			"resume":         func() error { return vm.Resume(ctx) },
			"stop":           func() error { return vm.Stop(ctx) },
			"update balloon": func() error { return vm.UpdateBalloon(ctx, 1) },
			"update drive":   func() error { return vm.UpdateDrive(ctx, "a", "/b") },
			"set metadata":   func() error { return vm.SetMetadata(ctx, 1) },
			"snapshot":       func() error { _, err := vm.Snapshot(ctx, "x", SnapshotOptions{}); return err },
		}
		for call, f := range refused {
			err := f()
			wantCode(t, err, InvalidState)
			if !strings.Contains(err.Error(), call) || !strings.Contains(err.Error(), "created") {
				t.Errorf("%q does not name the call %q and the state", err, call)
			}
		}
		for _, f := range []func() error{
			func() error { _, err := vm.Info(ctx); return err },
			func() error { _, err := vm.Version(ctx); return err },
			func() error { _, err := vm.Wait(ctx); return err },
		} {
			wantCode(t, f(), NoClient)
		}
		if err := vm.Start(ctx); err != nil {
			t.Fatal(err)
		}
		wantCode(t, vm.Start(ctx), InvalidState)
		wantCode(t, vm.Resume(ctx), InvalidState)
		wantCode(t, vm.Restore(ctx, t.TempDir(), RestoreOptions{}), InvalidState)
		wantCode(t, m.Remove(ctx, vm.ID(), false), InvalidState)
		wantState(t, vm, Running)
		if err := m.Remove(ctx, vm.ID(), true); err != nil {
			t.Fatal(err)
		}
		if m.Count() != 0 {
			t.Errorf("%d VMs after the removal", m.Count())
		}
	})
}

func TestStartUndoesEverythingWhenTheVMMRefuses(t *testing.T) {
	onEachFreeVMM(t, func(t *testing.T, m *Manager) {
		config := smallConfig(t)
		config.Drives = []Drive{{DriveID: "a", PathOnHost: diskImage(t, "a", 4096)}}
		config.Logger = &Logger{LogPath: filepath.Join(t.TempDir(), "no", "such", "folder", "log")}
		vm := create(t, m, config)
		err := vm.Start(t.Context())
		wantCode(t, err, APIError)
		var refused *firecracker.APIError
		if !errors.As(err, &refused) || refused.Fault == "" || refused.Method != "PUT" || refused.Path != "/logger" {
			t.Errorf("%v does not tell what was refused", err)
		}
		wantNothingLeft(t, m, vm)
	})
}

func TestASocketOfSomebodyElseIsLeftAlone(t *testing.T) {
	onEachFreeVMM(t, func(t *testing.T, m *Manager) {
		listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "taken.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		config := smallConfig(t)
		config.Vsock = &Vsock{GuestCID: 3, UDSPath: listener.Addr().String()}
		vm := create(t, m, config)
		wantCode(t, vm.Start(t.Context()), InvalidConfig)
		wantNothingLeft(t, m, vm)
		if _, err := os.Stat(listener.Addr().String()); err != nil {
			t.Errorf("the socket was taken away: %v", err)
		}
	})
}

func wantNothingLeft(t *testing.T, m *Manager, vm *VM) {
	t.Helper()
	wantState(t, vm, Failed)
	if files := leftBehind(t, m); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
	if pid := vm.PID(); pid != 0 {
		t.Errorf("the VMM %d lives", pid)
	}
}

func TestARefusedConfigurationLeavesTheStateAndListsAllFaults(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		vm := create(t, m, Config{
			MachineConfig: MachineConfig{VCPUCount: -1},
			Vsock:         &Vsock{GuestCID: 2},
			Drives:        []Drive{{DriveID: "a"}, {DriveID: "a"}},
		})
		err := vm.Start(t.Context())
		wantCode(t, err, InvalidConfig)
		for _, part := range []string{"kernelImagePath", "vcpuCount", "vsock.guestCid must be >= 3", "drives[1]"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is not in: %v", part, err)
			}
		}
		wantState(t, vm, Created)
	})
}

func TestTheGuestWritesToItsOwnCopyOfADrive(t *testing.T) {
	onEachFreeVMM(t, func(t *testing.T, m *Manager) {
		source, kept := diskImage(t, "source.img", 1<<20), diskImage(t, "kept.img", 1<<20)
		no := false
		config := smallConfig(t)
		config.Drives = []Drive{
			{DriveID: "root", PathOnHost: source, IsRootDevice: true},
			{DriveID: "kept", PathOnHost: kept, Ephemeral: &no},
			{DriveID: "blank", BlankMiB: 16},
		}
		vm := start(t, m, config)
		inForce := vm.Config()
		staged := inForce.Drives[0].PathOnHost
		if staged == source || filepath.Base(staged) != "root-source.img" || filepath.Dir(staged) != filepath.Join(m.options.DataDir, "vms", vm.Key(), "root", "drives") {
			t.Errorf("the root drive is at %s", staged)
		}
		if got := inForce.Drives[1].PathOnHost; got != kept {
			t.Errorf("the drive that is not ephemeral is at %s", got)
		}
		if text, err := os.ReadFile(staged); err != nil || !strings.HasPrefix(string(text), "as it was") {
			t.Errorf("the copy holds %.9q, %v", text, err)
		}
		client, err := vm.Client()
		if err != nil {
			t.Fatal(err)
		}
		told, err := client.GetVMConfig(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range told.Drives {
			if filepath.IsAbs(d.PathOnHost) {
				t.Errorf("the VMM was given the absolute path %s", d.PathOnHost)
			}
		}
		if told.BootSource.BootArgs == "" {
			t.Error("no boot arguments were sent")
		}
		if err := vm.CleanUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{source, kept} {
			if _, err := os.Stat(path); err != nil {
				t.Errorf("the clean-up took a drive that is not the VM's: %v", err)
			}
		}
	})
}

func TestAVsockPathIsTheSameForTheHostAndTheVMM(t *testing.T) {
	t.Parallel()
	m := newTestManager(t, Options{})
	config := smallConfig(t)
	config.Vsock = &Vsock{GuestCID: 3, UDSPath: "relative.sock"} // to our folder, not to the VMM's
	vm := create(t, m, config)
	h := &home{folder: folder{data: "/data", runtime: "/run", dry: true}, seen: *vm.given.clone(), onHost: *vm.given.clone()}
	if err := vm.furnish(t.Context(), "test", h, vm.foresee); err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs("relative.sock")
	if err != nil {
		t.Fatal(err)
	}
	if h.seen.Vsock.UDSPath != here || h.onHost.Vsock.UDSPath != here {
		t.Errorf("the VMM has %s, the host %s, want %s", h.seen.Vsock.UDSPath, h.onHost.Vsock.UDSPath, here)
	}
}

func TestDrivesInMemoryNeverTouchTheDataFolder(t *testing.T) {
	onEachFreeVMM(t, func(t *testing.T, m *Manager) {
		config := smallConfig(t)
		config.EphemeralStorage = "memory"
		config.Drives = []Drive{{DriveID: "data", PathOnHost: diskImage(t, "data.img", 1<<20)}, {DriveID: "blank", BlankMiB: 8}}
		vm := start(t, m, config)
		for _, staged := range vm.Drives() {
			info, err := os.Stat(filepath.Join(vm.RuntimeDir(), "drives", filepath.Base(staged.Path)))
			if err != nil || !info.Mode().IsRegular() {
				t.Errorf("drive %s is not in the runtime folder: %v", staged.DriveID, err)
			}
		}
		err := filepath.WalkDir(filepath.Join(m.options.DataDir, "vms"), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && !lasts(d.Name()) {
				t.Errorf("%s is on the disk", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestAKilledVMMIsNoticedAndCleanedUp(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		ctx := t.Context()
		vm := start(t, m, smallConfig(t))
		if err := syscall.Kill(vm.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		exit, err := vm.Wait(ctx)
		if err != nil || exit.Signal != syscall.SIGKILL {
			t.Fatalf("exit %+v, %v", exit, err)
		}
		wantState(t, vm, Failed)
		err = vm.Pause(ctx)
		wantCode(t, err, VMMExited)
		if !strings.Contains(err.Error(), "SIGKILL") {
			t.Errorf("%v does not say how", err)
		}
		if err := vm.Start(ctx); err != nil {
			t.Fatalf("start after the VMM was killed: %v", err)
		}
		if err := syscall.Kill(vm.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if err := vm.CleanUp(ctx); err != nil {
			t.Fatal(err)
		}
		wantState(t, vm, Failed)
		if err := vm.Start(ctx); err != nil {
			t.Fatalf("start after the clean-up: %v", err)
		}
	})
}

func TestTwoManagersNeverRunOneID(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		config := smallConfig(t)
		config.ID = "only-one"
		other, err := NewManager(m.Options())
		if err != nil {
			t.Fatal(err)
		}
		vm := start(t, m, config)
		second := create(t, other, config)
		err = second.Start(t.Context())
		wantCode(t, err, VMExists)
		if !strings.Contains(err.Error(), "only-one") {
			t.Errorf("%v does not say where", err)
		}
		wantState(t, vm, Running)
		if _, err := vm.Info(t.Context()); err != nil {
			t.Errorf("the first VM was harmed: %v", err)
		}
		_, err = m.CreateVM(t.Context(), config)
		wantCode(t, err, VMExists)
	})
}

func TestMetadataComesBackAsItWasSet(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		vm := start(t, m, smallConfig(t))
		err := vm.SetMetadata(t.Context(), map[string]any{"a": 1})
		wantCode(t, err, APIError) // no interface serves MMDS, and the VM runs already
		if _, err := vm.Metadata(t.Context()); err == nil {
			t.Error("metadata of a VM without MMDS")
		}
	})
}

func TestACancelledStartLeavesNothing(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		vm := create(t, m, smallConfig(t))
		if err := vm.Start(ctx); err == nil {
			t.Fatal("a start whose context had ended succeeded")
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("%v is not context.Canceled", err)
		}
		if files := leftBehind(t, m); len(files) != 0 {
			t.Errorf("left behind: %v", files)
		}
	})
}

func TestPlanTellsWhatStartDoesAndTouchesNothing(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		config := smallConfig(t)
		config.Drives = []Drive{{DriveID: "root", PathOnHost: diskImage(t, "r.img", 4096), IsRootDevice: true}, {DriveID: "more", BlankMiB: 8}}
		config.Guest = &Guest{}
		vm := create(t, m, config)
		plan, err := vm.Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(m.options.DataDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the plan made %s", m.options.DataDir)
		}
		if err := vm.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		done, err := vm.Plan(t.Context()) // of a running VM: the same
		if err != nil {
			t.Fatal(err)
		}
		before, _ := json.Marshal(plan)
		after, _ := json.Marshal(done)
		if string(before) != string(after) {
			t.Errorf("plan before %s\nand after %s", before, after)
		}
		told, _ := json.Marshal(vmmConfig(&vm.look().rec.Home.Seen))
		if planned, _ := json.Marshal(plan.Config); string(planned) != string(told) {
			t.Errorf("planned %s\ntold    %s", planned, told)
		}
	})
}
