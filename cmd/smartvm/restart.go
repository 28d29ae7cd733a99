//go:build linux

package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"smartvm"
)

func newRestartCommand(surroundings func() host) *cobra.Command {
	var (
		seconds uint32
		wait    string
	)
	cmd := &cobra.Command{
		Use:   "restart [flags] VM...",
		Short: "Shut VMs down and boot them again",
		Long: "restart ends each VM as stop does and boots it again with its drives as they are. A VM that does not run is started.\n" +
			"Each VM that runs again is printed.",
		Args:              atLeastOneVM,
		ValidArgsFunction: completeVMs(surroundings, 0, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkWait(wait); err != nil {
				return &usageError{cmd, err}
			}
			grace := time.Duration(seconds) * time.Second
			h := surroundings()
			return onEach(cmd.Context(), h, args, vmCall{undone: "was not restarted", advice: startAdvice, do: func(ctx context.Context, _ *smartvm.Manager, vm *smartvm.VM) error {
				if err := requireKVM(ctx, vm); err != nil {
					return err
				}
				if err := vm.Restart(ctx, grace); err != nil {
					return err
				}
				return awaitGuest(ctx, vm, wait)
			}})
		},
	}
	timeFlag(cmd, &seconds)
	waitFlag(cmd, &wait)
	return cmd
}
