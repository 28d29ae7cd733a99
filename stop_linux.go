package smartvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"smartvm/firecracker"
)

// Stop ends the VM: it asks the guest to shut down (our agent where it is up, else Ctrl-Alt-Del, which x86_64 alone has),
// then the VMM (SIGTERM), then leaves it no choice (SIGKILL), each with a limit. A paused guest cannot shut down, so its
// VMM is ended at once. A VM that has ended already is left alone, and does not start again by its restart policy; one that
// was never started is InvalidState. The drives stay until CleanUp; a VM that is to be removed when it has ended is removed.
func (vm *VM) Stop(ctx context.Context) error {
	return vm.stop(ctx, byStop, vm.options.ShutdownTimeout)
}

// StopWithin is Stop for a guest that may take so long to shut down; 0 does not ask it.
func (vm *VM) StopWithin(ctx context.Context, grace time.Duration) error {
	return vm.stop(ctx, byStop, grace)
}

// Kill ends the VM's VMM at once (SIGKILL); the guest loses what it had not written. States as for Stop.
func (vm *VM) Kill(ctx context.Context) error { return vm.stop(ctx, byKill, 0) }

func (vm *VM) stop(ctx context.Context, op string, grace time.Duration) error {
	vm.mu.Lock()
	published := vm.published
	vm.mu.Unlock()
	if !published {
		return vm.stateError(op, vm.State(), []State{Running, Paused})
	}
	h, err := vm.acquire(ctx, op)
	if err != nil {
		return err
	}
	defer h.release()
	if h.look().state() == Created {
		return vm.stateError(op, Created, []State{Running, Paused})
	}
	if err := h.stop(ctx, op, grace); err != nil || !h.rec.Remove {
		return err
	}
	return vm.wrap(op, h.remove())
}

// stop ends a VM that lives, and makes sure that one which has ended stays down.
func (h *held) stop(ctx context.Context, op string, grace time.Duration) error {
	vm, hook := h.vm, h.vm.options.hook
	if !h.look().state().Live() {
		if err := h.settle(ctx); err != nil {
			return vm.fail(op, InvalidState, err)
		}
		return vm.wrap(op, h.stayDown(op))
	}
	in, err := h.instance()
	if err != nil {
		if errors.Is(err, os.ErrProcessDone) || errors.Is(err, errVMMGone) { // this very moment
			return vm.wrap(op, h.settle(ctx))
		}
		return vm.fail(op, VMMExited, err)
	}
	h.jour.Ending = op
	if err := hook.take(stepStopNote, h.note); err != nil {
		return vm.fail(op, InvalidState, err)
	}
	var how firecracker.Method
	err = hook.take(stepStopVMM, func() (err error) {
		how, err = h.descend(ctx, in, h.ladder(ctx, in, op, grace))
		return err
	})
	if err != nil {
		h.jour.Ending = "" // whoever ends it later is another
		return vm.fail(op, VMMExited, errors.Join(fmt.Errorf("the VMM (pid %d) could not be ended: %w", in.process.PID(), err), h.note()))
	}
	if err := h.settle(ctx); err != nil {
		return vm.fail(op, VMMExited, err)
	}
	vm.options.Logger.Info("VM stopped", "vm", vm.id, "by", how)
	return nil
}

// stayDown notes that a call wants the VM to be down, so that no restart that is waiting brings it up again.
func (h *held) stayDown(op string) error {
	if h.rec.Restart.Mode == RestartNever {
		return nil
	}
	note, err := readExit(h.folder)
	if err != nil || note == nil || note.By != "" {
		return err
	}
	note.By = op
	return writeExit(h.folder, *note)
}

// ladder is how to end the VM. The guest's agent is asked here already.
func (h *held) ladder(ctx context.Context, in *instance, op string, grace time.Duration) firecracker.Ladder {
	if op == byKill {
		return firecracker.Kill()
	}
	ladder := firecracker.DefaultLadder(h.vm.options.Arch)
	if h.jour.PIDNS {
		ladder = ladder.Without(firecracker.BySIGTERM)
	}
	if grace <= 0 || h.jour.State == journalPaused || h.askAgent(ctx, in, grace) {
		return ladder.WithoutGuest()
	}
	for i := range ladder {
		if ladder[i].Method == firecracker.ByCtrlAltDel {
			ladder[i].Limit = grace
		}
	}
	return ladder
}

