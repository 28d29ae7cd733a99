package smartvm

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"smartvm/internal/cgroup"
	"smartvm/internal/proof"
)

// onEachLimitedVMM runs the test for every way to run VMs as root, with options that the test may change.
func onEachLimitedVMM(t *testing.T, test func(*testing.T, Options)) {
	proof.Lab(t)
	ways := map[string]Options{"emulator": {Emulate: true, EmulatorBinary: proof.Emulator(t)}}
	if binary, emulator := proof.LabVMM(t); !emulator {
		ways["unjailed"] = Options{FirecrackerBinary: binary, NoJail: true}
		ways["jailed"] = Options{FirecrackerBinary: binary, JailerBinary: os.Getenv("SMARTVM_JAILER")}
	}
	for name, options := range ways {
		t.Run(name, func(t *testing.T) { test(t, options) })
	}
}

// limitedConfig is a VM that makes use of nothing but, when it is busy, its CPU.
func limitedConfig(t *testing.T, busy bool) Config {
	t.Helper()
	config := smallConfig(t)
	if kernel := proof.Kernel(); busy {
		at := bytes.Index(kernel, []byte{0xf4, 0xeb, 0xfd}) // hlt, and back to it
		kernel[at] = 0x90                                   // nop
		if err := os.WriteFile(config.BootSource.KernelImagePath, kernel, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config.Limits = &Limits{CPUs: 1.5, MemoryMiB: 600, PIDs: 64, ReadBps: 1 << 30, WriteIOPS: 1 << 20}
	return config
}

// cgroupDir is where a VM's cgroup is, or would be.
func cgroupDir(t *testing.T, vm *VM) string {
	t.Helper()
	hierarchy, err := cgroup.Mounted()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(hierarchy, "smartvm", vm.Key())
}

func controlFile(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func setControlFile(t *testing.T, dir, name, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantNoCgroup(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cgroup is still there: %v", err)
	}
}

func TestAVMIsInItsCgroupUntilItEnds(t *testing.T) {
	onEachLimitedVMM(t, func(t *testing.T, options Options) {
		m := newTestManager(t, options)
		vm := create(t, m, limitedConfig(t, false))
		dir := cgroupDir(t, vm)
		disk, err := cgroup.DiskOf(filepath.Dir(m.options.DataDir)) // which is not there yet
		if err != nil {
			t.Fatal(err)
		}
		for name, end := range map[string]func(context.Context) error{"stop": vm.Stop, "kill": vm.Kill} {
			if err := vm.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			for file, want := range map[string]string{
				"cpu.max": "150000 100000", "memory.max": strconv.Itoa(600 << 20), "pids.max": "64", "memory.oom.group": "1",
				"io.max": disk + " rbps=1073741824 wbps=max riops=max wiops=1048576",
			} {
				if got := controlFile(t, dir, file); got != want {
					t.Errorf("%s is %q, want %q", file, got, want)
				}
			}
			if in, err := cgroup.Has(dir, vm.PID()); !in || err != nil {
				t.Errorf("the VMM is not in it: %v", err)
			}
			if inside := strings.Fields(controlFile(t, dir, "cgroup.procs")); len(inside) < 2 && options.Emulate {
				t.Errorf("in it is only %v, and not QEMU", inside)
			}
			if err := end(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			wantNoCgroup(t, dir)
		}
		free := limitedConfig(t, false)
		free.Limits = nil
		wantNoCgroup(t, cgroupDir(t, start(t, m, free)))
	})
}

func TestABusyGuestGetsNoMoreOfTheCPUThanItsLimit(t *testing.T) {
	onEachLimitedVMM(t, func(t *testing.T, options Options) {
		config := limitedConfig(t, true)
		config.Limits.CPUs = 0.2
		vm := start(t, newTestManager(t, options), config)
		dir := cgroupDir(t, vm)
		stat := func(key string) (n int) {
			fields := strings.Fields(controlFile(t, dir, "cpu.stat"))
			for i := 0; i+1 < len(fields); i += 2 {
				if fields[i] == key {
					n, _ = strconv.Atoi(fields[i+1])
				}
			}
			return n
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		look := time.NewTicker(100 * time.Millisecond) // no event tells of CPU time
		defer look.Stop()
		for stat("nr_throttled") < 20 {
			select {
			case <-ctx.Done():
				t.Fatalf("it was never held back: %s", controlFile(t, dir, "cpu.stat"))
			case <-look.C:
			}
		}
		used := stat("usage_usec")
		periods := stat("nr_periods") + 1 // read later, so it is no less than what there was
		// A period may overdraw what the next is given, by a scheduler's tick on each CPU.
		if most := periods * 20_000 * 3 / 2; used > most {
			t.Errorf("in %d periods it used %d µs, more than %d", periods, used, most)
		}
		t.Logf("%d µs in %d periods of 100 ms, %d times held back", used, periods, stat("nr_throttled"))
	})
}

func TestAVMMThatNeedsMoreMemoryThanItsLimitIsKilledAndTheNoteSaysWhy(t *testing.T) {
	onEachLimitedVMM(t, func(t *testing.T, options Options) {
		vm := start(t, newTestManager(t, options), limitedConfig(t, false))
		dir := cgroupDir(t, vm)
		setControlFile(t, dir, "memory.max", "0") // any limit that was given would have been large enough
		if _, err := vm.Wait(t.Context()); err != nil {
			t.Logf("wait: %v", err)
		}
		status, err := vm.Status(t.Context())
		if err != nil || status.Exit == nil {
			t.Fatalf("no note: %+v, %v", status, err)
		}
		note := *status.Exit
		if !note.OutOfMemory || note.Signal != 9 || !strings.Contains(note.Meaning, "limits.memoryMib") {
			t.Errorf("the note is %+v", note)
		}
		if _, err := vm.manager.Sweep(t.Context(), SweepOptions{}); err != nil {
			t.Error(err)
		}
		wantNoCgroup(t, dir)
	})
}

func TestAStartThatFailsForTheLimitOfThreadsSaysSo(t *testing.T) {
	onEachLimitedVMM(t, func(t *testing.T, options Options) {
		var vm *VM
		options.hook = func(s step, after bool) error {
			if s == stepStartTell && !after {
				setControlFile(t, cgroupDir(t, vm), "pids.max", "1")
			}
			return nil
		}
		vm = create(t, newTestManager(t, options), limitedConfig(t, false))
		err := vm.Start(t.Context())
		if err == nil {
			t.Fatal("it started")
		}
		status, statusErr := vm.Status(t.Context())
		if statusErr != nil || status.Exit == nil || !strings.Contains(status.Exit.LimitMet, "limits.pids") {
			t.Errorf("%v; the note is %+v, %v", err, status.Exit, statusErr)
		}
		wantNoCgroup(t, cgroupDir(t, vm))
	})
}

func TestNoKillOfAStarterLeavesACgroupThatGCDoesNotFind(t *testing.T) {
	proof.LabLong(t)
	for _, st := range []step{stepStartCgroup, stepStartSpawn, stepStartNote, stepStartReady, stepStartRunning, stepStartCommit} {
		for _, after := range []bool{false, true} {
			f := fault{How: faultKill, Step: st, After: after}
			t.Run(f.String(), func(t *testing.T) {
				h := newHouse(t)
				h.Limited = true
				f.Mark = h.path("mark")
				h.do(t, deed{Op: "create", VM: "vm"})
				vm, err := h.manager(t).VM("vm")
				if err != nil {
					t.Fatal(err)
				}
				if out, err := h.play(t, playActor, part{Do: deed{Op: "start", VM: "vm"}, Fault: f}).CombinedOutput(); err == nil {
					t.Fatalf("the start was not cut off: %s", out)
				}
				if _, err := os.Stat(f.Mark); err != nil {
					t.Errorf("the step was not taken: %v", err)
				}
				_, jour, err := readJournal(h.runtime("vm"))
				if err != nil {
					t.Fatal(err)
				}
				if jour.Monitor.PID != 0 && (st != stepStartCommit || !after) { // it ends a VM that was not to be
					if err := awaitProcess(jour.Monitor.PID); err != nil {
						t.Error(err)
					}
				}
				if _, err := h.manager(t).Sweep(t.Context(), SweepOptions{}); err != nil {
					t.Error(err)
				}
				if phase := h.list(t)["vm"]; phase == PhaseRunning { // it was let go of
					if err := vm.Kill(t.Context()); err != nil {
						t.Error(err)
					}
				}
				wantNoCgroup(t, cgroupDir(t, vm))
				finish(t, h, "vm")
			})
		}
	}
}
