//go:build linux

package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"smartvm"
)

// completeLimit is how long a shell waits for completions at most.
const completeLimit = 2 * time.Second

// completeVMs offers names and ids of VMs for all arguments, or, with most above 0, for the first so many. wanted says
// which VMs it makes sense for; nil: all.
func completeVMs(surroundings func() host, most int, wanted func(smartvm.Status) bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return vmNames(cmd.Context(), surroundings(), args, begun, wanted), cobra.ShellCompDirectiveNoFileComp
	}
}

// vmNames lists the names of VMs, and the ids of those that have none or whose id was begun. What goes wrong is nobody's
// business who presses the tabulator key.
func vmNames(ctx context.Context, h host, taken []string, begun string, wanted func(smartvm.Status) bool) []string {
	manager, err := smartvm.NewManager(h.options)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	all, err := manager.List(ctx, smartvm.ListOptions{})
	if err != nil {
		return nil
	}
	var names []string
	for _, s := range all {
		if wanted != nil && !wanted(s) {
			continue
		}
		for _, name := range []string{s.Name, s.ID} {
			if name == "" || !strings.HasPrefix(name, begun) || slices.Contains(taken, name) {
				continue
			}
			names = append(names, name+"\t"+statusText(s))
			break
		}
	}
	return names
}

// completeSnapshots offers the names of snapshots.
func completeSnapshots(surroundings func() host, most int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		manager, err := smartvm.NewManager(surroundings().options)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, _ := manager.Snapshots()
		var names []string
		for _, s := range all {
			if strings.HasPrefix(s.Name, begun) && !slices.Contains(args, s.Name) {
				names = append(names, s.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// Which VMs a command makes sense for.
func isLive(s smartvm.Status) bool   { return s.State.Live() }
func isDown(s smartvm.Status) bool   { return !s.State.Live() && s.State != smartvm.Configuring }
func isPaused(s smartvm.Status) bool { return s.State == smartvm.Paused }
