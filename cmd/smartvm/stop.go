//go:build linux

package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"smartvm"
)

func newStopCommand(surroundings func() host) *cobra.Command {
	var seconds uint32
	cmd := &cobra.Command{
		Use:   "stop [flags] VM...",
		Short: "Shut VMs down",
		Long: "stop asks each guest to shut down, and ends its VM when that takes too long. The drives stay, unless the VM was\n" +
			"to be removed when it ends (--rm). A VM that has ended already is left as it is. Each VM that is down now is\n" +
			"printed.",
		Args:              atLeastOneVM,
		ValidArgsFunction: completeVMs(surroundings, 0, isLive),
		RunE: func(cmd *cobra.Command, args []string) error {
			grace := time.Duration(seconds) * time.Second
			return onEach(cmd.Context(), surroundings(), args, vmCall{undone: "was not stopped", limit: grace + callLimit, do: func(ctx context.Context, _ *smartvm.Manager, vm *smartvm.VM) error {
				if vm.State() == smartvm.Created {
					return nil
				}
				return vm.StopWithin(ctx, grace)
			}})
		},
	}
	timeFlag(cmd, &seconds)
	return cmd
}

// timeFlag is docker's -t of stop and restart.
func timeFlag(cmd *cobra.Command, seconds *uint32) {
	cmd.Flags().Uint32VarP(seconds, "time", "t", uint32(defaultStop/time.Second), "let a guest take so many `SECONDS` to shut down; 0 does not ask it")
}
