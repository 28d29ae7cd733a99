//go:build linux

package main

import (
	"context"

	"github.com/spf13/cobra"

	"smartvm"
)

func newRenameCommand(surroundings func() host) *cobra.Command {
	return &cobra.Command{
		Use:               "rename VM NAME",
		Short:             "Give a VM another name",
		Long:              "rename gives a VM another name, whether it runs or not. The guest keeps its host name.",
		Args:              exactArgs(2, "a VM and its new name"),
		ValidArgsFunction: completeVMs(surroundings, 1, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := smartvm.CheckName(args[1]); err != nil {
				return &usageError{cmd, err}
			}
			h := surroundings()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			ctx, cancel := context.WithTimeoutCause(ctx, callLimit, errCallLimit)
			defer cancel()
			const undone = "the VM was not renamed"
			_, vm, err := oneVM(h, args[0], undone)
			if err != nil {
				return err
			}
			if err := vm.Rename(ctx, args[1]); err != nil {
				return interruptedOr(ctx, vmFailure(undone, err))
			}
			return nil
		},
	}
}
