// Package proof tells at which level of proof a test runs, and whether this machine can run it.
//
// A test of a level above "unit" calls the level's function first. The function marks the test for the report that
// closes `make test` and skips it, with the reason, where the machine lacks what the level needs. Nothing else in the
// tree may skip a test.
//
// SMARTVM_TEST_LEVELS, a list with commas such as "unit,host", leaves the levels out that it does not name. `make check`
// uses it to run under the race detector what does not boot guests. Without it every level runs.
package proof

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// The levels, lowest first. A test that calls none of the functions below is a unit test.
const (
	LevelHost  = "host"  // real TAPs, namespaces, processes, mounts: root on Linux
	LevelGuest = "guest" // a real guest kernel under the emulator: QEMU and the test image
	LevelReal  = "real"  // a real Firecracker binary, named by SMARTVM_FIRECRACKER
	LevelLab   = "lab"   // a throw-away host in QEMU with a KVM of its own: `make lab`
)

// Host marks the test as one that needs root on Linux.
func Host(tb testing.TB) {
	tb.Helper()
	mark(tb, LevelHost)
	if runtime.GOOS != "linux" {
		tb.Skipf("proof: host: needs Linux, this is %s", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		tb.Skip("proof: host: needs root")
	}
}

// Cgroups marks the test as one that makes cgroups of version 2, with or without controllers.
func Cgroups(tb testing.TB) {
	tb.Helper()
	Host(tb)
	if text, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !strings.Contains(string(text), " - cgroup2 ") {
		tb.Skip("proof: host: no cgroup v2 hierarchy is mounted")
	}
}

// Guest marks the test as one that boots a guest through the emulator and returns the folder of the test image: the
// default image's `vmlinux` and `initrd`, made by `make image`.
func Guest(tb testing.TB) string {
	tb.Helper()
	mark(tb, LevelGuest)
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		tb.Skipf("proof: guest: the emulator needs linux/amd64, this is %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		tb.Skip("proof: guest: qemu-system-x86_64 is not installed (make deps)")
	}
	dir := os.Getenv("SMARTVM_TEST_IMAGE")
	if dir == "" {
		dir = filepath.Join(Root(tb), "build", "image")
	}
	for _, name := range []string{"vmlinux", "initrd"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			tb.Skipf("proof: guest: no test image: %v (make image)", err)
		}
	}
	return dir
}

// Firecracker marks the test as one that drives a real Firecracker and returns the path of its binary.
func Firecracker(tb testing.TB) string {
	tb.Helper()
	mark(tb, LevelReal)
	path := os.Getenv("SMARTVM_FIRECRACKER")
	if path == "" {
		tb.Skip("proof: real: SMARTVM_FIRECRACKER names no binary")
	}
	return path
}

// Jailer marks the test as one that drives a real Firecracker in a jail, and returns the path of the jailer. It needs root.
func Jailer(tb testing.TB) string {
	tb.Helper()
	Firecracker(tb)
	path := os.Getenv("SMARTVM_JAILER")
	if path == "" {
		tb.Skip("proof: real: SMARTVM_JAILER names no binary")
	}
	if os.Geteuid() != 0 {
		tb.Skip("proof: real: a jail needs root")
	}
	return path
}

// Emulator builds nothing: it returns the path of bin/firecracker-emulator and fails the test when it is missing, as
// every test run of this project builds it first.
func Emulator(tb testing.TB) string { return built(tb, "firecracker-emulator") }

// Command returns the path of bin/smartvm, as Emulator does.
func Command(tb testing.TB) string { return built(tb, "smartvm") }

func built(tb testing.TB, name string) string {
	tb.Helper()
	path := filepath.Join(Root(tb), "bin", name)
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("proof: %v (make build)", err)
	}
	return path
}

// Root returns the folder that holds go.mod.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("proof: no go.mod above the test's folder")
		}
		dir = parent
	}
}

// mark leaves the level in the test's output as an attribute (`go test -json`), where the report finds it, and skips the
// test when its level is not wanted.
func mark(tb testing.TB, level string) {
	tb.Helper()
	tb.Attr("level", level)
	wanted := os.Getenv("SMARTVM_TEST_LEVELS")
	if wanted != "" && !slices.Contains(strings.Split(wanted, ","), level) {
		tb.Skipf("proof: %s: SMARTVM_TEST_LEVELS=%s leaves it out", level, wanted)
	}
}
