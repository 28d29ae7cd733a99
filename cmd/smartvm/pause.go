//go:build linux

package main

import (
	"context"

	"github.com/spf13/cobra"

	"smartvm"
)

func newPauseCommand(surroundings func() host) *cobra.Command {
	return &cobra.Command{
		Use:               "pause VM...",
		Short:             "Make guests stand still",
		Long:              "pause stops the vCPUs of each VM; its memory stays. `smartvm resume` lets them run on. Each VM that stands is printed.",
		Args:              atLeastOneVM,
		ValidArgsFunction: completeVMs(surroundings, 0, func(s smartvm.Status) bool { return s.State == smartvm.Running }),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onEach(cmd.Context(), surroundings(), args, vmCall{undone: "was not paused", limit: callLimit, do: func(ctx context.Context, _ *smartvm.Manager, vm *smartvm.VM) error {
				return vm.Pause(ctx)
			}})
		},
	}
}