// descend ends the VM by the ladder. Limits on disks hold as long as the guest is asked.
func (h *held) descend(ctx context.Context, in *instance, ladder firecracker.Ladder) (firecracker.Method, error) {
	if rest := ladder.WithoutGuest(); h.jour.Cgroup != "" && len(rest) < len(ladder) {
		how, err := in.process.Stop(ctx, ladder[:len(ladder)-len(rest)])
		if err == nil || ctx.Err() != nil {
			return how, err
		}
		ladder = rest
	}
	letDisksGo(h.jour.Cgroup)
	return in.process.Stop(ctx, ladder)
}

// askAgent has the guest's agent shut the guest down and waits for the end. It reports whether the agent took the order: a
// guest that was asked and did not end is not asked again.
func (h *held) askAgent(ctx context.Context, in *instance, grace time.Duration) bool {
	if h.rec.Home == nil || h.rec.Home.Seen.Guest == nil {
		return false
	}
	if _, err := os.Lstat(filepath.Join(h.folder.runtime, readyName)); err != nil {
		return false
	}
	agent := agentAt(h.rec.Home)
	if h.rec.Command != nil {
		// The guest ends with its command. One that ends by SIGTERM can still say how; a shutdown gives it no time for that.
		termCtx, cancel := context.WithTimeout(ctx, grace/2)
		defer cancel()
		if agent.SignalMain(termCtx, int(syscall.SIGTERM)) == nil && in.process.AwaitEnd(termCtx) == nil {
			return true
		}
		grace /= 2
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := agent.Shutdown(ctx); err != nil {
		return false
	}
	_ = in.process.AwaitEnd(ctx)
	return true
}

// CleanUp stops the VM if it lives and removes all that it has on the host but its record: process, sockets, staged
// drives, logs. A VM in state Failed stays so, any other is Stopped afterwards. It can be called again when it failed, and
// does nothing when nothing is left. The VM stays registered: it can be started again, with new drives.
func (vm *VM) CleanUp(ctx context.Context) error {
	const op = "clean up"
	h, ok, err := vm.existing(ctx, op)
	if !ok || err != nil {
		return err
	}
	defer h.release()
	if err := h.stopForGood(ctx, op); err != nil {
		return err
	}
	if h.rec.Instance == 0 {
		return nil
	}
	h.rec.Home = nil
	unsaved := h.save()
	errs := []error{h.settle(ctx)}
	for _, log := range []string{consoleLog, vmmLog, agentLog} {
		for _, file := range logFiles(h.folder.path(log)) {
			errs = append(errs, removeIfThere(file))
		}
	}
	if unsaved != nil { // a full disk has room now
		errs = append(errs, h.save())
	}
	if err := errors.Join(errs...); err != nil {
		return vm.fail(op, InvalidState, fmt.Errorf("left behind: %w", err))
	}
	return nil
}

// existing takes the lock of a VM that has a folder.
func (vm *VM) existing(ctx context.Context, op string) (h *held, ok bool, err error) {
	vm.mu.Lock()
	there := vm.published && !vm.gone
	vm.mu.Unlock()
	if !there {
		return nil, false, nil
	}
	h, err = vm.acquire(ctx, op)
	if errors.Is(err, VMNotFound) {
		return nil, false, nil
	}
	return h, err == nil, err
}

// stopForGood ends the VM before what it uses is taken from it.
func (h *held) stopForGood(ctx context.Context, op string) error {
	grace := h.vm.options.ShutdownTimeout
	if err := h.stop(ctx, byStop, grace); err != nil {
		return h.vm.fail(op, InvalidState, err)
	}
	return nil
}

// Remove takes the VM away with all that it has, its record included; its snapshots stay. One that lives is refused
// (InvalidState) unless force is set, which kills it first. A VM that is gone already is no error.
func (vm *VM) Remove(ctx context.Context, force bool) error {
	const op = "remove"
	h, ok, err := vm.existing(ctx, op)
	if err != nil && force && !errors.Is(err, VMLocked) {
		return vm.discard(ctx, err)
	}
	if !ok || err != nil {
		return err
	}
	defer h.release()
	if state := h.look().state(); state.Live() && !force {
		return vm.fail(op, InvalidState, fmt.Errorf("the VM is %s; stop it first, or force", state))
	}
	if err := h.stop(ctx, byKill, 0); err != nil {
		return err
	}
	if err := h.remove(); err != nil {
		return vm.fail(op, InvalidState, fmt.Errorf("left behind: %w; `smartvm gc` tries again", err))
	}
	return nil
}

// signalOf is a signal's number as the kernel's type.
func signalOf(number int) syscall.Signal { return syscall.Signal(number) }
