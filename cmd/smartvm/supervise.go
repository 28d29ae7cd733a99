//go:build linux

package main

import (
	"os"

	"github.com/spf13/cobra"

	"smartvm"
)

// The commands that smartvm runs itself. They are hidden: nobody has a use for them at a terminal.
const (
	superviseCommand = "supervise"
	settleCommand    = "settle"
)

// supervises tells whether this process was started as a VM's supervisor. It is asked before anything else is done: a
// supervisor stands beside every VM, and whatever it touches costs memory so often.
func supervises(args []string) bool { return len(args) > 1 && args[1] == superviseCommand }

func runSupervisor() int {
	if err := smartvm.Supervise(); err != nil {
		return exitFailed
	}
	return 0
}

func newSettleCommand(surroundings func() host) *cobra.Command {
	return &cobra.Command{
		Use:    settleCommand + " VM",
		Short:  "Put a VM in order whose run has ended (the supervisor calls it)",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			manager, err := smartvm.NewManager(surroundings().options)
			if err != nil {
				return err
			}
			vm, err := manager.Find(args[0])
			if err != nil {
				return err
			}
			return vm.Settle(cmd.Context())
		},
	}
}

// ownCommand is the command line by which this program runs itself; nil where it does not know its own path.
func ownCommand(command string) []string {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	return []string{self, command}
}
