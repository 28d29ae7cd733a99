package smartvm

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMakingAManagerTouchesNothingAndListsAllFaults(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := NewManager(Options{DataDir: dir, RuntimeDir: dir}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s was made", dir)
	}
	_, err := NewManager(Options{Arch: "pdp11", DataDir: "a\x00b", ShutdownTimeout: -1})
	wantCode(t, err, InvalidConfig)
	for _, part := range []string{"pdp11", "NUL", "shutdown"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}

func TestOptionsAndConfigurationsAreCopied(t *testing.T) {
	t.Parallel()
	allowed := []string{"1.15.0"}
	m := newTestManager(t, Options{AllowVersions: allowed})
	allowed[0] = "changed"
	m.Options().AllowVersions[0] = "changed"
	if got := m.Options().AllowVersions[0]; got != "1.15.0" {
		t.Errorf("the manager's options are the caller's: %q", got)
	}
	config := Config{ID: "a", Drives: []Drive{{DriveID: "before"}}}
	vm := create(t, m, config)
	config.Drives[0].DriveID = "after"
	vm.Config().Drives[0].DriveID = "after"
	if got := vm.Config().Drives[0].DriveID; got != "before" {
		t.Errorf("the VM's configuration is the caller's: %q", got)
	}
}

func TestManagersKeepTheListOfTheirVMs(t *testing.T) {
	t.Parallel()
	m := newTestManager(t, Options{})
	unnamed := create(t, m, Config{})
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(unnamed.ID()) {
		t.Errorf("the id %q is no UUID of version 4", unnamed.ID())
	}
	create(t, m, Config{ID: "b"})
	want := []string{unnamed.ID(), "b"}
	slices.Sort(want)
	if diff := cmp.Diff(want, m.IDs()); diff != "" || m.Count() != 2 {
		t.Errorf("the list: %s", diff)
	}
	if vm, err := m.VM("b"); err != nil || vm.ID() != "b" {
		t.Errorf("VM: %v, %v", vm, err)
	}
	_, err := m.VM("c")
	wantCode(t, err, VMNotFound)
	wantCode(t, m.Remove(t.Context(), "c", true), VMNotFound)
	if err := m.Remove(t.Context(), "b", false); err != nil {
		t.Error(err)
	}
	if _, err := m.CreateVM(t.Context(), Config{ID: "b"}); err != nil {
		t.Errorf("an id is not free again after the removal: %v", err)
	}
}

func TestStopAllStopsWhatLivesAndLeavesTheRest(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		running, paused, created := start(t, m, smallConfig(t)), start(t, m, smallConfig(t)), create(t, m, smallConfig(t))
		if err := paused.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.StopAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantState(t, running, Stopped)
		wantState(t, paused, Stopped)
		wantState(t, created, Created)
		if m.Count() != 3 {
			t.Errorf("%d VMs are left on the list", m.Count())
		}
	})
}

func TestTwentyVMsAtOnceStartAndEndWithoutALeak(t *testing.T) {
	t.Parallel()
	m := newTestManager(t, vmms()[0].options(t))
	m.options.ShutdownTimeout = time.Nanosecond
	config := smallConfig(t)
	var wait sync.WaitGroup
	for range 20 {
		vm := create(t, m, config)
		wait.Go(func() {
			if err := vm.Start(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if m.Count() != 0 {
		t.Errorf("%d VMs are left", m.Count())
	}
}

func TestAFolderThatSomebodyElseCouldHavePlantedIsRefused(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(dir string) error{
		"a link":             func(dir string) error { return os.Symlink(t.TempDir(), dir) },
		"a file":             func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"writable by others": func(dir string) error { os.Mkdir(dir, 0o700); return os.Chmod(dir, 0o777) },
	} {
		for _, which := range []string{"data", "runtime"} {
			m := newTestManager(t, vmms()[0].options(t))
			dir := filepath.Join(t.TempDir(), "planted")
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			if which == "data" {
				m.options.DataDir = dir
			} else {
				m.options.RuntimeDir = dir
			}
			vm := create(t, m, smallConfig(t))
			err := vm.Start(t.Context())
			if code := CodeOf(err); code != InsecurePath {
				t.Errorf("%s folder is %s: %v", which, name, err)
			}
			m.options.DataDir, m.options.RuntimeDir = t.TempDir(), t.TempDir() // for the look at what is left
		}
	}
}
