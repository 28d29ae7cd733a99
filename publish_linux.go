package smartvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"smartvm/internal/atomicfile"
	"smartvm/record"
)

// Where VMs and their names are, below the data folder.
const (
	vmsDir   = "vms"
	namesDir = "names" // a link for each name, to the key of its VM
)

// What begins so in the VMs' folder is not a VM yet, or no longer. No key begins with a dot.
const (
	asidePrefix  = ".new-"
	hiddenPrefix = ".gone-"
)

// asideTries is how often gc may come at the very moment in which a folder is made.
const asideTries = 3

// Save makes the VM's folder without starting the VM, so that other processes find it. VMExists when another VM has the id
// or the name. A VM that is saved already stays as it is.
func (vm *VM) Save(ctx context.Context) error {
	h, err := vm.publish(ctx, "create")
	if h != nil {
		h.release()
	}
	return err
}

// publish makes the VM's folder, whole or not at all, and returns the VM's lock; nil when it has been made before.
func (vm *VM) publish(ctx context.Context, op string) (*held, error) {
	select {
	case vm.turn <- struct{}{}: // whatever ctx says, as with a lock that is free
	default:
		select {
		case vm.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, vm.fail(op, VMLocked, fmt.Errorf("another call on this VM did not end in time: %w", context.Cause(ctx)))
		}
	}
	defer func() { <-vm.turn }()
	vm.mu.Lock()
	published, gone, given := vm.published, vm.gone, *vm.given.clone()
	vm.mu.Unlock()
	if gone {
		return nil, vm.lost(op)
	}
	if published {
		return nil, nil
	}
	if err := vm.create.check(&given, len(vm.options.Supervisor) > 0); err != nil {
		return nil, vm.fail(op, InvalidConfig, err)
	}
	h := &held{vm: vm, folder: vm.options.folderOf(vm.key), file: &record.Record{}, rec: vm.newRecord(given)}
	if err := h.make(ctx); err != nil {
		code := InvalidState
		if errors.Is(err, fs.ErrExist) {
			code = VMExists
		}
		return nil, vm.fail(op, code, err)
	}
	vm.mu.Lock()
	vm.published = true
	vm.mu.Unlock()
	return h, nil
}

func (vm *VM) newRecord(given Config) vmRecord {
	o := &vm.options
	rec := vmRecord{
		ID: vm.id, Name: vm.create.Name, Image: vm.create.Image, CreatedAt: time.Now().UTC(), Config: given,
		Runtime: o.folderOf(vm.key).runtime,
		VMM: vmmChoice{
			Arch: o.Arch, Emulate: o.Emulate, Args: o.VMMArgs, AllowVersions: o.AllowVersions,
			WritableDrivesInPlace: o.WritableDrivesInPlace, Jailed: o.jailed(), ShutdownTimeout: o.ShutdownTimeout,
		},
		Remove: vm.create.Remove, Kept: vm.create.stays() && !vm.create.Remove,
		Restart: vm.create.Restart, Command: vm.create.Command.clone(), Timeout: vm.create.Timeout,
	}
	if !vm.create.stays() {
		if self, err := record.Identify(os.Getpid()); err == nil {
			rec.Owner = &self
		}
	}
	return rec
}

// make makes the folder aside and gives it its name, so that nobody ever meets half of one. The lock is held from before
// it has the name.
func (h *held) make(ctx context.Context) (err error) {
	hook, vms := h.vm.options.hook, filepath.Dir(h.folder.data)
	for _, dir := range []string{h.vm.options.DataDir, vms} {
		if err := secureDir(dir); err != nil {
			return err
		}
	}
	var aside string
	defer func() {
		if err != nil && aside != "" {
			err = errors.Join(err, os.RemoveAll(aside))
			if h.lock != nil {
				err = errors.Join(err, h.lock.Release())
			}
		}
	}()
	err = hook.take(stepCreateAside, func() (err error) {
		aside, h.lock, err = makeAside(vms, asidePrefix, "create")
		return err
	})
	if err != nil {
		return err
	}
	final := h.folder.data
	h.folder.data = aside
	err = hook.take(stepCreateRecord, h.save)
	h.folder.data = final
	if err != nil {
		return err
	}
	if h.rec.Name == "" {
		return hook.take(stepCreatePublish, func() error { return h.publishAs(aside) })
	}
	names, err := h.vm.manager.lockNames(ctx)
	if err != nil {
		return err
	}
	defer names.Release()
	// Who has this id may have the name, too, and is to keep it.
	if _, err := os.Lstat(final); err == nil {
		return h.exists()
	}
	if err := hook.take(stepCreateName, func() error { return h.vm.manager.takeName(h.rec.Name, h.vm.key) }); err != nil {
		return err
	}
	if err := hook.take(stepCreatePublish, func() error { return h.publishAs(aside) }); err != nil {
		return errors.Join(err, h.vm.manager.dropName(h.rec.Name, h.vm.key))
	}
	return nil
}

