//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"smartvm"
)

func newPruneCommand(surroundings func() host) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove all VMs that do not run",
		Long: "prune removes every VM that does not run, those with a name and those that were never started as well, with their\n" +
			"drives, and does what gc does. Snapshots and images stay. It asks first; without a terminal it needs --force.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h := surroundings()
			if !force {
				yes, err := confirm(h, "Remove all VMs that do not run, with their drives?")
				if err != nil || !yes {
					return err
				}
			}
			return sweep(cmd, h, smartvm.SweepOptions{Ended: true})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

// confirm asks a person; nobody there is an error, and everything but yes is no.
func confirm(h host, question string) (bool, error) {
	if !term.IsTerminal(int(h.in.Fd())) {
		return false, &failure{what: "nothing was removed", err: errors.New("there is no terminal to ask at"), try: []string{"--force does not ask"}, code: exitUsage}
	}
	fmt.Fprintf(h.progress, "%s [y/N] ", question)
	answer, err := bufio.NewReader(h.in).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(h.progress)
		return false, nil
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}
