//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"smartvm"
	"smartvm/guest"
)

// execFlags is what was typed behind `smartvm exec`.
type execFlags struct {
	commandFlags
	interactive bool
	tty         bool
	detach      bool
	timeout     time.Duration
}

func newExecCommand(surroundings func() host) *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] VM -- COMMAND [ARGUMENT…]",
		Short: "Run a further command in a VM that runs",
		Long: "exec runs a command in the guest of a VM that runs, beside what runs there already. Output, exit code and signals\n" +
			"are the command's; the VM goes on when it has ended. A guest that boots is waited for.\n\n" +
			"Exit codes: as of run; 1 when there is no such VM or it does not run.",
		Example: "  smartvm exec web -- ps\n" +
			"  smartvm exec -it web -- sh\n" +
			"  smartvm exec -i web -- tar x -C /srv <site.tar",
		ValidArgsFunction: completeVMs(surroundings, 1, isLive),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, command, err := execArgs(args)
			if err == nil {
				err = f.check()
			}
			if err != nil {
				return &usageError{cmd, err}
			}
			return execInGuest(cmd.Context(), surroundings(), ref, f, [][]string{command})
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.SetInterspersed(false) // what stands behind the VM is the command's, as docker has it
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "give the command this standard input; otherwise it has none")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	flags.BoolVarP(&f.detach, "detach", "d", false, "do not wait for the command; its output is dropped")
	f.define(cmd)
	flags.DurationVar(&f.timeout, "timeout", 0, "end the command after this `TIME`, such as 30s; exit code 124")
	return cmd
}

func (f *execFlags) check() error {
	switch {
	case f.timeout < 0:
		return fmt.Errorf("--timeout %v is negative", f.timeout)
	case f.detach && (f.interactive || f.tty || f.timeout > 0):
		return errors.New("-d excludes -i, -t and --timeout: nobody waits for the command")
	}
	return nil
}

// execArgs takes the VM and the command apart. A `--` may stand in front of the command.
func execArgs(args []string) (ref string, command []string, err error) {
	if len(args) == 0 {
		return "", nil, errors.New("which VM? smartvm exec VM -- COMMAND …")
	}
	ref, command = args[0], args[1:]
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	} else if len(command) > 0 && strings.HasPrefix(command[0], "-") {
		return "", nil, fmt.Errorf("flags of exec stand in front of the VM, those of the command behind `--`: %q", command[0])
	}
	switch {
	case ref == "":
		return "", nil, errors.New("the VM's name is empty")
	case len(command) == 0 || command[0] == "":
		return "", nil, fmt.Errorf("there is no command behind the VM; for a shell: smartvm shell %s", ref)
	}
	return ref, command, nil
}

// execInGuest runs the first of the commands that the guest has.
func execInGuest(parent context.Context, h host, ref string, f execFlags, commands [][]string) error {
	ctx, signals, stop := watchSignals(parent)
	defer stop()
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.timeout, errTimeout)
		defer cancel()
	}
	g := guestSession{host: h, signals: signals, interactive: f.interactive}
	if f.tty {
		var err error
		if g.terminal, err = openTerminal(h.in); err != nil {
			return err
		}
		defer g.terminal.restore()
	}
	const undone = "nothing was run in the VM"
	vm, agent, err := agentOf(ctx, h, ref, undone)
	if err != nil {
		return execFailure(ctx, f, "", err)
	}
	for i, args := range commands {
		command, err := f.guestCommand(args, f.tty)
		if err != nil {
			return &failure{what: undone, err: err}
		}
		if f.detach {
			_, err = agent.StartDetached(ctx, command)
			return execFailure(ctx, f, args[0], orEnded(ctx, vm, err))
		}
		status, err := g.run(ctx, agent, command)
		var refused *guest.StartError
		if errors.As(err, &refused) && refused.Reason == guest.NotFound && i < len(commands)-1 {
			continue
		}
		if err != nil && !errors.Is(err, syscall.EPIPE) {
			return execFailure(ctx, f, args[0], orEnded(ctx, vm, err))
		}
		if code := status.ExitCode(); code != 0 {
			return exitCode(code)
		}
		return nil
	}
	return nil
}

// agentOf returns the agent of a VM that runs, and waits for a guest that boots.
func agentOf(ctx context.Context, h host, ref, undone string) (*smartvm.VM, *guest.Agent, error) {
	_, vm, err := oneVM(h, ref, undone)
	if err != nil {
		return nil, nil, err
	}
	bootCtx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("the guest did not come up within %v", bootTimeout))
	defer cancel()
	agent, err := vm.Agent(bootCtx)
	if err != nil && ctx.Err() == nil {
		f := vmFailure(undone, orEnded(ctx, vm, err))
		f.try = stateAdvice(ctx, vm, ref)
		return nil, nil, f
	}
	return vm, agent, err
}

// orEnded says how the VM ended where that is why its agent could not be asked; else it returns err.
func orEnded(ctx context.Context, vm *smartvm.VM, err error) error {
	var refused *guest.StartError
	if err == nil || ctx.Err() != nil || errors.As(err, &refused) {
		return err
	}
	status, statusErr := vm.Status(ctx)
	switch {
	case errors.Is(statusErr, smartvm.VMNotFound):
		return errors.New("the VM has ended, and is removed")
	case statusErr != nil || status.State.Live() || status.Phase == smartvm.PhaseStarting || status.Phase == smartvm.PhaseCreated:
		return err
	case status.Detail != "":
		return fmt.Errorf("the VM does not run: %s: %s", statusText(status), status.Detail)
	}
	return fmt.Errorf("the VM does not run: %s", statusText(status))
}

// stateAdvice tells how a VM comes to where it can be used.
func stateAdvice(ctx context.Context, vm *smartvm.VM, ref string) []string {
	status, err := vm.Status(ctx)
	switch {
	case err != nil:
		return nil
	case status.State == smartvm.Paused:
		return []string{"smartvm resume " + ref}
	case !status.State.Live():
		return []string{"smartvm start " + ref}
	}
	return []string{"smartvm logs --source console " + ref}
}

// execFailure turns what kept a command from ending in order into an exit code, or into words.
func execFailure(ctx context.Context, f execFlags, program string, err error) error {
	var (
		told    *failure
		refused *guest.StartError
	)
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errTimeout):
		return &failure{what: fmt.Sprintf("the command was ended: --timeout of %v is over", f.timeout), err: errors.New("it was still running"), code: exitTimeout}
	case ctx.Err() != nil:
		return interruptedOr(ctx, err)
	case errors.As(err, &told):
		return told
	case errors.As(err, &refused):
		return &failure{what: fmt.Sprintf("%q was not started in the guest", program), err: err, code: refused.ExitCode()}
	}
	return &failure{what: "the command did not end in order", err: err}
}