// makeAside makes a folder in which something grows that has no name yet. As long as somebody works on it, its lock is held.
func makeAside(parent, pattern, op string) (dir string, lock *record.Lock, err error) {
	for range asideTries {
		if dir, err = os.MkdirTemp(parent, pattern); err != nil {
			return "", nil, err
		}
		if lock, err = record.Create(filepath.Join(dir, lockName), op); err == nil {
			return dir, lock, nil
		}
		err = errors.Join(err, os.RemoveAll(dir))
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
		// gc took the lock of a folder that for a moment had none.
	}
	return "", nil, fmt.Errorf("%s was swept away again and again: %v", dir, err)
}

// publishAs gives the folder its name. A folder with anything in it is never replaced (rename(2), ENOTEMPTY).
func (h *held) publishAs(aside string) error {
	err := os.Rename(aside, h.folder.data)
	if _, statErr := os.Lstat(h.folder.data); err != nil && statErr == nil {
		return h.exists()
	}
	if err == nil && h.rec.Kept {
		if err = atomicfile.SyncDir(filepath.Dir(h.folder.data)); err != nil {
			err = errors.Join(err, os.Rename(h.folder.data, aside)) // a VM that was not made must not be found
		}
	}
	return err
}

func (h *held) exists() error {
	return &Error{Code: VMExists, Err: fmt.Errorf("there is a VM of this id already, in %s; remove it first, or choose another id", h.folder.data)}
}

// lockNames takes the lock on the VMs' names. It comes before any VM's lock.
func (m *Manager) lockNames(ctx context.Context) (*record.Lock, error) {
	dir := filepath.Join(m.options.DataDir, namesDir)
	if err := secureDir(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "."+lockName)
	if err := record.Ensure(path); err != nil {
		return nil, err
	}
	return record.Acquire(ctx, path, "name", nil)
}

// takeName gives a VM a name. A link to a VM that is gone, or that has another name, is what a crash left.
func (m *Manager) takeName(name, key string) error {
	link := m.nameLink(name)
	if owner, ok := m.nameOwner(name); ok && owner != key {
		return &Error{Code: VMExists, Err: fmt.Errorf("the VM %s has the name %q already; remove or rename it first, or choose another name", owner, name)}
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(key, link)
}

// dropName frees a name, if it is this VM's.
func (m *Manager) dropName(name, key string) error {
	return removeLinkTo(m.nameLink(name), key)
}

// removeLinkTo removes a link that leads to target, and nothing else.
func removeLinkTo(link, target string) error {
	if leadsTo, _ := os.Readlink(link); leadsTo != target {
		return nil
	}
	return removeIfThere(link)
}

// freeName is dropName for who does not have the lock on the names: another VM may be about to take this one.
func (m *Manager) freeName(name, key string) error {
	ctx, cancel := context.WithTimeout(context.Background(), noteLimit)
	defer cancel()
	lock, err := m.lockNames(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	return m.dropName(name, key)
}

func (m *Manager) nameLink(name string) string {
	return filepath.Join(m.options.DataDir, namesDir, name)
}

// nameOwner returns the key of the VM that has the name.
func (m *Manager) nameOwner(name string) (key string, ok bool) {
	if CheckName(name) != nil {
		return "", false
	}
	key, err := os.Readlink(m.nameLink(name))
	if err != nil || strings.ContainsRune(key, '/') || strings.HasPrefix(key, ".") {
		return "", false
	}
	_, rec, err := readRecord(m.options.folderOf(key))
	if err != nil {
		// A VM whose record cannot be read keeps its name: it must not come back as another.
		return key, !errors.Is(err, fs.ErrNotExist)
	}
	return key, rec.Name == name
}

// Rename gives the VM another name; "" takes it away. VMExists when another VM has it.
func (vm *VM) Rename(ctx context.Context, name string) error {
	const op = "rename"
	if name != "" {
		if err := CheckName(name); err != nil {
			return vm.fail(op, InvalidConfig, err)
		}
	}
	names, err := vm.manager.lockNames(ctx)
	if err != nil {
		return vm.fail(op, InvalidState, err)
	}
	defer names.Release()
	h, err := vm.acquire(ctx, op)
	if err != nil {
		return err
	}
	defer h.release()
	old, hook := h.rec.Name, vm.options.hook
	if name != "" {
		if err := hook.take(stepRenameTake, func() error { return vm.manager.takeName(name, vm.key) }); err != nil {
			return vm.fail(op, InvalidState, err)
		}
	}
	// The record decides: until it is written the VM has its old name, and the new link is one that a crash left.
	h.rec.Name = name
	if err := hook.take(stepRenameRecord, h.save); err != nil {
		if name != old {
			err = errors.Join(err, vm.manager.dropName(name, vm.key))
		}
		return vm.fail(op, InvalidState, err)
	}
	if old != "" && old != name {
		if err := hook.take(stepRenameFree, func() error { return vm.manager.dropName(old, vm.key) }); err != nil {
			return vm.fail(op, InvalidState, fmt.Errorf("the VM has its new name, and the old one is not free: %w; `smartvm gc` tries again", err))
		}
	}
	return nil
}
