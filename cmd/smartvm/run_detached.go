//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"smartvm"
)

// detach starts the VM and leaves it.
func (r *vmRun) detach(ctx context.Context) (err error) {
	if r.vm, err = r.preparation.detached(ctx); err != nil {
		return err
	}
	if r.flags.dryRun {
		return r.printPlan(ctx)
	}
	r.stage = stageStart
	r.progress.step("starting …")
	if err := r.vm.Start(ctx); err != nil {
		// Nobody would look for what never ran, and its name would be taken.
		return errors.Join(err, r.vm.Remove(context.WithoutCancel(ctx), true))
	}
	r.stage = stageBoot
	// Whoever asked for the VM gets its id in any case: from here on it is there.
	r.progress.clear()
	if _, err := fmt.Fprintln(r.out, r.vm.ID()); err != nil {
		return &failure{what: fmt.Sprintf("the VM %s runs, and its id could not be printed", r.vm.ID()), err: err}
	}
	r.progress.step("booting …")
	if err := awaitGuest(ctx, r.vm, r.flags.wait); err != nil || len(r.flags.command) == 0 || r.flags.wait == waitNone {
		return err
	}
	r.stage = stageCommand
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("it was not started within %v", bootTimeout))
	defer cancel()
	err = r.vm.AwaitCommand(ctx)
	var refused *smartvm.CommandError
	if errors.As(err, &refused) {
		return &failure{what: fmt.Sprintf("%q was not started in the guest", r.flags.command[0]), stage: r.stage, err: refused, code: refused.Exit.ExitCode()}
	}
	return err
}

func (r *vmRun) printPlan(ctx context.Context) error {
	plan, err := r.vm.Plan(ctx)
	if err != nil {
		return err
	}
	for _, note := range plan.Notes {
		r.progress.say("%s", note)
	}
	return writeJSON(r.out, struct {
		ID   string `json:"id"`
		Name string `json:"name,omitempty"`
		smartvm.Plan
		Command []string `json:"command,omitempty"`
	}{r.vm.ID(), r.flags.name, plan, r.flags.command})
}

// openConsole sends the guest's console to --console's file and, when there is no command whose output could be shown,
// to the standard output.
func (r *vmRun) openConsole() (err error) {
	if r.flags.console != "" {
		if r.console, err = os.OpenFile(r.flags.console, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); err != nil {
			return fmt.Errorf("--console: %w", err)
		}
	}
	show := len(r.flags.command) == 0
	if r.console == nil && !show {
		return nil
	}
	r.vm.OnConsole(func(p []byte) {
		if r.console != nil {
			r.console.Write(p) // a full disk costs the log, not the run
		}
		if show {
			r.out.Write(p)
		}
	})
	return nil
}
