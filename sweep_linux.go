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

	"smartvm/record"
)

// SweepOptions say how the house is put in order.
type SweepOptions struct {
	DryRun bool // tells what would be done, and does nothing
	// Ended also removes every VM that does not run, whether it was to stay or not.
	Ended bool
}

// SweepAction is one thing that a sweep did, or would do.
type SweepAction struct {
	VM   string `json:"vm,omitempty"` // its name, or its id
	What string `json:"what"`         // "removed what an interrupted start left"
	Path string `json:"path,omitempty"`
	// Kept tells that it was left as it is, and What says why: it is damaged, or a newer program's.
	Kept bool `json:"kept,omitempty"`
}

// Sweep puts in order what crashes left below the data folder: runs that ended while nobody was there, starts and removals
// that were interrupted, VMs whose process is gone that was to take them away, names of VMs that are gone. It takes away
// only what a record or our own marks name, waits for nobody, and leaves alone what anybody is working on. It can be
// repeated; failures come back joined, and what they left stays for the next sweep.
func (m *Manager) Sweep(ctx context.Context, options SweepOptions) ([]SweepAction, error) {
	s := &sweep{manager: m, options: options}
	if _, err := os.Lstat(filepath.Join(m.options.DataDir, vmsDir)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err := secureDir(m.options.DataDir); err != nil {
		return nil, &Error{Code: InsecurePath, Op: "gc", Err: err}
	}
	looks, err := m.looks()
	if err != nil {
		return nil, &Error{Code: InvalidState, Op: "gc", Err: err}
	}
	errs := []error{s.leftovers()}
	for _, l := range looks {
		if l.err != nil {
			s.actions = append(s.actions, SweepAction{VM: filepath.Base(l.folder.data), What: explainRecord(l.err).Error(), Path: l.folder.data, Kept: true})
			continue
		}
		errs = append(errs, s.vm(ctx, l))
	}
	errs = append(errs, s.runtimes(ctx), s.names(ctx), s.uids(ctx), s.snapshots())
	if err := errors.Join(errs...); err != nil {
		return s.actions, &Error{Code: InvalidState, Op: "gc", Err: err}
	}
	return s.actions, nil
}

type sweep struct {
	manager *Manager
	options SweepOptions
	actions []SweepAction
}

// do does something, and reports it.
func (s *sweep) do(action SweepAction, f func() error) error {
	if !s.options.DryRun {
		if err := f(); errors.Is(err, errInUse) {
			return nil
		} else if err != nil {
			return err
		}
	}
	s.actions = append(s.actions, action)
	return nil
}

// errInUse tells that something is somebody's after all.
var errInUse = errors.New("in use")

// remove removes a file, or a folder, that is nobody's, unless free finds that it is.
func (s *sweep) remove(action SweepAction, path string, free func() (release func(), err error)) error {
	action.Path = path
	return s.do(action, func() error {
		return s.manager.options.hook.take(stepSweepAside, func() error {
			release, err := free()
			if err != nil {
				return err
			}
			defer release()
			return os.RemoveAll(path)
		})
	})
}

// owned takes the lock of a folder in which something was made: nobody else works on it then, or begins to.
func owned(path string) func() (func(), error) {
	return func() (func(), error) {
		lockPath := filepath.Join(path, lockName)
		lock, err := record.Try(lockPath, "gc")
		if errors.Is(err, fs.ErrNotExist) {
			if strings.HasPrefix(filepath.Base(path), hiddenPrefix) { // nothing begins here, and whoever removes it may do so, too
				return func() {}, nil
			}
			lock, err = record.Create(lockPath, "gc")
		}
		var busy *record.BusyError
		switch {
		case errors.As(err, &busy), errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist):
			return nil, errInUse
		case lock == nil: // a disk that is full has no room for one, and is to be emptied
			return func() {}, nil
		}
		return func() { _ = lock.Release() }, nil
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// leftovers removes folders that never became a VM, or are one no longer. Whoever works on one has its lock.
func (s *sweep) leftovers() error {
	vms := filepath.Join(s.manager.options.DataDir, vmsDir)
	entries, err := os.ReadDir(vms)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		var what string
		switch {
		case strings.HasPrefix(entry.Name(), asidePrefix):
			what = "removed a VM that was not finished"
		case strings.HasPrefix(entry.Name(), hiddenPrefix):
			what = "removed the rest of a VM that is gone"
		default:
			continue
		}
		path := filepath.Join(vms, entry.Name())
		if held, err := record.Held(filepath.Join(path, lockName)); held || err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, s.remove(SweepAction{What: what}, path, owned(path)))
	}
	return errors.Join(errs...)
}

// vm puts one VM in order.
func (s *sweep) vm(ctx context.Context, l look) error {
	action := SweepAction{VM: l.rec.ID}
	if l.rec.Name != "" {
		action.VM = l.rec.Name
	}
	orphan := l.rec.Owner != nil && !l.rec.Owner.Alive()
	state := l.state()
	ended := !state.Live() && state != Configuring
	switch {
	case l.busy:
		return nil
	case orphan && (!l.rec.Kept || ended && l.rec.Remove):
		action.What = "removed a VM whose process is gone"
	case ended && l.rec.Remove && l.rec.Instance > 0:
		action.What = "removed a VM that was to go when it had ended"
	case ended && s.options.Ended:
		action.What = "removed a VM that does not run"
	case l.active && ended:
		action.What = "removed what a run left that is over"
	case l.strayed():
		action.What = "ended a VM that had lost its runtime folder"
	case ended && l.rec.Home == nil && l.unfinished():
		action.What = "removed what an interrupted start left"
	default:
		return nil
	}
	remove := strings.HasPrefix(action.What, "removed a VM")
	return s.do(action, func() error { return s.manager.settleUnattended(ctx, l, remove) })
}

