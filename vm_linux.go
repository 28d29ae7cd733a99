package smartvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"smartvm/firecracker"
	"smartvm/record"
)

// State is where a VM is in its life.
type State string

// The states. A VM goes created → configuring → running ⇄ paused → stopped, or to error from anywhere.
const (
	Created     State = "created"     // made, never started
	Configuring State = "configuring" // a start or a restore is under way
	Running     State = "running"     // the guest runs
	Paused      State = "paused"      // the guest stands still
	Stopped     State = "stopped"     // ended in an orderly way: stopped by a call, or the guest rebooted
	Failed      State = "error"       // a start failed, the VMM ended by itself, or nobody knows how it ended
)

// Live reports whether the state has a VMM process.
func (s State) Live() bool { return s == Running || s == Paused }

// VM is one virtual machine: a handle, of which there may be several, in this process and in others. What a VM is and does
// stands in its folder and is asked of its processes, never remembered here. It is safe for concurrent use: operations
// that change the VM wait for each other, whichever process they are in; questions do not wait. A context bounds the call
// it is given to and nothing else; a VM lives until it is stopped.
type VM struct {
	id      string
	key     string
	manager *Manager
	options Options
	builds  *builds
	create  CreateOptions

	turn chan struct{} // holds one token: whoever took it makes the VM's folder

	mu        sync.Mutex   // guards what follows; never held while waiting
	config    Config       // in force: with the staged drives' paths once they are known
	given     Config       // as the caller gave it
	published bool         // the VM's folder has been made
	gone      bool         // and is removed
	starting  bool         // by this handle, and the folder may not be there yet
	live      *instance    // the VMM that was talked to last
	bound     *monitorLink // of a VM that ends with this process
	watch     func([]byte) // OnConsole's
	unwatch   func()       // ends the following of the console
}

func newVM(m *Manager, config Config, create CreateOptions) *VM {
	config.applyDefaults()
	vm := &VM{id: config.ID, key: keyOf(config.ID), manager: m, options: m.options, builds: &m.builds, create: create, turn: make(chan struct{}, 1)}
	vm.given, vm.config = *config.clone(), config
	return vm
}

// adopt returns a handle of a VM that is there.
func adopt(m *Manager, rec vmRecord) *VM {
	vm := newVM(m, rec.Config, CreateOptions{})
	vm.published = true
	// How a VM's VMM is run is the VM's own, whoever calls, and stays what it was when the VM was made.
	o := &vm.options
	o.Arch, o.Emulate, o.VMMArgs, o.AllowVersions = rec.VMM.Arch, rec.VMM.Emulate, rec.VMM.Args, rec.VMM.AllowVersions
	o.WritableDrivesInPlace, o.NoJail = rec.VMM.WritableDrivesInPlace, !rec.VMM.Jailed
	if rec.VMM.ShutdownTimeout > 0 {
		o.ShutdownTimeout = rec.VMM.ShutdownTimeout
	}
	vm.take(rec)
	return vm
}

// take has the handle follow the record.
func (vm *VM) take(rec vmRecord) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if rec.Home != nil {
		vm.config = *rec.Home.OnHost.clone()
	}
}

// ID returns the VM's id as it was given.
func (vm *VM) ID() string { return vm.id }

// Key returns the name by which everything of the VM is found on the host: a function of the id.
func (vm *VM) Key() string { return vm.key }

// Folder returns the VM's folder: what lasts of it. It is made by the first start, or by Save.
func (vm *VM) Folder() string { return vm.options.folderOf(vm.key).data }

// Config returns a copy of the configuration in force: defaults filled in and, from the start on, with the paths of the
// staged drives, also after a start that failed.
func (vm *VM) Config() Config {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return *vm.config.clone()
}

// State tells where the VM is. It is read from the VM's folder, and of the VMM's process the kernel is asked.
func (vm *VM) State() State {
	vm.mu.Lock()
	published, starting := vm.published, vm.starting
	vm.mu.Unlock()
	if !published {
		if starting {
			return Configuring
		}
		return Created
	}
	return vm.look().state()
}

// RuntimeDir returns the folder of the VM's sockets, "" before the start and after the clean-up.
func (vm *VM) RuntimeDir() string {
	if look := vm.look(); look.rec.Home != nil {
		return look.rec.Runtime
	}
	return ""
}

// Drives tells how the drives were staged: nothing before the start and after the clean-up.
func (vm *VM) Drives() []StagedDrive {
	if look := vm.look(); look.rec.Home != nil {
		return slices.Clone(look.rec.Home.Drives)
	}
	return nil
}

// tellWait is how long a call waits for another one before it says so.
const tellWait = time.Second

