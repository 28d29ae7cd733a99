package smartvm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// snapshotted starts a VM with a drive that it can write to, one that it can only read, and a vsock, and takes a snapshot
// of it.
func snapshotted(t *testing.T, m *Manager, config Config) (*VM, string) {
	t.Helper()
	vm := start(t, m, config)
	if err := vm.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "snapshot")
	if _, err := vm.Snapshot(t.Context(), dir, SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	return vm, dir
}

func snapshotConfig(t *testing.T) Config {
	t.Helper()
	config := smallConfig(t)
	config.Drives = []Drive{
		{DriveID: "data", PathOnHost: diskImage(t, "data.img", 1<<20)},
		{DriveID: "fixed", PathOnHost: diskImage(t, "fixed.img", 1<<20), IsReadOnly: true},
	}
	config.Vsock = &Vsock{GuestCID: 3}
	return config
}

func TestASnapshotOutlivesItsVMAndRestoresManyTimesAtOnce(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		ctx := t.Context()
		vm, dir := snapshotted(t, m, snapshotConfig(t))
		wantState(t, vm, Paused)
		if err := vm.Resume(ctx); err != nil {
			t.Fatalf("the VM does not go on after a snapshot: %v", err)
		}
		if err := vm.CleanUp(ctx); err != nil {
			t.Fatal(err)
		}
		before := folderContents(t, dir)
		var restored []*VM
		for range 2 {
			clone := create(t, m, Config{})
			if err := clone.Restore(ctx, dir, RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			wantState(t, clone, Running)
			restored = append(restored, clone)
		}
		a, b := restored[0].Config(), restored[1].Config()
		if a.Drives[0].PathOnHost == b.Drives[0].PathOnHost || a.Vsock.UDSPath == b.Vsock.UDSPath {
			t.Errorf("two restored VMs share a drive or a socket: %+v", a)
		}
		if text, err := os.ReadFile(a.Drives[0].PathOnHost); err != nil || !strings.HasPrefix(string(text), "as it was") {
			t.Errorf("the restored drive holds %.9q, %v", text, err)
		}
		paused := create(t, m, Config{})
		if err := paused.Restore(ctx, dir, RestoreOptions{Paused: true}); err != nil {
			t.Fatal(err)
		}
		wantState(t, paused, Paused)
		if _, err := paused.Snapshot(ctx, filepath.Join(t.TempDir(), "again"), SnapshotOptions{}); err != nil {
			t.Errorf("snapshot of a restored VM: %v", err)
		}
		if diff := cmp.Diff(before, folderContents(t, dir)); diff != "" {
			t.Errorf("restoring changed the snapshot: %s", diff)
		}
		if err := restored[0].Kill(ctx); err != nil {
			t.Fatal(err)
		}
		wantCode(t, restored[0].Start(ctx), InvalidState)
	})
}

func TestASnapshotThatCannotLoadIsRefusedWithReasons(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		_, dir := snapshotted(t, m, snapshotConfig(t))
		edit := func(change func(*Snapshot)) func(string) error {
			return func(dir string) error {
				snapshot, err := OpenSnapshot(dir)
				if err != nil {
					return err
				}
				change(snapshot)
				text, err := json.Marshal(snapshot)
				if err != nil {
					return err
				}
				return os.WriteFile(filepath.Join(dir, snapshotManifest), text, 0o600)
			}
		}
		for name, test := range map[string]struct {
			spoil func(dir string) error
			want  string
		}{
			"no manifest":     {func(dir string) error { return os.Remove(filepath.Join(dir, snapshotManifest)) }, "holds no snapshot"},
			"torn manifest":   {func(dir string) error { return os.Truncate(filepath.Join(dir, snapshotManifest), 10) }, "manifest.json"},
			"huge manifest":   {func(dir string) error { return os.Truncate(filepath.Join(dir, snapshotManifest), 2<<20) }, "larger than"},
			"newer manifest":  {edit(func(s *Snapshot) { s.SchemaVersion = 2 }), "schema version 2"},
			"another VMM":     {edit(func(s *Snapshot) { s.VMM = "Qvisor" }), "Qvisor"},
			"another version": {edit(func(s *Snapshot) { s.SnapshotVersion = "99.0.0" }), "99.0.0"},
			"another arch":    {edit(func(s *Snapshot) { s.Arch = "riscv64" }), "riscv64"},
			"no memory":       {func(dir string) error { return os.Remove(filepath.Join(dir, snapshotMemory)) }, "memory"},
			"no state":        {func(dir string) error { return os.Remove(filepath.Join(dir, snapshotState)) }, "state"},
			"no drive":        {func(dir string) error { return os.Remove(filepath.Join(dir, "drive-data.img")) }, "drive data is missing"},
			"a drive's path leaves the folder": {edit(func(s *Snapshot) {
				s.Drives[0].Path = "../../escape"
			}), "leaves the VM's folder"},
			"a changed read-only drive": {edit(func(s *Snapshot) { s.Drives[1].ModTime = s.Drives[1].ModTime.Add(-1) }), "drive fixed"},
			"a grown read-only drive":   {edit(func(s *Snapshot) { s.Drives[1].Size-- }), "drive fixed"},
		} {
			t.Run(name, func(t *testing.T) {
				spoiled := filepath.Join(t.TempDir(), "snapshot")
				if err := os.CopyFS(spoiled, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				if err := test.spoil(spoiled); err != nil {
					t.Fatal(err)
				}
				vm := create(t, m, Config{})
				err := vm.Restore(t.Context(), spoiled, RestoreOptions{})
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("error %v, want one with %q", err, test.want)
				}
				if code := CodeOf(err); code != SnapshotIncompatible && code != DriveStageFailed {
					t.Errorf("code %s", code)
				}
				if pid := vm.PID(); pid != 0 {
					t.Errorf("a VMM %d was started", pid)
				}
			})
		}
	})
}

func TestASnapshotNeverReplacesAnything(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		vm, dir := snapshotted(t, m, snapshotConfig(t))
		before := folderContents(t, dir)
		_, err := vm.Snapshot(t.Context(), dir, SnapshotOptions{})
		wantCode(t, err, SnapshotFailed)
		_, err = vm.Snapshot(t.Context(), filepath.Join(dir, "no", "parent"), SnapshotOptions{})
		wantCode(t, err, SnapshotFailed)
		_, err = vm.Snapshot(t.Context(), filepath.Join(filepath.Dir(dir), "new"), SnapshotOptions{Base: t.TempDir()})
		wantCode(t, err, SnapshotFailed)
		if diff := cmp.Diff(before, folderContents(t, dir)); diff != "" {
			t.Errorf("the snapshot that was there changed: %s", diff)
		}
		if entries, _ := os.ReadDir(filepath.Dir(dir)); len(entries) != 1 {
			t.Errorf("left beside it: %v", entries)
		}
		wantState(t, vm, Paused)
	})
}

func TestASnapshotOnABaseIsAFullOne(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		config := snapshotConfig(t)
		config.MachineConfig.TrackDirtyPages = true
		vm, dir := snapshotted(t, m, config)
		next := filepath.Join(t.TempDir(), "next")
		if _, err := vm.Snapshot(t.Context(), next, SnapshotOptions{Base: dir}); err != nil {
			t.Fatal(err)
		}
		clone := create(t, m, Config{})
		if err := clone.Restore(t.Context(), next, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
	})
}

// folderContents maps the files of a folder to their sizes and times.
func folderContents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string]string{}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		contents[entry.Name()] = info.ModTime().String()
	}
	return contents
}
