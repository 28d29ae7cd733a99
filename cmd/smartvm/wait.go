//go:build linux

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"smartvm"
)

func newWaitCommand(surroundings func() host) *cobra.Command {
	return &cobra.Command{
		Use:   "wait VM...",
		Short: "Wait until VMs have ended and print their exit codes",
		Long: "wait returns when each VM's run has ended, and prints the exit code of its command (else of the VMM), one a line in\n" +
			"the order asked for. A VM that has ended already is told at once. ^C leaves the VMs alone.",
		Args:              atLeastOneVM,
		ValidArgsFunction: completeVMs(surroundings, 0, isLive),
		RunE: func(cmd *cobra.Command, args []string) error {
			h := surroundings()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			manager, err := smartvm.NewManager(h.options)
			if err != nil {
				return err
			}
			ends := make([]chan end, len(args))
			for i, ref := range args {
				// All at once: one that is removed at its end could not be found later.
				ends[i] = make(chan end, 1)
				go func() {
					vm, err := findVM(manager, ref)
					if err != nil {
						ends[i] <- end{err: err}
						return
					}
					note, err := vm.WaitEnd(ctx)
					ends[i] <- end{note, err}
				}()
			}
			code := 0
			for i, ref := range args {
				e := <-ends[i]
				if e.err != nil && ctx.Err() != nil {
					return interruptedOr(ctx, e.err)
				}
				if e.err != nil {
					f := vmFailure(fmt.Sprintf("%q was not waited for", shortened(ref)), e.err)
					f.print(h.progress)
					code = max(code, f.exitCode())
					continue
				}
				if _, err := fmt.Fprintln(h.out, e.note.ExitCode()); err != nil {
					return err
				}
			}
			if code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
}

// end is how a VM ended.
type end struct {
	note smartvm.ExitNote
	err  error
}
