//go:build linux

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"smartvm"
)

func newSweepCommand(surroundings func() host) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "gc [flags]",
		Short: "Put in order what crashes left behind",
		Long: "gc takes away what nobody will come back for: what is left of runs that ended while nobody was there, of starts,\n" +
			"removals and snapshots that were interrupted, and VMs that were to go with a process that is gone. It waits for\n" +
			"nobody, leaves alone what anybody works on, and can be repeated. What was done is printed, one thing a line.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return sweep(cmd, surroundings(), smartvm.SweepOptions{DryRun: dryRun})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done, and do nothing")
	return cmd
}

// sweep puts the house in order and prints what was done.
func sweep(cmd *cobra.Command, h host, options smartvm.SweepOptions) error {
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	manager, err := smartvm.NewManager(h.options)
	if err != nil {
		return err
	}
	actions, err := manager.Sweep(ctx, options)
	if printErr := printActions(h, actions, options.DryRun); printErr != nil && err == nil {
		err = printErr
	}
	if err != nil {
		return interruptedOr(ctx, vmFailure("not everything could be put in order", err))
	}
	return nil
}

// printActions prints what a sweep did; what it did not dare to touch goes to stderr.
func printActions(h host, actions []smartvm.SweepAction, dryRun bool) error {
	var done strings.Builder
	for _, action := range actions {
		text := action.What
		if action.VM != "" {
			text = action.VM + ": " + text
		}
		if action.Path != "" {
			text += ": " + action.Path
		}
		text = printable(text)
		switch {
		case action.Kept:
			h.progress.say("left alone: %s", text)
		case dryRun:
			fmt.Fprintf(&done, "would do: %s\n", text)
		default:
			fmt.Fprintln(&done, text)
		}
	}
	_, err := fmt.Fprint(h.out, done.String())
	return err
}
