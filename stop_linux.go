package smartvm

import (
	"context"
	"errors"
	"fmt"

	"smartvm/firecracker"
)

// Stop ends the VM: it asks the guest to shut down (our agent where it is up, else Ctrl-Alt-Del, which x86_64 alone has),
// then the VMM (SIGTERM), then leaves it no choice (SIGKILL), each with a limit. A paused guest cannot shut down, so its
// VMM is ended at once. A VM that is stopped already is left alone; from any other state than Running and Paused it is
// InvalidState. The drives stay until CleanUp.
func (vm *VM) Stop(ctx context.Context) error { return vm.stop(ctx, "stop", false) }

// Kill ends the VM's VMM at once (SIGKILL); the guest loses what it had not written. States as for Stop.
func (vm *VM) Kill(ctx context.Context) error { return vm.stop(ctx, "kill", true) }

func (vm *VM) stop(ctx context.Context, op string, now bool) error {
	if err := vm.acquire(ctx, op); err != nil {
		return err
	}
	defer vm.release()
	in, err := vm.require(op, Running, Paused, Stopped)
	if err != nil || vm.State() == Stopped {
		return err
	}
	return vm.stopInstance(ctx, op, in, now)
}

// stopInstance walks the ladder down and waits until everything around the process is undone.
func (vm *VM) stopInstance(ctx context.Context, op string, in *instance, now bool) error {
	ladder := firecracker.DefaultLadder(vm.options.Arch)
	switch {
	case now:
		ladder = firecracker.Kill()
	case vm.State() == Paused, vm.askAgent(ctx, in):
		ladder = ladder.WithoutGuest()
	}
	for i := range ladder {
		if ladder[i].Method == firecracker.ByCtrlAltDel {
			ladder[i].Limit = vm.options.ShutdownTimeout
		}
	}
	how, err := in.process.Stop(ctx, ladder)
	if err != nil {
		return vm.fail(op, VMMExited, fmt.Errorf("the VMM (pid %d) could not be ended: %w", in.process.PID(), err))
	}
	<-in.closed
	vm.setState(Stopped)
	vm.options.Logger.Info("VM stopped", "vm", vm.id, "by", how, "exit", in.process.Exit().String())
	if in.undone != nil {
		return vm.fail(op, VMMExited, in.undone)
	}
	return nil
}

// askAgent has the guest's agent shut the guest down and waits for the end. It reports whether the agent took the order: a
// guest that was asked and did not end is not asked again.
func (vm *VM) askAgent(ctx context.Context, in *instance) bool {
	if in.guest == nil {
		return false
	}
	select {
	case <-in.guest.up:
	default:
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, vm.options.ShutdownTimeout)
	defer cancel()
	if err := in.guest.agent.Shutdown(ctx); err != nil {
		return false
	}
	select {
	case <-in.process.Done():
	case <-ctx.Done():
	}
	return true
}

// CleanUp stops the VM if it lives and removes all that it has on the host: process, sockets, staged drives, folders. A
// VM in state Failed stays so, any other is Stopped afterwards. It can be called again when it failed, and does nothing
// when nothing is left. The VM stays registered with its manager.
func (vm *VM) CleanUp(ctx context.Context) error {
	const op = "clean up"
	if err := vm.acquire(ctx, op); err != nil {
		return err
	}
	defer vm.release()
	vm.mu.Lock()
	state, in, h := vm.stateLocked(), vm.live, vm.home
	vm.mu.Unlock()
	if in != nil {
		if state.Live() {
			if err := vm.stopInstance(ctx, op, in, false); err != nil {
				return err // the process may still use what would be removed
			}
		}
		<-in.closed
	}
	if h != nil {
		if err := h.steps.Unwind(ctx); err != nil {
			h.steps.Add("remove the folders", func(context.Context) error { return h.folder.remove() }) // for the next try
			return vm.fail(op, InvalidState, fmt.Errorf("left behind: %w", err))
		}
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.live, vm.home, vm.state = nil, nil, Stopped
	if state == Failed {
		vm.state = Failed
	}
	return nil
}

// Wait returns when the VM's VMM has ended and everything around it is undone, with how it ended; a VM without a VMM is
// NoClient. Only ctx bounds the wait.
func (vm *VM) Wait(ctx context.Context) (firecracker.Exit, error) {
	vm.mu.Lock()
	in := vm.live
	vm.mu.Unlock()
	if in == nil {
		return firecracker.Exit{}, &Error{Code: NoClient, Op: "wait", VM: vm.id, Err: errors.New("the VM has no VMM process; start it first")}
	}
	select {
	case <-in.closed:
		return in.process.Exit(), nil
	case <-ctx.Done():
		return firecracker.Exit{}, vm.fail("wait", InvalidState, fmt.Errorf("the VM still runs: %w", context.Cause(ctx)))
	}
}
