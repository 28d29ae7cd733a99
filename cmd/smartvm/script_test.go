//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"smartvm/internal/proof"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"smartvm": main})
}

// The scripts in testdata/script start no VM: they are about the command line itself.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SMARTVM_DATA_DIR", filepath.Join(env.WorkDir, "data"))
			env.Setenv("SMARTVM_RUNTIME_DIR", filepath.Join(env.WorkDir, "runtime"))
			env.Setenv("SMARTVM_FIRECRACKER", filepath.Join(env.WorkDir, "no-firecracker"))
			return os.WriteFile(filepath.Join(env.WorkDir, "vmlinux"), proof.Kernel(), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
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
