package smartvm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"smartvm/record"
)

// discard removes a VM whose record cannot be used, which the user insists on. Its processes are known by its folder.
func (vm *VM) discard(ctx context.Context, why error) error {
	f := vm.options.folderOf(vm.key)
	lock, err := record.Acquire(ctx, f.path(lockName), "remove", nil)
	if errors.Is(err, fs.ErrNotExist) {
		if err = record.Ensure(f.path(lockName)); err == nil {
			lock, err = record.Acquire(ctx, f.path(lockName), "remove", nil)
		}
	}
	if err != nil {
		return vm.fail("remove", InvalidState, errors.Join(why, err))
	}
	h := &held{vm: vm, folder: f, lock: lock, journal: &record.Record{}}
	defer h.release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	works, err := filepath.Glob(filepath.Join(f.data, jailDir, "*", "*", "root"))
	for _, h.folder.work = range append(works, f.work) {
		if err == nil {
			err = h.endProcesses(ctx)
		}
	}
	if err == nil {
		err = unmountBelow(f.data)
	}
	if journal, _, readErr := readJournal(f.runtime); err == nil && readErr == nil && journal != nil {
		err = removeCgroups(ctx, journal)
	}
	if err != nil {
		return vm.fail("remove", InvalidState, err)
	}
	return vm.wrap("remove", errors.Join(h.remove(), vm.manager.freeNamesOf(vm.key)))
}

// freeNamesOf frees whatever name leads to a VM whose record does not tell it.
func (m *Manager) freeNamesOf(key string) error {
	entries, err := os.ReadDir(filepath.Join(m.options.DataDir, namesDir))
	if err != nil {
		return ignoreMissing(err)
	}
	var errs []error
	for _, entry := range entries {
		if target, err := os.Readlink(m.nameLink(entry.Name())); err == nil && target == key {
			errs = append(errs, m.freeName(entry.Name(), key))
		}
	}
	return errors.Join(errs...)
}