// acquire takes the VM's lock, and makes the VM's folder when there is none yet. While another process has the lock it
// waits, as long as ctx allows, and after a while says so to the logger; then it is VMLocked. VMNotFound when the VM is gone.
func (vm *VM) acquire(ctx context.Context, op string) (*held, error) {
	if h, err := vm.publish(ctx, op); h != nil || err != nil {
		return h, err
	}
	f := vm.options.folderOf(vm.key)
	var tell *time.Timer // most calls are over before anybody would ask what is going on
	lock, err := record.Acquire(ctx, f.path(lockName), op, func(who record.Holder) {
		if tell != nil {
			tell.Stop()
		}
		tell = time.AfterFunc(tellWait, func() {
			vm.options.Logger.Warn("waiting for another call on this VM", "vm", vm.id, "call", who.String())
		})
	})
	if tell != nil {
		tell.Stop()
	}
	var busy *record.BusyError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, vm.lost(op)
	case errors.As(err, &busy):
		return nil, vm.fail(op, VMLocked, fmt.Errorf("another call on this VM did not end in time: %v: %w", busy.Holder, err))
	case err != nil:
		return nil, vm.fail(op, InvalidState, err)
	}
	h := &held{vm: vm, folder: f, lock: lock}
	if err := h.load(); err != nil {
		return nil, errors.Join(vm.fail(op, InvalidState, err), lock.Release())
	}
	return h, nil
}

// lost notes that the VM's folder is no longer there.
func (vm *VM) lost(op string) error {
	vm.mu.Lock()
	vm.gone = true
	vm.mu.Unlock()
	return vm.fail(op, VMNotFound, errors.New("the VM was removed"))
}

// load reads what the lock guards.
func (h *held) load() (err error) {
	if h.file, h.rec, err = readRecord(h.folder); err != nil {
		return explainRecord(err)
	}
	h.folder = h.folder.of(h.rec)
	h.vm.take(h.rec)
	if h.journal, h.jour, err = readJournal(h.folder.runtime); err != nil {
		var damaged *record.DamagedError
		if !errors.As(err, &damaged) {
			return explainRecord(err)
		}
		// Nobody but us writes there, and it is memory: a write was cut off by a full file system. What it named is found
		// by the folder.
		h.vm.options.Logger.Warn("the VM's journal is damaged", "vm", h.vm.id, "error", err)
		h.journal, h.jour = &record.Record{}, vmJournal{Instance: h.rec.Instance, State: journalStarting}
	}
	h.jour.Ending = "" // a call that was to end the VM, and was killed over it
	return nil
}

// explainRecord says what to do about a record that cannot be used.
func explainRecord(err error) error {
	var (
		damaged *record.DamagedError
		newer   *record.NewerError
	)
	switch {
	case errors.As(err, &damaged):
		return fmt.Errorf("%w; nothing in it is trusted, and nothing was touched: `smartvm rm -f` removes the VM, docs/lifecycle.md tells what to do by hand", err)
	case errors.As(err, &newer):
		return fmt.Errorf("%w; use that version of smartvm", err)
	}
	return err
}

func (h *held) release() {
	if err := h.lock.Release(); err != nil {
		h.vm.options.Logger.Warn("the VM's lock", "vm", h.vm.id, "error", err)
	}
}

// require checks the VM's state. The error is InvalidState, or VMMExited when the VMM ended by itself meanwhile.
func (h *held) require(ctx context.Context, op string, wanted ...State) error {
	look := h.look()
	state := look.state()
	if slices.Contains(wanted, state) {
		return nil
	}
	if h.journal != nil && h.jour.State != journalStarting && !state.Live() {
		return h.vm.fail(op, VMMExited, h.exitNote(ctx).cause())
	}
	if note := look.note(); state == Failed && note != nil && note.Error == "" { // and it was settled
		return h.vm.fail(op, VMMExited, note.cause())
	}
	return h.vm.stateError(op, state, wanted)
}

func (vm *VM) stateError(op string, state State, wanted []State) error {
	return vm.fail(op, InvalidState, fmt.Errorf("the VM is %s, and must be %s for this", state, listStates(wanted)))
}

// instance returns the VM's VMM, to talk to it.
func (h *held) instance() (*instance, error) { return h.vm.attach(h.rec, h.jour) }

// instance is a VMM that runs, or ran.
type instance struct {
	number  uint64
	binary  string
	process *firecracker.Process
	client  *firecracker.Client
}

// attach returns the VMM that a journal names. One that has ended is an error that wraps os.ErrProcessDone.
func (vm *VM) attach(rec vmRecord, jour vmJournal) (*instance, error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.live != nil && vm.live.number == jour.Instance && vm.live.process.PID() == jour.VMM.PID {
		return vm.live, nil
	}
	process, err := firecracker.Attach(firecracker.Attachment{
		PID: jour.VMM.PID, Path: rec.VMM.Binary, Socket: vm.options.folderOf(vm.key).of(rec).seen(apiSocket), AllowVersions: rec.VMM.AllowVersions,
		Check: func() error {
			if !jour.VMM.Alive() {
				return errVMMGone
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	if vm.live != nil {
		vm.live.process.Release()
	}
	vm.live = &instance{number: jour.Instance, binary: rec.VMM.Binary, process: process, client: process.Client()}
	return vm.live, nil
}

var errVMMGone = errors.New("the VMM has ended")

// fail gives an error of this VM a code. An error that has one already keeps it.
func (vm *VM) fail(op string, code Code, err error) error {
	var coded *Error
	if errors.As(err, &coded) {
		if coded.VM == "" && coded.Op == "" {
			return &Error{Code: coded.Code, Op: op, VM: vm.id, Err: coded.Err}
		}
		return err
	}
	return &Error{Code: code, Op: op, VM: vm.id, Err: err}
}

func listStates(states []State) string {
	text := string(states[0])
	for _, state := range states[1:] {
		text += " or " + string(state)
	}
	return text
}