// unfinished tells whether there is something in the folders that no record tells of.
func (l look) unfinished() bool {
	if _, err := os.Lstat(l.rec.Runtime); err == nil {
		return true
	}
	entries, err := os.ReadDir(l.folder.data)
	return err == nil && slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !lasts(e.Name()) })
}

// settleUnattended settles a VM on which nobody works at this moment, and removes it if it still is what was looked at.
func (m *Manager) settleUnattended(ctx context.Context, l look, remove bool) error {
	vm := adopt(m, l.rec)
	lock, err := record.Try(l.folder.path(lockName), "gc")
	var busy *record.BusyError
	if errors.As(err, &busy) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	h := &held{vm: vm, folder: m.options.folderOf(vm.key), lock: lock}
	defer h.release()
	if err := h.load(); err != nil {
		return vm.fail("gc", InvalidState, err)
	}
	if h.rec.Instance != l.rec.Instance || !remove {
		return vm.wrap("gc", h.settle(ctx))
	}
	if err := h.stop(ctx, byKill, 0); err != nil {
		return err
	}
	return vm.wrap("gc", h.remove())
}

func (vm *VM) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return vm.fail(op, InvalidState, err)
}

// runtimes removes the runtime folders of VMs that are gone.
func (s *sweep) runtimes(ctx context.Context) error {
	o := s.manager.options
	entries, err := os.ReadDir(o.RuntimeDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		path := filepath.Join(o.RuntimeDir, entry.Name())
		if _, err := os.Lstat(o.folderOf(entry.Name()).data); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		// Only what has our marks: somebody may have chosen a folder with other things in it.
		journal, jour, err := readJournal(path)
		_, statErr := os.Lstat(filepath.Join(path, journalName))
		if statErr != nil && !emptyOrDrives(path) || err == nil && jour.VMM.Alive() {
			continue
		}
		if held, err := record.Held(filepath.Join(path, monitorName)); held || err != nil {
			continue
		}
		gone := func() (func(), error) { // a VM of this id may have been made meanwhile
			if _, err := os.Lstat(o.folderOf(entry.Name()).data); !errors.Is(err, fs.ErrNotExist) {
				return nil, errInUse
			}
			if journal != nil {
				return func() {}, removeCgroups(ctx, journal)
			}
			return func() {}, nil
		}
		errs = append(errs, s.remove(SweepAction{What: "removed the sockets of a VM that is gone"}, path, gone))
	}
	return errors.Join(errs...)
}

// emptyOrDrives tells whether a folder holds nothing but, perhaps, a VM's drives in memory.
func emptyOrDrives(path string) bool {
	entries, err := os.ReadDir(path)
	return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != drivesDir })
}

// names removes the names of VMs that are gone, and gives back a name that a crash took from its VM.
func (s *sweep) names(ctx context.Context) error {
	m := s.manager
	dir := filepath.Join(m.options.DataDir, namesDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lock, err := m.lockNames(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	var errs []error
	for _, entry := range entries {
		if entry.Type() != fs.ModeSymlink {
			continue
		}
		if _, ok := m.nameOwner(entry.Name()); !ok {
			errs = append(errs, s.remove(SweepAction{What: fmt.Sprintf("freed the name %q", entry.Name())}, filepath.Join(dir, entry.Name()), func() (func(), error) { return func() {}, nil }))
		}
	}
	looks, err := m.looks()
	errs = append(errs, err)
	for _, l := range looks {
		if l.err != nil || l.rec.Name == "" {
			continue
		}
		if _, ok := m.nameOwner(l.rec.Name); !ok {
			errs = append(errs, s.do(SweepAction{VM: l.rec.ID, What: fmt.Sprintf("gave the VM its name %q back", l.rec.Name)}, func() error {
				return m.takeName(l.rec.Name, filepath.Base(l.folder.data))
			}))
		}
	}
	return errors.Join(errs...)
}

// uids frees the users of VMs that are gone. The next VM would take them anyway; but a host is to be as it was.
func (s *sweep) uids(ctx context.Context) error {
	m := s.manager
	lock, err := m.lockUIDs(ctx)
	if err != nil {
		return ignoreMissing(err)
	}
	defer lock.Release()
	entries, err := os.ReadDir(filepath.Join(m.options.DataDir, uidsDir))
	errs := []error{err}
	for _, entry := range entries {
		link := filepath.Join(m.options.DataDir, uidsDir, entry.Name())
		owner, err := os.Readlink(link)
		if _, gone := os.Lstat(m.options.folderOf(owner).data); err == nil && errors.Is(gone, fs.ErrNotExist) {
			errs = append(errs, s.do(SweepAction{What: "freed the user " + entry.Name(), Path: link}, func() error { return removeLinkTo(link, owner) }))
		}
	}
	return errors.Join(errs...)
}

// snapshots removes snapshots that were not finished.
func (s *sweep) snapshots() error {
	dir := s.manager.snapshotsDir()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if !strings.HasPrefix(entry.Name(), ".") || !strings.Contains(entry.Name(), partialMark) {
			continue
		}
		if held, err := record.Held(filepath.Join(path, lockName)); held || err != nil {
			continue
		}
		errs = append(errs, s.remove(SweepAction{What: "removed a snapshot that was not finished"}, path, owned(path)))
	}
	return errors.Join(errs...)
}
