package smartvm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"smartvm/internal/proof"
)

// vmm is a way to run VMs that the tests go through: the emulator's null machine, and a real Firecracker where there is
// one. No guest makes progress in either.
type vmm struct {
	name    string
	options func(testing.TB) Options
}

func vmms() []vmm {
	return []vmm{
		{"null machine", func(tb testing.TB) Options {
			return Options{Emulate: true, EmulatorBinary: proof.Emulator(tb), VMMArgs: []string{"--machine", "null"}}
		}},
		{"Firecracker", func(tb testing.TB) Options {
			return Options{FirecrackerBinary: proof.Firecracker(tb), NoJail: true}
		}},
		{"Firecracker in a jail", func(tb testing.TB) Options {
			return Options{JailerBinary: proof.Jailer(tb), FirecrackerBinary: proof.Firecracker(tb)}
		}},
	}
}

// onEachVMM runs the test once for every VMM, with a manager whose folders must be empty again at the end.
func onEachVMM(t *testing.T, test func(*testing.T, *Manager)) {
	t.Parallel()
	for _, vmm := range vmms() {
		t.Run(vmm.name, func(t *testing.T) {
			t.Parallel()
			test(t, newTestManager(t, vmm.options(t)))
		})
	}
}

// onEachFreeVMM is onEachVMM without the jail, for what a jail keeps a VMM from.
func onEachFreeVMM(t *testing.T, test func(*testing.T, *Manager)) {
	t.Parallel()
	for _, vmm := range vmms() {
		if strings.Contains(vmm.name, "jail") {
			continue
		}
		t.Run(vmm.name, func(t *testing.T) {
			t.Parallel()
			test(t, newTestManager(t, vmm.options(t)))
		})
	}
}

// newTestManager makes a manager in folders of the test's own. When the test ends every VM is cleaned up, and neither a
// file nor a process may be left.
func newTestManager(tb testing.TB, options Options) *Manager {
	tb.Helper()
	dir := tb.TempDir()
	if options.ShutdownTimeout == 0 {
		options.ShutdownTimeout = 50 * time.Millisecond // no guest comes up that could obey
	}
	if options.DataDir == "" {
		options.DataDir = filepath.Join(dir, "data")
	}
	options.RuntimeDir = filepath.Join(dir, "run")
	m, err := NewManager(options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			tb.Errorf("close: %v", err)
		}
		for _, file := range leftBehind(tb, m) {
			tb.Errorf("left behind: %s", file)
		}
	})
	return m
}

// leftBehind lists what is in the folders of the manager's VMs, but for what tells of a VM that is still registered.
func leftBehind(tb testing.TB, m *Manager) (files []string) {
	tb.Helper()
	registered := map[string]bool{}
	for _, id := range m.IDs() {
		registered[filepath.Join(m.options.DataDir, "vms", keyOf(id))] = true
	}
	for _, dir := range []string{filepath.Join(m.options.DataDir, "vms"), m.options.RuntimeDir} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			tells := registered[path] || registered[filepath.Dir(path)] && lasts(filepath.Base(path))
			if err == nil && path != dir && !tells {
				files = append(files, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			tb.Fatal(err)
		}
	}
	return files
}

// smallConfig is the smallest VM that starts.
func smallConfig(tb testing.TB) Config {
	tb.Helper()
	kernel := filepath.Join(tb.TempDir(), "vmlinux")
	proof.WriteKernel(tb, kernel)
	return Config{BootSource: BootSource{KernelImagePath: kernel}}
}

// diskImage writes a drive of size bytes with something to recognise at its start.
func diskImage(tb testing.TB, name string, size int64) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, []byte("as it was"), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		tb.Fatal(err)
	}
	return path
}

func create(tb testing.TB, m *Manager, config Config) *VM {
	tb.Helper()
	vm, err := m.CreateVM(tb.Context(), config)
	if err != nil {
		tb.Fatal(err)
	}
	return vm
}

func start(tb testing.TB, m *Manager, config Config) *VM {
	tb.Helper()
	vm := create(tb, m, config)
	if err := vm.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return vm
}

func wantState(tb testing.TB, vm *VM, want State) {
	tb.Helper()
	if got := vm.State(); got != want {
		tb.Fatalf("state %s, want %s", got, want)
	}
}

func wantCode(tb testing.TB, err error, want Code) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Fatalf("error %v, want code %s", err, want)
	}
}

// supervisorForTests is the command's supervisor.
func supervisorForTests(tb testing.TB) []string { return []string{proof.Command(tb), "supervise"} }
