package smartvm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"smartvm/firecracker"
)

// The pause before a restart doubles from the first to the longest; a run that was as long as steadyRun begins anew.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = time.Minute
	steadyRun    = 10 * time.Second
)

// Wait returns when the VM's latest run has ended and everything around it is undone, with how it ended. A VM that was
// never started is NoClient. Only ctx bounds the wait. A VM that is to be removed when it has ended is gone then.
func (vm *VM) Wait(ctx context.Context) (firecracker.Exit, error) {
	note, err := vm.WaitEnd(ctx)
	return note.exit(), err
}

// WaitEnd is Wait with all that is known of the end.
func (vm *VM) WaitEnd(ctx context.Context) (ExitNote, error) {
	const op = "wait"
	vm.mu.Lock()
	published := vm.published
	vm.mu.Unlock()
	look := vm.look()
	if !published || look.err == nil && look.rec.Instance == 0 && !look.active {
		return ExitNote{}, vm.fail(op, NoClient, errors.New("the VM has no VMM process; start it first"))
	}
	if look.err != nil {
		return ExitNote{}, vm.lost(op)
	}
	if look.active && look.jour.State == journalStarting { // somebody brings it up: with the lock comes the outcome
		h, err := vm.acquire(ctx, op)
		if err != nil {
			return ExitNote{}, err
		}
		look = h.look()
		h.release()
	}
	if look.alive {
		in, err := vm.attach(look.rec, look.jour)
		if err == nil {
			if err := in.process.AwaitEnd(ctx); err != nil {
				return ExitNote{}, vm.fail(op, InvalidState, fmt.Errorf("the VM still runs: %w", err))
			}
		}
	}
	instance := look.rec.Instance
	if look.active {
		instance = look.jour.Instance
	}
	note := noteOf(ctx, look.folder, instance)
	h, err := vm.acquire(ctx, op)
	if errors.Is(err, VMNotFound) {
		return note, nil
	}
	if err != nil {
		return note, err
	}
	defer h.release()
	if h.rec.Instance != instance { // it was started again meanwhile
		return note, nil
	}
	if err := h.settle(ctx); err != nil {
		return note, vm.fail(op, InvalidState, err)
	}
	if note.Unknown {
		note = noteOf(ctx, look.folder, instance)
	}
	if h.rec.Remove {
		return note, vm.wrap(op, h.remove())
	}
	return note, nil
}

// Settle puts a VM in order whose run has ended, whoever was there: it removes what the run left, and the VM itself when
// that was asked for; else it starts the VM again where its restart policy says so, for which it may wait up to a minute.
// `smartvm settle` calls it, which the supervisor runs. A VM that lives is left alone.
func (vm *VM) Settle(ctx context.Context) error {
	const op = "settle"
	for {
		h, err := vm.acquire(ctx, op)
		if err != nil {
			return err
		}
		pause, again, err := h.afterEnd(ctx)
		instance := h.rec.Instance
		h.release()
		if err != nil || !again {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return vm.fail(op, InvalidState, fmt.Errorf("the VM was not started again: %w", context.Cause(ctx)))
		}
		if err := vm.startAgain(ctx, instance); err == nil {
			return nil
		}
		// A start that failed counts as a run that did.
	}
}

// afterEnd does what is to be done at the end of a run, and tells whether the VM is to be started again.
func (h *held) afterEnd(ctx context.Context) (pause time.Duration, again bool, err error) {
	vm := h.vm
	if h.look().state().Live() {
		return 0, false, nil
	}
	if err := h.settle(ctx); err != nil {
		return 0, false, vm.fail("settle", InvalidState, err)
	}
	if h.rec.Instance == 0 {
		return 0, false, nil
	}
	if h.rec.Remove {
		return 0, false, h.remove()
	}
	note, err := readExit(h.folder)
	if err != nil || note == nil || note.Instance != h.rec.Instance || note.By != "" {
		return 0, false, err
	}
	if !h.rec.Restart.wants(*note, h.rec.Restarts) {
		return 0, false, nil
	}
	if note.At.Sub(h.rec.StartedAt) >= steadyRun {
		h.rec.Restarts = 0
	}
	pause = min(firstPause<<min(h.rec.Restarts, 20), longestPause)
	h.rec.Restarts++
	return pause, true, h.save()
}

// wants tells whether a VM that ended so starts again, after so many restarts.
func (r Restart) wants(note ExitNote, restarts int) bool {
	switch r.Mode {
	case RestartAlways:
		return true
	case RestartOnFailure:
		return (note.failed() || note.ExitCode() != 0) && (r.Max == 0 || restarts < r.Max)
	}
	return false
}

// Restart ends the VM as StopWithin does and boots it again, with its drives as they are, while no other call comes in
// between. A VM that does not run is started. The guest boots: see Start for what can go wrong.
func (vm *VM) Restart(ctx context.Context, grace time.Duration) error {
	const op = "restart"
	h, p, err := vm.prepareStart(ctx, op)
	if err != nil {
		return err
	}
	defer vm.markStarting()()
	defer h.release()
	defer p.monitor.giveBack()
	if h.look().state() != Created {
		if err := h.stop(ctx, byStop, grace); err != nil {
			return err
		}
	}
	h.rec.Restarts = 0
	return h.start(ctx, op, p)
}

// startAgain starts the VM by its policy, unless somebody has acted on it since.
func (vm *VM) startAgain(ctx context.Context, instance uint64) error {
	const op = "restart"
	h, err := vm.acquire(ctx, op)
	if err != nil {
		return nil
	}
	defer h.release()
	note, err := readExit(h.folder)
	if err != nil || note == nil || note.By != "" || h.rec.Instance != instance || h.look().state().Live() {
		return nil
	}
	binary, err := executable(h.rec.VMM.Binary)
	if err != nil {
		return err
	}
	early, err := vm.startMonitor()
	if err != nil {
		return err
	}
	defer early.giveBack()
	return h.start(ctx, op, prepared{binary, early})
}
