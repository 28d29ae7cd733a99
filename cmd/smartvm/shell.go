//go:build linux

package main

import (
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func newShellCommand(surroundings func() host) *cobra.Command {
	f := execFlags{interactive: true}
	cmd := &cobra.Command{
		Use:   "shell [flags] VM",
		Short: "Open a shell in a VM that runs",
		Long: "shell runs bash in the guest, or sh where there is no bash, with this terminal; without a terminal the shell reads\n" +
			"the standard input. It is short for exec -it VM -- sh.",
		Args:              exactArgs(1, "a VM"),
		ValidArgsFunction: completeVMs(surroundings, 1, isLive),
		RunE: func(cmd *cobra.Command, args []string) error {
			h := surroundings()
			f.tty = term.IsTerminal(int(h.in.Fd()))
			return execInGuest(cmd.Context(), h, args[0], f, [][]string{{"bash"}, {"sh"}})
		},
	}
	f.define(cmd)
	return cmd
}
