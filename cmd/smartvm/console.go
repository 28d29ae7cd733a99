//go:build linux

package main

import (
	"github.com/spf13/cobra"

	"smartvm"
)

// consoleLines is how much of what was there before a console begins with: a screen.
const consoleLines = 24

func newConsoleCommand(surroundings func() host) *cobra.Command {
	return &cobra.Command{
		Use:   "console VM",
		Short: "Watch a guest's console",
		Long: "console prints the last lines of the guest's serial console and what comes, until the VM has ended; ^C leaves the\n" +
			"VM alone. It is read-only: nothing that is typed reaches the guest. For a shell: smartvm shell VM.",
		Args:              exactArgs(1, "a VM"),
		ValidArgsFunction: completeVMs(surroundings, 1, isLive),
		RunE: func(cmd *cobra.Command, args []string) error {
			lines := consoleLines
			return showLog(cmd.Context(), surroundings(), args[0], smartvm.LogOptions{Source: smartvm.LogConsole, Follow: true, Tail: &lines})
		},
	}
}
