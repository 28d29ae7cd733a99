//go:build linux

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"smartvm"
	"smartvm/internal/proof"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"smartvm": main})
}

// The scripts in testdata/script start no VM: they are about the command line itself.
func TestScripts(t *testing.T) {
	t.Parallel()
	runScripts(t, "script", nil)
}

// The scripts in testdata/vms run VMs on the emulator's null machine: everything is real but the guest, of which there is
// none.
func TestScriptsOfVMs(t *testing.T) {
	t.Parallel()
	emulator := proof.Emulator(t)
	runScripts(t, "vms", func(env *testscript.Env) {
		env.Setenv("SMARTVM_EMULATOR", emulator)
		// Whatever a script leaves running ends with it, and what ended is as gone as a user would want it.
		env.Defer(func() { endVMs(t, env.WorkDir) })
	})
}

func runScripts(t *testing.T, dir string, setup func(*testscript.Env)) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", dir),
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SMARTVM_DATA_DIR", filepath.Join(env.WorkDir, "data"))
			env.Setenv("SMARTVM_RUNTIME_DIR", filepath.Join(env.WorkDir, "runtime"))
			env.Setenv("SMARTVM_FIRECRACKER", filepath.Join(env.WorkDir, "no-firecracker"))
			if setup != nil {
				setup(env)
			}
			return os.WriteFile(filepath.Join(env.WorkDir, "vmlinux"), proof.Kernel(), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "keep": keep},
	})
}

// endVMs takes away what VMs are left below a script's folder, and says so if that fails.
func endVMs(t *testing.T, dir string) {
	manager, err := smartvm.NewManager(smartvm.Options{DataDir: filepath.Join(dir, "data"), RuntimeDir: filepath.Join(dir, "runtime")})
	if err != nil {
		t.Error(err)
		return
	}
	all, err := manager.List(context.Background(), smartvm.ListOptions{})
	if err != nil {
		t.Error(err)
	}
	for _, s := range all {
		if err := manager.Remove(context.Background(), s.ID, true); err != nil {
			t.Error(err)
		}
	}
}

// keep NAME puts what the last command printed, without the line's end, into a variable.
func keep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: keep NAME")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// exits CODE COMMAND… runs the command and compares its exit code; what it prints is there for stdout and stderr.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARGUMENT...]")
	}
	if got := exitText(ts.Exec(args[1], args[2:]...)); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}
