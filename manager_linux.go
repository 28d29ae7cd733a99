package smartvm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
)

// Manager makes VMs, and finds those that other processes made below the same data folder. It is safe for concurrent use.
// Making one touches neither the disk nor the network.
type Manager struct {
	options Options
	builds  builds

	mu  sync.Mutex
	vms map[string]*VM // by id: those that this manager made
}

// NewManager checks the options (InvalidConfig lists every fault) and copies them.
func NewManager(options Options) (*Manager, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Manager{options: options, vms: map[string]*VM{}}, nil
}

// Options returns the options in force, defaults filled in.
func (m *Manager) Options() Options {
	options := m.options
	options.AllowVersions, options.VMMArgs = slices.Clone(options.AllowVersions), slices.Clone(options.VMMArgs)
	options.Supervisor, options.Settle = slices.Clone(options.Supervisor), slices.Clone(options.Settle)
	return options
}

// CreateVM registers a VM in state Created; nothing is started and no file is touched. The configuration is copied. An
// empty id becomes a UUID (version 4). VMExists when the id is taken in this manager; that another process has it shows
// when the VM is started or saved. A configuration is validated when the VM starts. Close removes the VM.
func (m *Manager) CreateVM(ctx context.Context, config Config) (*VM, error) {
	return m.Create(ctx, config, CreateOptions{})
}

// Create is CreateVM for a VM that lives otherwise than its manager: see CreateOptions, which is checked when the VM is
// started or saved.
func (m *Manager) Create(_ context.Context, config Config, options CreateOptions) (*VM, error) {
	config = *config.clone()
	if config.ID == "" {
		config.ID = newID()
	}
	options.Command = options.Command.clone()
	if err := config.makeAbsolute(); err != nil {
		return nil, &Error{Code: InvalidConfig, Op: "create", VM: config.ID, Err: err}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.vms[config.ID]; taken {
		return nil, &Error{Code: VMExists, Op: "create", VM: config.ID, Err: errors.New("this manager has a VM of this id already; remove it first, or choose another id")}
	}
	vm := newVM(m, config, options)
	m.vms[config.ID] = vm
	return vm, nil
}

// VM returns the VM with this id, whoever made it, or VMNotFound. One that another process made is adopted: all calls work
// on it, and Close leaves it alone.
func (m *Manager) VM(id string) (*VM, error) {
	m.mu.Lock()
	vm, ok := m.vms[id]
	m.mu.Unlock()
	if ok {
		return vm, nil
	}
	vm, err := m.byKey(keyOf(id))
	if err == nil && vm.id != id {
		err = errors.New("there is no VM of this id")
	}
	if err != nil {
		return nil, &Error{Code: VMNotFound, Op: "find", VM: id, Err: err}
	}
	return vm, nil
}

// byKey adopts a VM by its key.
func (m *Manager) byKey(key string) (*VM, error) {
	f := m.options.folderOf(key)
	_, rec, err := readRecord(f)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(f.data); err != nil {
			return nil, errors.New("there is no VM of this id")
		}
		fallthrough
	case err != nil:
		// It is there and can be removed, and every other call will say what is wrong.
		vm := newVM(m, Config{ID: key}, CreateOptions{})
		vm.key, vm.published = key, true
		return vm, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if vm, ok := m.vms[rec.ID]; ok {
		return vm, nil
	}
	return adopt(m, rec), nil
}

// Find returns the VM that a person means: by its name, its id, its key, or the beginning of its id where no other VM's
// begins so. VMNotFound wraps an *AmbiguousError for a beginning that is not enough.
func (m *Manager) Find(ref string) (*VM, error) {
	missing := func(format string, args ...any) error {
		return &Error{Code: VMNotFound, Op: "find", VM: ref, Err: fmt.Errorf(format, args...)}
	}
	if ref == "" {
		return nil, missing("the VM's name is empty")
	}
	// Who may not look at the VMs must not be told that there is none.
	keys, err := m.keys()
	if err != nil {
		return nil, &Error{Code: InvalidState, Op: "find", VM: ref, Err: err}
	}
	if key, ok := m.nameOwner(ref); ok {
		return m.byKey(key)
	}
	if vm, err := m.VM(ref); err == nil {
		return vm, nil
	}
	var found []string
	for _, key := range keys {
		if key == ref {
			return m.byKey(key)
		}
		if strings.HasPrefix(key, ref) {
			found = append(found, key)
		}
	}
	switch len(found) {
	case 1:
		return m.byKey(found[0])
	case 0:
		return nil, missing("there is no VM of this name or id; `smartvm ps -a` lists those there are")
	}
	return nil, missing("%w", &AmbiguousError{Candidates: found})
}

// AmbiguousError says that several VMs' ids begin with what was asked for.
type AmbiguousError struct{ Candidates []string }

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%d VMs begin so: %s", len(e.Candidates), strings.Join(e.Candidates, ", "))
}

