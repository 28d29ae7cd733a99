//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"smartvm"
)

func newStartCommand(surroundings func() host) *cobra.Command {
	var wait string
	cmd := &cobra.Command{
		Use:   "start [flags] VM...",
		Short: "Boot VMs that were created or have ended",
		Long: "start boots each VM, with its drives as they were left, and has its command run where it has one. A VM that runs\n" +
			"already is left as it is. Each VM that runs now is printed.",
		Args:              atLeastOneVM,
		ValidArgsFunction: completeVMs(surroundings, 0, isDown),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkWait(wait); err != nil {
				return &usageError{cmd, err}
			}
			h := surroundings()
			return onEach(cmd.Context(), h, args, vmCall{undone: "was not started", advice: startAdvice, do: func(ctx context.Context, _ *smartvm.Manager, vm *smartvm.VM) error {
				if err := requireKVM(ctx, vm); err != nil {
					return err
				}
				err := vm.Start(ctx)
				if errors.Is(err, smartvm.InvalidState) && vm.State() == smartvm.Running {
					err = nil
				}
				if err != nil {
					return err
				}
				return awaitGuest(ctx, vm, wait)
			}})
		},
	}
	waitFlag(cmd, &wait)
	return cmd
}

// What --wait can be.
const (
	waitNone  = "none"
	waitBoot  = "boot"
	waitAgent = "agent"
)

func waitFlag(cmd *cobra.Command, wait *string) {
	cmd.Flags().StringVar(wait, "wait", "", "`UNTIL` when: none (the VM runs), boot or agent (the guest answers; default where SmartVM's init is in it)")
	completeWith(cmd, "wait", waitNone, waitBoot, waitAgent)
}

func checkWait(wait string) error {
	switch wait {
	case "", waitNone, waitBoot, waitAgent:
		return nil
	}
	return fmt.Errorf("--wait %q is none of none, boot and agent", wait)
}

// awaitGuest waits until the guest of a VM that was started answers, as far as --wait says. A guest whose command has
// ended meanwhile was up.
func awaitGuest(ctx context.Context, vm *smartvm.VM, wait string) error {
	if wait == waitNone || wait == "" && vm.Config().Guest == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("the guest did not come up within %v", bootTimeout))
	defer cancel()
	_, err := vm.Agent(ctx)
	if errors.Is(err, smartvm.VMMExited) {
		if status, statusErr := vm.Status(ctx); statusErr == nil && status.Exit != nil && status.Exit.Command != nil && status.Exit.Command.Code >= 0 {
			return nil
		}
	}
	return err
}

// requireKVM refuses to start a VM of Firecracker's where that cannot work.
func requireKVM(ctx context.Context, vm *smartvm.VM) error {
	status, err := vm.Status(ctx)
	if err != nil {
		return err
	}
	if status.VMM != "firecracker" || status.State.Live() {
		return nil
	}
	if err := smartvm.CheckKVM(ctx); err != nil {
		return fmt.Errorf("this host cannot run a VM under Firecracker: %w", err)
	}
	return nil
}

// startAdvice names where the reason for a guest stands that did not come up.
func startAdvice(ref string, err error) []string {
	if errors.Is(err, smartvm.GuestUnreachable) || errors.Is(err, smartvm.VMMExited) {
		return []string{"smartvm logs --source console " + ref}
	}
	return nil
}
