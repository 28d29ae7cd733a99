//go:build linux

package main

import (
	"context"

	"github.com/spf13/cobra"

	"smartvm"
)

func newResumeCommand(surroundings func() host) *cobra.Command {
	return &cobra.Command{
		Use:               "resume VM...",
		Aliases:           []string{"unpause"}, // docker's word
		Short:             "Let guests run on that were paused",
		Long:              "resume lets each VM run on that stands still. Each VM that runs is printed.",
		Args:              atLeastOneVM,
		ValidArgsFunction: completeVMs(surroundings, 0, isPaused),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onEach(cmd.Context(), surroundings(), args, vmCall{undone: "was not resumed", limit: callLimit, do: func(ctx context.Context, _ *smartvm.Manager, vm *smartvm.VM) error {
				return vm.Resume(ctx)
			}})
		},
	}
}
