//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"smartvm"
	"smartvm/guest"
)

func newKillCommand(surroundings func() host) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "kill [flags] VM...",
		Short: "End VMs at once, or send their commands a signal",
		Long: "kill ends each VM at once: its guest loses what it had not written. With another signal than KILL it is the VM's\n" +
			"command in the guest that gets it. Each VM with which it worked is printed.",
		Args:              atLeastOneVM,
		ValidArgsFunction: completeVMs(surroundings, 0, isLive),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := guest.ParseSignal(name)
			if err != nil {
				return usage(cmd, "--signal: %w", err)
			}
			return onEach(cmd.Context(), surroundings(), args, vmCall{undone: "got no signal", limit: callLimit, do: func(ctx context.Context, _ *smartvm.Manager, vm *smartvm.VM) error {
				if state := vm.State(); !state.Live() {
					return &smartvm.Error{Code: smartvm.InvalidState, Op: "kill", VM: vm.ID(), Err: fmt.Errorf("the VM is %s, and must be running for this", state)}
				}
				if number == int(unix.SIGKILL) {
					return vm.Kill(ctx)
				}
				agent, err := vm.Agent(ctx)
				if err != nil {
					return err
				}
				return agent.SignalMain(ctx, number)
			}})
		},
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "KILL", "`SIGNAL`, by name or number")
	completeWith(cmd, "signal", "KILL", "TERM", "INT", "HUP", "USR1", "USR2", "QUIT", "STOP", "CONT")
	return cmd
}
