package smartvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// NamedSnapshot is a snapshot below the manager's data folder, in snapshots/<name>.
type NamedSnapshot struct {
	Name  string    `json:"name"`
	Dir   string    `json:"dir"`
	Bytes int64     `json:"bytes"` // on the disk; what it shares with other files by reflink counts in full
	Info  *Snapshot `json:"info,omitempty"`
	Fault string    `json:"fault,omitempty"` // why it cannot be restored at all; then there is no Info
}

// SnapshotDir returns the folder of the snapshot of this name, which need not be there. InvalidConfig for what is no name.
func (m *Manager) SnapshotDir(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", &Error{Code: InvalidConfig, Op: "snapshot", Err: err}
	}
	return filepath.Join(m.snapshotsDir(), name), nil
}

// Snapshots lists the snapshots that have a name, oldest first.
func (m *Manager) Snapshots() ([]NamedSnapshot, error) {
	entries, err := os.ReadDir(m.snapshotsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Code: InvalidState, Op: "list snapshots", Err: err}
	}
	var all []NamedSnapshot
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		s := NamedSnapshot{Name: entry.Name(), Dir: filepath.Join(m.snapshotsDir(), entry.Name())}
		s.Bytes = diskUsage(s.Dir)
		if s.Info, err = OpenSnapshot(s.Dir); err != nil {
			s.Info, s.Fault = nil, err.Error()
		}
		all = append(all, s)
	}
	slices.SortStableFunc(all, func(a, b NamedSnapshot) int {
		if a.Info == nil || b.Info == nil {
			return strings.Compare(a.Name, b.Name)
		}
		return a.Info.CreatedAt.Compare(b.Info.CreatedAt)
	})
	return all, nil
}

// TakeSnapshot takes a snapshot of the VM under a name: it pauses a running VM for it and lets it run on afterwards, also
// when the snapshot failed. A paused VM stays paused. Errors as for Snapshot.
func (vm *VM) TakeSnapshot(ctx context.Context, name string, options SnapshotOptions) (*Snapshot, error) {
	dir, err := vm.manager.SnapshotDir(name)
	if err != nil {
		return nil, err
	}
	for _, folder := range []string{vm.manager.options.DataDir, vm.manager.snapshotsDir()} {
		if err := secureDir(folder); err != nil {
			return nil, vm.fail("snapshot", SnapshotFailed, err)
		}
	}
	var snapshot *Snapshot
	err = vm.change(ctx, "snapshot", liveStates(), func(h *held, in *instance) (err error) {
		if h.look().state() == Running {
			if err := h.pause(ctx, in); err != nil {
				return err
			}
			defer func() {
				// Whoever gave up waiting for the snapshot still wants the VM to run.
				err = errors.Join(err, h.resume(context.WithoutCancel(ctx), in))
			}()
		}
		snapshot, err = h.writeSnapshot(ctx, in, dir, options)
		return err
	})
	return snapshot, err
}

// RemoveSnapshot removes the snapshot of this name. SnapshotInUse (InvalidState) while a VM that was restored from it
// runs: its memory is mapped. SnapshotIncompatible when there is none.
func (m *Manager) RemoveSnapshot(ctx context.Context, name string) error {
	const op = "remove snapshot"
	dir, err := m.SnapshotDir(name)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(dir); err != nil {
		return &Error{Code: SnapshotIncompatible, Op: op, Err: fmt.Errorf("there is no snapshot %q: %w", name, err)}
	}
	looks, err := m.looks()
	if err != nil {
		return &Error{Code: InvalidState, Op: op, Err: err}
	}
	for _, l := range looks {
		starting := l.active && l.jour.State == journalStarting && l.busy
		if l.err == nil && (l.alive || starting) && l.rec.Home != nil && l.rec.Home.Restored == dir {
			return &Error{Code: InvalidState, Op: op, VM: l.rec.ID, Err: fmt.Errorf("the snapshot %q is the memory of this VM, which runs; stop the VM first", name)}
		}
	}
	hidden := filepath.Join(m.snapshotsDir(), hiddenPrefix+name+partialMark+newID()[:8])
	hook := m.options.hook
	if err := hook.take(stepSnapshotHide, func() error { return os.Rename(dir, hidden) }); err != nil {
		return &Error{Code: InvalidState, Op: op, Err: err}
	}
	if err := hook.take(stepSnapshotRemove, func() error { return os.RemoveAll(hidden) }); err != nil {
		return &Error{Code: InvalidState, Op: op, Err: fmt.Errorf("left behind: %w; `smartvm gc` tries again", err)}
	}
	return nil
}

// diskUsage is how much the files below a folder take on the disk, in bytes.
func diskUsage(dir string) int64 {
	var total int64
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			if info, err := entry.Info(); err == nil {
				total += allocated(info)
			}
		}
		return nil // what vanishes meanwhile takes nothing
	})
	return total
}
