//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"smartvm"
)

// statsEvery is how long VMs are measured for one line.
const statsEvery = time.Second

func newStatsCommand(surroundings func() host) *cobra.Command {
	var (
		f    format
		once bool
	)
	cmd := &cobra.Command{
		Use:   "stats [flags] [VM...]",
		Short: "Print what VMs use, every second",
		Long: "stats prints what each VM that runs uses of this host: CPU time (100% is one CPU), memory of the VMM and the\n" +
			"processes below it, bytes read from and written to disks, and bytes through its TAPs as the guest sees them. With\n" +
			"limits also in how much of the time the one on CPUs held it back, and memory is all that the limit bounds.\n" +
			"Without a VM named: all that run. ^C ends it and leaves the VMs alone.",
		ValidArgsFunction: completeVMs(surroundings, 0, isLive),
		Args:              noneEmpty,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.parse(); err != nil {
				return &usageError{cmd, err}
			}
			h := surroundings()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			manager, err := smartvm.NewManager(h.options)
			if err != nil {
				return err
			}
			s := statsView{host: h, manager: manager, refs: args, format: f, once: once}
			return interruptedOr(ctx, s.run(ctx))
		},
	}
	cmd.Flags().BoolVar(&once, "no-stream", false, "measure once, for a second")
	formatFlag(cmd, &f, formatTable)
	return cmd
}

type statsView struct {
	host
	manager *smartvm.Manager
	refs    []string
	format  format
	once    bool
}

// usageLine is what one VM used.
type usageLine struct {
	smartvm.Stats
	// Since the measurement before. Of the CPU: 100 is one. Of the time: in how much limits.cpus held the VM back.
	CPUPercent       float64 `json:"cpuPercent"`
	ThrottledPercent float64 `json:"throttledPercent,omitempty"`
}

// memory is what is in use and what bounds that: with a limit, all that the limit bounds.
func (l usageLine) memory() (used, limit int64) {
	if l.Limits != nil && l.Limits.MemoryMiB > 0 && l.Cgroup != nil {
		return l.Cgroup.Memory, int64(l.Limits.MemoryMiB) << 20
	}
	return l.MemoryRSS, int64(l.MemoryMiB) << 20
}

// throttled is how the table has it.
func (l usageLine) throttled() string {
	if l.Limits == nil || l.Limits.CPUs == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", l.ThrottledPercent)
}

func (s statsView) run(ctx context.Context) error {
	// With VMs named, a mistake in a name is told before anything is measured.
	before, err := s.measure(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	over := !s.once && s.format.text == formatTable && term.IsTerminal(int(s.out.Fd()))
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		now, err := s.measure(ctx)
		if err != nil {
			return err
		}
		if over {
			fmt.Fprint(s.out, "\x1b[H\x1b[J") // over what stands there
		}
		if err := s.print(now, before); err != nil || s.once {
			return err
		}
		before = now
	}
}

// measure measures every VM once. One that was not named and ends meanwhile is left out.
func (s statsView) measure(ctx context.Context) ([]smartvm.Stats, error) {
	refs := s.refs
	if len(refs) == 0 {
		all, err := s.manager.List(ctx, smartvm.ListOptions{Live: true})
		if err != nil {
			return nil, err
		}
		for _, status := range all {
			refs = append(refs, status.ID)
		}
	}
	var measured []smartvm.Stats
	for _, ref := range refs {
		vm, err := findVM(s.manager, ref)
		var stats smartvm.Stats
		if err == nil {
			stats, err = vm.Stats(ctx)
		}
		switch {
		case err == nil:
			measured = append(measured, stats)
		case len(s.refs) > 0:
			return nil, vmFailure(fmt.Sprintf("%q was not measured", shortened(ref)), err)
		case !errors.Is(err, smartvm.NoClient) && !errors.Is(err, smartvm.VMNotFound):
			return nil, err
		}
	}
	return measured, nil
}

func (s statsView) print(now, before []smartvm.Stats) error {
	lines := []usageLine{}
	for _, stats := range now {
		for _, earlier := range before {
			if earlier.ID == stats.ID {
				lines = append(lines, usageLine{stats, 100 * stats.CPUShare(earlier), 100 * stats.ThrottledShare(earlier)})
				break
			}
		}
	}
	return printList(s.out, s.format, lines, "NAME\tID\tCPU\tMEM\tLIMIT\tDISK READ\tWRITTEN\tNET RECEIVED\tSENT\tTHROTTLED", func(l usageLine) string {
		used, limit := l.memory()
		return fmt.Sprintf("%s\t%s\t%.1f%%\t%s\t%s\t%s\t%s\t%s\t%s\t%s", cmp.Or(l.Name, "-"), shortID(l.ID), l.CPUPercent, sizeText(used),
			sizeText(limit), sizeText(l.DiskRead), sizeText(l.DiskWritten), sizeText(l.NetReceived), sizeText(l.NetSent), l.throttled())
	})
}
