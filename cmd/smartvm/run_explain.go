//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"smartvm"
	"smartvm/guest"
)

// explain turns what ended the run into an exit code, or into words.
func (r *vmRun) explain(ctx context.Context, err error) error {
	var (
		code    exitCode
		told    *failure
		refused *guest.StartError
	)
	if err == nil || errors.As(err, &code) {
		return err
	}
	if errors.Is(context.Cause(ctx), errTimeout) {
		return &failure{what: fmt.Sprintf("the VM was ended: --timeout of %v is over", r.flags.timeout), stage: r.stage, err: r.lateFor(), log: r.flags.console, code: exitTimeout}
	}
	if err = interruptedOr(ctx, err); errors.As(err, &code) || errors.As(err, &told) {
		return err
	}
	f := &failure{stage: r.stage, err: err, log: r.flags.console}
	switch {
	case errors.Is(err, smartvm.VMExists):
		return existsFailure(err)
	case errors.As(err, &refused):
		f.what, f.code = fmt.Sprintf("%q was not started in the guest", r.flags.command[0]), refused.ExitCode()
	case r.stage == stageConfigure, r.stage == stageStart && errors.Is(err, smartvm.InvalidConfig):
		// Start looks at it once more, before it makes anything.
		f.what, f.stage = "the configuration is refused", stageConfigure
	case r.stage == stageImage:
		f.what = "there is no image to start from"
	case r.stage == stageStart:
		f.what = "the VM did not start"
	case r.stage == stageBoot && r.flags.detach:
		f.what, f.try = "the VM did not boot", []string{"smartvm logs --source console " + r.ref() + "    (what the guest's kernel says, as long as the VM is there)"}
		return f
	case r.stage == stageBoot:
		f.what = "the VM did not boot"
	case r.stage == stageCommand:
		f.what = "the command did not end in order"
	}
	if r.stage == stageBoot && r.flags.console == "" {
		f.try = []string{"--console FILE keeps all that the guest's kernel says"}
	}
	return f
}

// ref is what one types for the VM.
func (r *vmRun) ref() string { return cmp.Or(r.flags.name, r.vm.ID()) }

// existsFailure is told when the name or the id is another VM's. Nothing was done, so that the stage says nothing.
func existsFailure(err error) *failure {
	return &failure{what: "there is such a VM already", err: err, try: []string{"smartvm ps -a", "another --name"}}
}

// createFailure says in words why a VM was not created.
func createFailure(p *preparation, err error) error {
	var told *failure
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(err, smartvm.VMExists):
		return existsFailure(err)
	case p.stage == stageImage:
		return &failure{what: "there is no image to start from", stage: p.stage, err: err}
	}
	return &failure{what: "the configuration is refused", stage: stageConfigure, err: err}
}

// lateFor says what the run was waiting for when its time was over.
func (r *vmRun) lateFor() error {
	switch r.stage {
	case stageImage:
		return errors.New("the image was still being made")
	case stageStart:
		return errors.New("the VMM was still starting")
	case stageBoot:
		return errors.New("the guest was still booting")
	default:
		return errors.New("the command was still running")
	}
}
