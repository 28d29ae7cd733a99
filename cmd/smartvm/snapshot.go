//go:build linux

package main

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"smartvm"
)

func newSnapshotCommand(surroundings func() host) *cobra.Command {
	snapshot := &cobra.Command{
		Use:   "snapshot",
		Short: "Snapshots: VMs as they were, to go on from",
		Args:  rootArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	snapshot.AddCommand(newSnapshotCreateCommand(surroundings), newSnapshotListCommand(surroundings), newSnapshotInspectCommand(surroundings), newSnapshotRemoveCommand(surroundings))
	return snapshot
}

func newSnapshotCreateCommand(surroundings func() host) *cobra.Command {
	return &cobra.Command{
		Use:   "create VM [NAME]",
		Short: "Take a snapshot of a VM",
		Long: "create writes the VM's memory, its devices and the drives that its guest can write to. A VM that runs stands still\n" +
			"meanwhile and runs on afterwards; a paused one stays paused. The snapshot's name is printed: NAME, or the VM's with\n" +
			"the time behind it.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usage(cmd, "%s takes a VM and, if you like, a name for the snapshot", cmd.CommandPath())
			}
			return noneEmpty(cmd, args)
		},
		ValidArgsFunction: completeVMs(surroundings, 1, isLive),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				if err := smartvm.CheckName(args[1]); err != nil {
					return &usageError{cmd, err}
				}
			}
			h := surroundings()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			const undone = "no snapshot was taken"
			_, vm, err := oneVM(h, args[0], undone)
			if err != nil {
				return err
			}
			status, err := vm.Status(ctx)
			if err != nil {
				return vmFailure(undone, err)
			}
			name := snapshotName(status, time.Now())
			if len(args) == 2 {
				name = args[1]
			}
			h.progress.step("writing the snapshot …")
			_, err = vm.TakeSnapshot(ctx, name, smartvm.SnapshotOptions{})
			h.progress.clear()
			if err != nil {
				f := vmFailure(undone, orEnded(ctx, vm, err))
				f.try = stateAdvice(ctx, vm, args[0])
				return interruptedOr(ctx, f)
			}
			_, err = fmt.Fprintln(h.out, name)
			return err
		},
	}
}

// snapshotName is the name of a snapshot for which none was typed.
func snapshotName(s smartvm.Status, now time.Time) string {
	const most = 40 // of a name's 63: the time takes the rest
	vm := cmp.Or(s.Name, shortID(s.Key))
	return fmt.Sprintf("%s-%s", vm[:min(len(vm), most)], now.UTC().Format("20060102-150405.000"))
}

func newSnapshotListCommand(surroundings func() host) *cobra.Command {
	var (
		f     format
		quiet bool
	)
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List snapshots",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if quiet {
				f.text = "{{.Name}}"
			}
			if err := f.parse(); err != nil {
				return &usageError{cmd, err}
			}
			h := surroundings()
			manager, err := smartvm.NewManager(h.options)
			if err != nil {
				return err
			}
			all, err := manager.Snapshots()
			if err != nil {
				return err
			}
			now := time.Now()
			return printList(h.out, f, all, "NAME\tVM\tVMM\tMEM\tSIZE\tAGE", func(s smartvm.NamedSnapshot) string {
				if s.Info == nil {
					return fmt.Sprintf("%s\t-\tdamaged\t-\t%s\t-", s.Name, sizeText(s.Bytes))
				}
				return fmt.Sprintf("%s\t%s\t%s %s\t%s\t%s\t%s", s.Name, shortID(s.Info.VM), s.Info.VMM, s.Info.VMMVersion,
					sizeText(int64(s.Info.Config.MachineConfig.MemSizeMiB)<<20), sizeText(s.Bytes), ageText(s.Info.CreatedAt, now))
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only, one a line")
	formatFlag(cmd, &f, formatTable)
	return cmd
}

func newSnapshotInspectCommand(surroundings func() host) *cobra.Command {
	return &cobra.Command{
		Use:               "inspect SNAPSHOT...",
		Short:             "Print all about snapshots, as JSON",
		Args:              atLeastOneSnapshot,
		ValidArgsFunction: completeSnapshots(surroundings, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			h := surroundings()
			manager, err := smartvm.NewManager(h.options)
			if err != nil {
				return err
			}
			found, failed := []smartvm.NamedSnapshot{}, false
			all, err := manager.Snapshots()
			if err != nil {
				return err
			}
			for _, name := range args {
				there := false
				for _, s := range all {
					if s.Name == name {
						found, there = append(found, s), true
					}
				}
				if !there {
					failed = true
					(&failure{what: "it cannot be looked at", err: fmt.Errorf("there is no snapshot %q; `smartvm snapshot ls` lists those there are", shortened(name))}).print(h.progress)
				}
			}
			if err := printJSON(h.out, found); err != nil || !failed {
				return err
			}
			return exitCode(exitVM)
		},
	}
}

func newSnapshotRemoveCommand(surroundings func() host) *cobra.Command {
	return &cobra.Command{
		Use:   "rm SNAPSHOT...",
		Short: "Remove snapshots",
		Long: "rm removes snapshots. One from which a VM was restored that runs is refused: it is that VM's memory. Each that was\n" +
			"removed is printed.",
		Args:              atLeastOneSnapshot,
		ValidArgsFunction: completeSnapshots(surroundings, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			h := surroundings()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			manager, err := smartvm.NewManager(h.options)
			if err != nil {
				return err
			}
			failed := false
			for _, name := range args {
				if err := manager.RemoveSnapshot(ctx, name); err != nil {
					if ctx.Err() != nil {
						return interruptedOr(ctx, err)
					}
					failed = true
					vmFailure(fmt.Sprintf("the snapshot %q was not removed", shortened(name)), err).print(h.progress)
					continue
				}
				if _, err := fmt.Fprintln(h.out, name); err != nil {
					return err
				}
			}
			if failed {
				return exitCode(exitVM)
			}
			return nil
		},
	}
}

func atLeastOneSnapshot(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usage(cmd, "%s needs the name of a snapshot", cmd.CommandPath())
	}
	return noneEmpty(cmd, args)
}
