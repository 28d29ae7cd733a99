//go:build linux

package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"smartvm"
)

// psFlags is what was typed behind `smartvm ps`.
type psFlags struct {
	all     bool
	quiet   bool
	noTrunc bool
	filters []string
	format  format
}

func newListCommand(surroundings func() host) *cobra.Command {
	var f psFlags
	cmd := &cobra.Command{
		Use:   "ps [flags]",
		Short: "List VMs",
		Long: "ps lists the VMs that run; with -a all there are. The status is what VMM and guest say at this moment:\n" +
			"created, starting, booting, ready (the guest's agent answers), running (there is no agent), paused, unresponsive;\n" +
			"and of those that ended: exited (CODE), panicked, killed, lost (nobody saw the end), failed (the start did).\n\n" +
			"KEY=VALUE of --filter: name= has VALUE in it, id= begins with it, status= is it. Several of one key: any of them.",
		Example: "  smartvm ps -a --filter status=exited -q | xargs -r smartvm rm\n" +
			"  smartvm ps --format '{{.Name}} {{.Phase}}'",
		Args:    noArgs,
		Aliases: []string{"ls", "list"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			filters, err := parseFilters(f.filters)
			if err == nil {
				err = f.format.parse()
			}
			if err == nil && f.quiet && f.format.text != formatTable {
				err = fmt.Errorf("-q and --format exclude each other")
			}
			if err != nil {
				return &usageError{cmd, err}
			}
			return list(cmd, surroundings(), f, filters)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.all, "all", "a", false, "also VMs that do not run")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "print ids only, one a line")
	flags.BoolVar(&f.noTrunc, "no-trunc", false, "print ids in full")
	flags.StringArrayVarP(&f.filters, "filter", "f", nil, "only VMs for which `KEY=VALUE` holds: name, id or status; can be given again")
	formatFlag(cmd, &f.format, formatTable)
	completeWith(cmd, "filter", "name=", "id=", "status=")
	return cmd
}

func list(cmd *cobra.Command, h host, f psFlags, filters map[string][]string) error {
	manager, err := smartvm.NewManager(h.options)
	if err != nil {
		return err
	}
	all, err := manager.List(cmd.Context(), smartvm.ListOptions{Live: !f.all})
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(s smartvm.Status) bool { return !passes(s, filters) })
	if f.quiet {
		f.format = format{text: "{{.ID}}"}
		if err := f.format.parse(); err != nil {
			return err
		}
	}
	now := time.Now()
	return printList(h.out, f.format, all, "NAME\tID\tIMAGE\tSTATUS\tCPU\tMEM\tAGE", func(s smartvm.Status) string {
		id := s.ID
		if !f.noTrunc {
			id = shortID(id)
		}
		return fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%s\t%s", cmp.Or(s.Name, "-"), id, cmp.Or(s.Image, "-"), statusText(s), s.CPUs, sizeText(int64(s.MemoryMiB)<<20), ageText(s.CreatedAt, now))
	})
}

// statusText is a VM's status in a few words.
func statusText(s smartvm.Status) string {
	text := string(s.Phase)
	switch {
	case s.Phase == smartvm.PhaseExited && s.ExitCode != nil:
		text = fmt.Sprintf("%s (%d)", text, *s.ExitCode)
	case s.Monitor == smartvm.MonitorDead:
		text += " (no monitor)"
	}
	return text
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// shortID is an id as people read and type it: of a random one the beginning is enough.
func shortID(id string) string {
	const enough = 13
	if uuid.MatchString(id) {
		return id[:enough]
	}
	return id
}

// parseFilters reads KEY=VALUE pairs.
func parseFilters(texts []string) (map[string][]string, error) {
	filters := map[string][]string{}
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		switch {
		case !ok || value == "":
			return nil, fmt.Errorf("--filter %q is not KEY=VALUE", text)
		case !slices.Contains([]string{"name", "id", "status"}, key):
			return nil, fmt.Errorf("--filter %q: there is no key %q; the keys are name, id and status", text, key)
		case key == "status" && !slices.Contains(statuses, value):
			return nil, fmt.Errorf("--filter %q: there is no status %q; there are %s", text, value, strings.Join(statuses, ", "))
		}
		filters[key] = append(filters[key], value)
	}
	return filters, nil
}

var statuses = func() (words []string) {
	for _, phase := range []smartvm.Phase{
		smartvm.PhaseCreated, smartvm.PhaseStarting, smartvm.PhaseBooting, smartvm.PhaseReady, smartvm.PhaseRunning, smartvm.PhaseUnresponsive,
		smartvm.PhasePaused, smartvm.PhasePanicked, smartvm.PhaseExited, smartvm.PhaseKilled, smartvm.PhaseLost, smartvm.PhaseFailed,
		smartvm.PhaseDamaged, smartvm.PhaseForeign,
	} {
		words = append(words, string(phase))
	}
	return words
}()

// passes tells whether a VM is one that is asked for.
func passes(s smartvm.Status, filters map[string][]string) bool {
	holds := map[string]func(string) bool{
		"name":   func(value string) bool { return strings.Contains(s.Name, value) },
		"id":     func(value string) bool { return strings.HasPrefix(s.ID, value) },
		"status": func(value string) bool { return string(s.Phase) == value },
	}
	for key, values := range filters {
		if !slices.ContainsFunc(values, holds[key]) {
			return false
		}
	}
	return true
}