// keys lists the VMs below the data folder.
func (m *Manager) keys() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(m.options.DataDir, vmsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: these VMs are another user's; be that user, or choose another data folder (SMARTVM_DATA_DIR)", err)
	}
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			keys = append(keys, entry.Name())
		}
	}
	return keys, nil
}

// IDs lists the ids of the VMs that this manager made, sorted. List tells of all VMs there are.
func (m *Manager) IDs() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]string, 0, len(m.vms))
	for id := range m.vms {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Count returns how many VMs this manager made and has not removed.
func (m *Manager) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.vms)
}

// Remove takes a VM away, as VM.Remove does, and off the list. It stays on the list when that failed, so that it can be
// tried again.
func (m *Manager) Remove(ctx context.Context, id string, force bool) error {
	vm, err := m.VM(id)
	if err != nil {
		return err
	}
	if err := vm.Remove(ctx, force); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.vms[id] == vm {
		delete(m.vms, id)
	}
	return nil
}

// StopAll stops every running or paused VM that this manager made, all at once. One failure keeps no other VM from being
// stopped; the failures come back joined.
func (m *Manager) StopAll(ctx context.Context) error {
	return m.each(func(vm *VM) error {
		if !vm.State().Live() {
			return nil
		}
		return vm.Stop(ctx)
	})
}

// Close removes every VM that this manager made, stopping it in order first, but for those that are detached or
// to be kept (which are stopped), and empties
// the list. A VM whose removal failed stays on it. The manager can be used again afterwards.
func (m *Manager) Close(ctx context.Context) error {
	return m.each(func(vm *VM) error {
		if vm.create.stays() {
			if !vm.create.Detached && vm.State().Live() {
				if err := vm.Stop(ctx); err != nil {
					return err
				}
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.vms, vm.id)
			return nil
		}
		if err := vm.CleanUp(ctx); err != nil {
			return err
		}
		return m.Remove(ctx, vm.id, true)
	})
}

// each calls f for every VM in parallel and joins what went wrong.
func (m *Manager) each(f func(*VM) error) error {
	m.mu.Lock()
	vms := make([]*VM, 0, len(m.vms))
	for _, vm := range m.vms {
		vms = append(vms, vm)
	}
	m.mu.Unlock()
	failures := make([]error, len(vms))
	var wait sync.WaitGroup
	for i, vm := range vms {
		wait.Go(func() { failures[i] = f(vm) })
	}
	wait.Wait()
	return errors.Join(failures...)
}

// writer is how this program signs the records that it writes.
func (m *Manager) writer() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Path + " " + info.Main.Version
	}
	return "smartvm"
}

// snapshotsDir is where snapshots are that have a name.
func (m *Manager) snapshotsDir() string { return filepath.Join(m.options.DataDir, "snapshots") }

// newID returns a random UUID, version 4 (RFC 9562, section 5.4).
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program rather than return weak bytes
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}
