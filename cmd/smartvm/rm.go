//go:build linux

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"smartvm"
)

func newRemoveCommand(surroundings func() host) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [flags] VM...",
		Short: "Remove VMs",
		Long: "rm takes each VM away with all that it has: its drives, its logs, its name. Its snapshots stay. A VM that runs is\n" +
			"refused without -f. Each VM that was removed is printed.",
		Args:              atLeastOneVM,
		ValidArgsFunction: completeVMs(surroundings, 0, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onEach(cmd.Context(), surroundings(), args, vmCall{
				undone: "was not removed", limit: callLimit, missing: force,
				do: func(ctx context.Context, _ *smartvm.Manager, vm *smartvm.VM) error { return vm.Remove(ctx, force) },
				advice: func(ref string, err error) []string {
					if errors.Is(err, smartvm.InvalidState) && !force {
						return []string{"smartvm stop " + ref, "smartvm rm -f " + ref + "    (its guest loses what it had not written)"}
					}
					return nil
				},
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also VMs that run, at once; a VM that is not there is no error")
	return cmd
}
