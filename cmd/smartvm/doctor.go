//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"smartvm"
)

func newDoctorCommand(surroundings func() host) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out by trying what this host can do",
		Long: "doctor tries what VMs need on this host and says what to do where something is missing. It changes nothing.\n" +
			"The exit code is 1 when a check failed; warnings do not count.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h := surroundings()
			manager, err := smartvm.NewManager(h.options)
			if err != nil {
				return err
			}
			checks := manager.Doctor(cmd.Context())
			if asJSON {
				err = printChecksJSON(h.out, checks)
			} else {
				err = printChecks(h.out, checks)
			}
			if err != nil {
				return err
			}
			if count(checks, smartvm.CheckFail) > 0 {
				return exitCode(1)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of {name, status, message, fix, took}")
	return cmd
}

func printChecksJSON(w io.Writer, checks []smartvm.Check) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(checks)
}

func printChecks(w io.Writer, checks []smartvm.Check) error {
	sign := map[smartvm.CheckStatus]string{smartvm.CheckOK: "✓", smartvm.CheckWarn: "!", smartvm.CheckFail: "✗"}
	var text strings.Builder
	for _, c := range checks {
		fmt.Fprintf(&text, "%s %-15s %s\n", sign[c.Status], c.Name, printable(c.Message))
		if c.Fix != "" && c.Status != smartvm.CheckOK {
			fmt.Fprintf(&text, "  %-15s fix: %s\n", "", printable(c.Fix))
		}
	}
	fmt.Fprintf(&text, "failed: %d, warnings: %d\n", count(checks, smartvm.CheckFail), count(checks, smartvm.CheckWarn))
	_, err := io.WriteString(w, text.String())
	return err
}

func count(checks []smartvm.Check, status smartvm.CheckStatus) int {
	n := 0
	for _, c := range checks {
		if c.Status == status {
			n++
		}
	}
	return n
}
