package smartvm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"smartvm/firecracker"
)

// Start boots the VM and returns when its vCPUs run, which says nothing about the guest yet (see [VM.Agent]). It starts
// from Created, from Stopped (with the drives as they were left, unless CleanUp took them) and from Failed after a
// clean-up.
//
// A configuration that is refused (InvalidConfig) leaves the state as it was. A failure at any later step undoes all that
// was done, leaves the state Failed, and is returned with the code of the step: DriveStageFailed, InsecurePath,
// SocketTimeout, APITimeout, UnsafeVersion, UnsupportedField, SocketRequestFailed or APIError.
func (vm *VM) Start(ctx context.Context) error {
	const op = "start"
	if err := vm.acquire(ctx, op); err != nil {
		return err
	}
	defer vm.release()
	if err := vm.mayStart(op); err != nil {
		return err
	}
	if err := vm.check(op); err != nil {
		return err
	}
	binary, err := vm.options.vmm()
	if err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	return vm.bringUp(ctx, op, binary, vm.makeHome, func(in *instance, h *home) error {
		vmm := vmmConfig(&h.seen)
		if err := sendObservers(ctx, in.client, &h.seen, vmm); err != nil {
			return err
		}
		if err := sendDevices(ctx, in.client, vmm); err != nil {
			return err
		}
		return in.client.InstanceStart(ctx)
	}, Running)
}

// check validates the configuration and looks at the files in it.
func (vm *VM) check(op string) error {
	if err := vm.given.validate(vm.options.Arch); err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	if err := vm.given.checkFiles(vm.options.Arch); err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	return nil
}

// mayStart reports whether nothing is left that a start would stumble over.
func (vm *VM) mayStart(op string) error {
	if _, err := vm.require(op, Created, Stopped, Failed); err != nil {
		return err
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.stateLocked() == Failed && vm.home != nil {
		return &Error{Code: InvalidState, Op: op, VM: vm.id, Err: errors.New("the VM is in state error and not cleaned up; call CleanUp first")}
	}
	if vm.home != nil && vm.home.restored {
		return &Error{Code: InvalidState, Op: op, VM: vm.id, Err: errors.New("the VM was restored from a snapshot and cannot boot; restore the snapshot again in a new VM")}
	}
	return nil
}

// bringUp is the way of every start and restore: a home (the one that is there, or a new one), a VMM in it, and what
// configure tells that VMM. An error walks all of it back.
func (vm *VM) bringUp(ctx context.Context, op, binary string, newHome func(context.Context) (*home, error), configure func(*instance, *home) error, then State) (err error) {
	vm.setState(Configuring)
	vm.mu.Lock()
	h, last := vm.home, vm.live
	vm.mu.Unlock()
	if last != nil {
		<-last.closed // its process has ended, but what stood around it has the names that the next one needs
	}
	fresh := h == nil
	defer func() {
		if err != nil {
			vm.options.Logger.Info("VM did not start", "vm", vm.id, "error", err)
			vm.setState(Failed)
		}
	}()
	if fresh {
		if h, err = newHome(ctx); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				vm.logUndo(h.steps.Unwind(ctx))
			}
		}()
	}
	vm.mu.Lock()
	vm.config = *h.onHost.clone()
	vm.mu.Unlock()
	in, err := vm.startVMM(ctx, op, h, binary)
	if err != nil {
		return err
	}
	if err := configure(in, h); err != nil {
		err = vm.vmmError(ctx, op, in, err)
		vm.logUndo(in.steps.Unwind(ctx))
		return err
	}
	vm.mu.Lock()
	vm.home, vm.live, vm.state = h, in, then
	vm.mu.Unlock()
	go in.watch()
	vm.options.Logger.Info("VM started", "vm", vm.id, "pid", in.process.PID(), "vmm", in.client.Version().String())
	return nil
}

// logUndo reports what a walk back could not do: the caller gets the error that made it necessary.
func (vm *VM) logUndo(err error) {
	if err != nil {
		vm.options.Logger.Error("undo is incomplete", "vm", vm.id, "error", err)
	}
}

// endGrace is how long a broken connection may precede the end of the VMM that broke it.
const endGrace = 500 * time.Millisecond

// startError gives a failed start of the VMM's process its code.
func (vm *VM) startError(op string, err error) error {
	code := SocketTimeout
	var (
		start  *firecracker.StartError
		unsafe *firecracker.UnsafeVersionError
		old    *firecracker.UnsupportedVersionError
	)
	switch {
	case errors.As(err, &unsafe), errors.As(err, &old):
		code = UnsafeVersion
	case errors.As(err, &start) && start.Stage == firecracker.StageAPI:
		code = APITimeout
	}
	return vm.fail(op, code, err)
}

// vmmError gives what the VMM's client returned its code. For a connection that broke, a VMM that ended meanwhile is the
// better explanation. What is neither a reply nor the connection's was refused before anything was sent.
func (vm *VM) vmmError(ctx context.Context, op string, in *instance, err error) error {
	var (
		coded       *Error
		refused     *firecracker.APIError
		unsupported *firecracker.UnsupportedFieldError
		broken      *firecracker.TransportError
	)
	switch {
	case errors.As(err, &coded):
		return vm.fail(op, coded.Code, err)
	case errors.As(err, &refused):
		return vm.fail(op, APIError, err)
	case errors.As(err, &unsupported):
		return vm.fail(op, UnsupportedField, err)
	case !errors.As(err, &broken):
		return vm.fail(op, InvalidConfig, err)
	}
	// A connection breaks a moment before the kernel reports the end of the process behind it.
	grace := time.NewTimer(endGrace)
	defer grace.Stop()
	select {
	case <-in.process.Done():
		return vm.fail(op, VMMExited, fmt.Errorf("%w: %w", in.exitError(), err))
	case <-grace.C:
		return vm.fail(op, SocketRequestFailed, err)
	case <-ctx.Done():
		return vm.fail(op, SocketRequestFailed, err)
	}
}
