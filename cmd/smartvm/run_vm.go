//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"smartvm"
	"smartvm/guest"
)

// How long a run waits for what should not take long. Booting is generous: an emulated guest on a busy machine takes
// its time, and one that panics says so at once.
const (
	bootTimeout     = 2 * time.Minute
	shutdownTimeout = 15 * time.Second
)

// errTimeout is the cause of a context that --timeout ended.
var errTimeout = errors.New("--timeout is over")

// run is `smartvm run`.
func run(ctx context.Context, h host, f runFlags) error {
	ctx, signals, stop := watchSignals(ctx)
	defer stop()
	if f.timeout > 0 && !f.detach {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.timeout, errTimeout)
		defer cancel()
	}
	r := &vmRun{preparation: preparation{host: h, flags: &f.vmFlags, stage: stageConfigure}, flags: f, signals: signals}
	defer r.close()
	err := r.whole(ctx)
	h.progress.clear()
	return r.explain(ctx, err)
}

// vmRun is one VM from the flags to its end.
type vmRun struct {
	preparation
	flags   runFlags
	signals *interrupts

	terminal *terminal // nil without -t
	console  *os.File  // nil without --console
	vm       *smartvm.VM
}

func (r *vmRun) close() {
	if r.terminal != nil {
		r.terminal.restore()
	}
	if r.console != nil {
		r.console.Close()
	}
}

// whole runs all stages. When it returns the VM is gone, or ended, or it runs on as was asked for.
func (r *vmRun) whole(ctx context.Context) (err error) {
	if r.flags.tty {
		if r.terminal, err = openTerminal(r.in); err != nil {
			return err
		}
	}
	if err := r.prepare(ctx, r.flags.tty, r.flags.dryRun, r.flags.checkCommand); err != nil {
		return err
	}
	if !r.flags.dryRun {
		defer r.tidy(ctx, r.manager)()
	}
	if r.flags.detach {
		return r.detach(ctx)
	}
	options := smartvm.CreateOptions{Name: r.flags.name, Image: r.image, Attached: true, Remove: r.flags.remove, Keep: !r.flags.remove}
	if options.Keep {
		options.Command, options.CommandByCaller = r.ownCommand(), true // for later starts
	}
	if r.vm, err = r.manager.Create(ctx, *r.config, options); err != nil {
		return err
	}
	if r.flags.dryRun {
		return r.printPlan(ctx)
	}
	if err := r.openConsole(); err != nil {
		return err
	}
	runErr := r.live(ctx)
	// A VM that is left behind is worse than anything else that may have gone wrong, and both are told.
	if err := r.takeAway(ctx); err != nil {
		r.progress.say("the VM was not taken away completely: %v", err)
		if _, isCode := runErr.(exitCode); runErr == nil || isCode {
			r.stage = stageCleanUp
			return err
		}
	}
	return runErr
}

// live boots the VM and sees it through to where it may be taken away.
func (r *vmRun) live(ctx context.Context) error {
	r.stage = stageStart
	r.progress.step("starting …")
	if err := r.vm.Start(ctx); err != nil {
		return err
	}
	r.stage = stageBoot
	if len(r.flags.command) == 0 {
		r.progress.clear()
		return r.watch(ctx)
	}
	r.progress.step("booting …")
	bootCtx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("the guest did not come up within %v", bootTimeout))
	defer cancel()
	agent, err := r.vm.Agent(bootCtx)
	if err != nil {
		return err
	}
	r.stage = stageCommand
	r.progress.clear()
	return r.runCommand(ctx, agent)
}

// watch waits for a VM without a command to end.
func (r *vmRun) watch(ctx context.Context) error {
	note, err := r.vm.WaitEnd(ctx)
	if err != nil {
		return err
	}
	if note.Code != 0 || note.Signal != 0 {
		return fmt.Errorf("the VMM ended: %s", note.Summary())
	}
	return nil
}

// runCommand runs the command in the guest and returns its exit code as an error.
func (r *vmRun) runCommand(ctx context.Context, agent *guest.Agent) error {
	command := r.command
	command.Main = true // our init shuts the guest down when it has ended
	status, err := r.session().run(ctx, agent, command)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, guest.ErrLost):
		return r.lostGuest(err)
	case err != nil && !errors.Is(err, syscall.EPIPE):
		return err // it did not start, or its output did not get to where it was sent
	}
	// The guest shuts down now, which also writes its drives out.
	waitCtx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	if _, err := r.vm.Wait(waitCtx); err != nil && ctx.Err() == nil {
		r.options.Logger.Warn("the guest did not shut down by itself", "error", err)
	}
	if !r.flags.remove {
		if err := r.vm.NoteCommand(context.WithoutCancel(ctx), smartvm.CommandExit{Code: status.Code, Signal: status.Signal}); err != nil {
			r.options.Logger.Warn("how the command ended could not be noted", "error", err)
		}
	}
	if code := status.ExitCode(); code != 0 {
		return exitCode(code)
	}
	return nil
}

func (r *vmRun) session() guestSession {
	return guestSession{host: r.host, signals: r.signals, terminal: r.terminal, interactive: r.flags.interactive}
}

// lostGuest tells why the connection to the agent ended before the command did: mostly because the VM did.
func (r *vmRun) lostGuest(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if note, waitErr := r.vm.WaitEnd(ctx); waitErr == nil {
		return fmt.Errorf("the VM ended before the command did: %s", note.Summary())
	}
	return err
}

// takeAway ends the VM, and removes it with all that it had unless it is to stay. A VM whose guest came up is asked to shut
// down first, for the sake of the drives that it keeps or writes to in place. One that did not start is of no use to anybody.
func (r *vmRun) takeAway(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	if r.stage < stageCommand {
		if err := r.kill(ctx); err != nil {
			return err
		}
	} else if r.vm.State().Live() {
		if err := r.shutDown(ctx); err != nil {
			return err
		}
	}
	if !r.flags.remove && r.stage > stageStart {
		return nil
	}
	return r.vm.Remove(ctx, true)
}

// shutDown ends a VM in order, or at once when the user has no patience left.
func (r *vmRun) shutDown(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.signals.hurry:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := r.vm.Stop(ctx)
	if err != nil && ctx.Err() != nil {
		return r.kill(context.WithoutCancel(ctx))
	}
	return err
}

func (r *vmRun) kill(ctx context.Context) error {
	if !r.vm.State().Live() {
		return nil
	}
	return r.vm.Kill(ctx)
}
