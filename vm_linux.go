package smartvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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
	Failed      State = "error"       // a start failed, or the VMM ended by itself
)

// Live reports whether the state has a VMM process.
func (s State) Live() bool { return s == Running || s == Paused }

// VM is one virtual machine. It is safe for concurrent use: operations that change it wait for each other, questions do
// not wait. A context bounds the call it is given to and nothing else; a VM lives until it is stopped.
type VM struct {
	id      string
	key     string
	options Options
	builds  *builds

	turn chan struct{} // holds one token: whoever took it changes the VM

	mu     sync.Mutex // guards what follows; never held while waiting
	config Config     // in force: with the staged drives' paths once they are known
	given  Config     // as the caller gave it
	state  State
	home   *home     // nil before the first start and after a clean-up
	live   *instance // the latest VMM, also after it ended; nil before a start and after a clean-up
	watch  func([]byte)
}

func newVM(options Options, builds *builds, config Config) *VM {
	config.applyDefaults()
	vm := &VM{id: config.ID, key: keyOf(config.ID), options: options, builds: builds, turn: make(chan struct{}, 1), state: Created}
	vm.given, vm.config = *config.clone(), config
	return vm
}

// ID returns the VM's id as it was given.
func (vm *VM) ID() string { return vm.id }

// Key returns the name by which everything of the VM is found on the host: a function of the id.
func (vm *VM) Key() string { return vm.key }

// Config returns a copy of the configuration in force: defaults filled in and, from the start on, with the paths of the
// staged drives, also after a start that failed.
func (vm *VM) Config() Config {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return *vm.config.clone()
}

// State tells where the VM is. A VMM that ended by itself is noticed here: its process is asked, not memory.
func (vm *VM) State() State {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.stateLocked()
}

func (vm *VM) stateLocked() State {
	if vm.live == nil || !vm.state.Live() {
		return vm.state
	}
	select {
	case <-vm.live.process.Done():
		if exit := vm.live.process.Exit(); exit.Code != 0 || exit.Signal != 0 {
			return Failed
		}
		return Stopped
	default:
		return vm.state
	}
}

// RuntimeDir returns the folder of the VM's sockets, "" before the start and after the clean-up.
func (vm *VM) RuntimeDir() string {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.home == nil {
		return ""
	}
	return vm.home.folder.runtime
}

// OnConsole has f called with what the guest and the VMM print from now on, one call at a time and in order; nil ends it.
// f must be quick and must not keep the slice. The bytes are the guest's: untrusted.
func (vm *VM) OnConsole(f func([]byte)) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.watch = f
}

func (vm *VM) toConsole(p []byte) {
	vm.mu.Lock()
	f := vm.watch
	vm.mu.Unlock()
	if f != nil {
		f(p)
	}
}

// Drives tells how the drives were staged: nothing before the start and after the clean-up.
func (vm *VM) Drives() []StagedDrive {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.home == nil {
		return nil
	}
	return slices.Clone(vm.home.drives)
}

// acquire takes the VM's turn, or gives up with the context.
func (vm *VM) acquire(ctx context.Context, op string) error {
	select {
	case vm.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return vm.fail(op, InvalidState, fmt.Errorf("another call on this VM did not end in time: %w", context.Cause(ctx)))
	}
}

func (vm *VM) release() { <-vm.turn }

// require returns the VM's instance when the VM is in one of the wanted states, or InvalidState.
func (vm *VM) require(op string, wanted ...State) (*instance, error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	state := vm.stateLocked()
	if slices.Contains(wanted, state) {
		return vm.live, nil
	}
	if vm.state.Live() && !state.Live() {
		return nil, &Error{Code: VMMExited, Op: op, VM: vm.id, Err: vm.live.exitError()}
	}
	return nil, &Error{Code: InvalidState, Op: op, VM: vm.id, Err: fmt.Errorf("the VM is %s, and must be %s for this", state, listStates(wanted))}
}

func (vm *VM) setState(state State) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.state = state
}

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
