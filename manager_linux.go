package smartvm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Manager makes VMs and keeps the list of those that it made. It is safe for concurrent use. Making one touches neither
// the disk nor the network.
type Manager struct {
	options Options
	builds  builds

	mu  sync.Mutex
	vms map[string]*VM // by id
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
	return options
}

// CreateVM registers a VM in state Created; nothing is started and no file is touched. The configuration is copied. An
// empty id becomes a UUID (version 4). VMExists when the id is taken in this manager; a configuration is validated when
// the VM starts.
func (m *Manager) CreateVM(_ context.Context, config Config) (*VM, error) {
	config = *config.clone()
	if config.ID == "" {
		config.ID = newID()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.vms[config.ID]; taken {
		return nil, &Error{Code: VMExists, Op: "create", VM: config.ID, Err: errors.New("this manager has a VM of this id already; remove it first, or choose another id")}
	}
	vm := newVM(m.options, &m.builds, config)
	m.vms[config.ID] = vm
	return vm, nil
}

// VM returns the VM with this id, or VMNotFound.
func (m *Manager) VM(id string) (*VM, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	vm, ok := m.vms[id]
	if !ok {
		return nil, &Error{Code: VMNotFound, Op: "find", VM: id, Err: errors.New("this manager has no VM of this id")}
	}
	return vm, nil
}

// IDs lists the VMs' ids, sorted.
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

// Count returns how many VMs the manager has.
func (m *Manager) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.vms)
}

// Remove cleans a VM up and takes it off the list. A live one is refused (InvalidState) unless force is set, which stops
// it first. The VM stays on the list when its clean-up failed, so that it can be tried again.
func (m *Manager) Remove(ctx context.Context, id string, force bool) error {
	vm, err := m.VM(id)
	if err != nil {
		return err
	}
	if state := vm.State(); state.Live() && !force {
		return &Error{Code: InvalidState, Op: "remove", VM: id, Err: fmt.Errorf("the VM is %s; stop it first, or force", state)}
	}
	if err := vm.CleanUp(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.vms[id] == vm {
		delete(m.vms, id)
	}
	return nil
}

// StopAll stops every running or paused VM, all at once. One failure keeps no other VM from being stopped; the failures
// come back joined.
func (m *Manager) StopAll(ctx context.Context) error {
	return m.each(func(vm *VM) error {
		if !vm.State().Live() {
			return nil
		}
		return vm.Stop(ctx)
	})
}

// Close stops and cleans up every VM and empties the list. A VM whose clean-up failed stays on it. The manager can be
// used again afterwards.
func (m *Manager) Close(ctx context.Context) error {
	return m.each(func(vm *VM) error { return m.Remove(ctx, vm.ID(), true) })
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

// newID returns a random UUID, version 4 (RFC 9562, section 5.4).
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program rather than return weak bytes
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}
