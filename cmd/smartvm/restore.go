//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"smartvm"
)

// restoreFlags is what was typed behind `smartvm restore`.
type restoreFlags struct {
	name          string
	remove        bool
	paused        bool
	count         int
	allowVersions []string
	noJail        bool
	netns         string
	vmmArgs       []string // for tests
}

func newRestoreCommand(surroundings func() host) *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore [flags] SNAPSHOT",
		Short: "Make VMs that go on from a snapshot",
		Long: "restore makes a new VM that goes on where the snapshot was taken, with drives of its own, and prints its id when its\n" +
			"guest answers. The snapshot is only read, and can be restored many times at once. SNAPSHOT is a name, or the path\n" +
			"of a snapshot's folder, with a `/` in it. A VM that was restored cannot boot again once it has ended.",
		Args:              exactArgs(1, "a snapshot"),
		ValidArgsFunction: completeSnapshots(surroundings, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd); err != nil {
				return &usageError{cmd, err}
			}
			h := surroundings()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			if err := f.restore(ctx, h, args[0]); err != nil {
				return interruptedOr(ctx, err)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.name, "name", "", "the new VM's `NAME`")
	flags.BoolVar(&f.remove, "rm", false, "remove the VM when it has ended (default: a VM without a name is, one with a name stays)")
	flags.BoolVar(&f.paused, "paused", false, "leave the guest standing still; smartvm resume lets it run on")
	flags.IntVarP(&f.count, "count", "n", 1, "make so many VMs: `NUMBER`")
	flags.StringArrayVar(&f.allowVersions, "allow-version", nil, "run this `VERSION` of Firecracker although it is known to be unsafe; can be given again")
	flags.BoolVar(&f.noJail, "no-jail", false, noJailUsage)
	flags.StringVar(&f.netns, "netns", "", netnsUsage+" (default: the snapshot's)")
	flags.StringArrayVar(&f.vmmArgs, "vmm-arg", nil, "a further `ARGUMENT` of the VMM")
	if err := flags.MarkHidden("vmm-arg"); err != nil {
		panic(err) // there is no such flag: a mistake in this program
	}
	return cmd
}

func (f *restoreFlags) check(cmd *cobra.Command) error {
	switch {
	case f.count < 1:
		return fmt.Errorf("--count %d: at least 1 is restored", f.count)
	case f.count > 1 && f.name != "":
		return errors.New("--name and --count exclude each other: two VMs cannot have one name")
	}
	if cmd.Flags().Changed("name") {
		if err := smartvm.CheckName(f.name); err != nil {
			return fmt.Errorf("--name: %w", err)
		}
	}
	if !cmd.Flags().Changed("rm") {
		f.remove = f.name == ""
	}
	return nil
}

const notRestored = "the snapshot was not restored"

func (f *restoreFlags) restore(ctx context.Context, h host, ref string) error {
	named, err := smartvm.NewManager(h.options)
	if err != nil {
		return err
	}
	dir, image := ref, ""
	if !strings.Contains(ref, "/") {
		if dir, err = named.SnapshotDir(ref); err != nil {
			return vmFailure(notRestored, err)
		}
		image = "snapshot " + ref
	}
	snapshot, err := smartvm.OpenSnapshot(dir)
	if err != nil {
		failed := vmFailure(notRestored, err)
		failed.try = []string{"smartvm snapshot ls"}
		return failed
	}
	h.options.Emulate, h.options.AllowVersions, h.options.VMMArgs = snapshot.Emulated(), f.allowVersions, f.vmmArgs
	h.options.NoJail = f.noJail
	if !h.options.Emulate {
		if err := smartvm.CheckKVM(ctx); err != nil {
			return &failure{what: "this host cannot run a VM under Firecracker, of which the snapshot is", stage: stageHost, err: err}
		}
	}
	manager, err := smartvm.NewManager(h.options)
	if err != nil {
		return err
	}
	defer h.tidy(ctx, manager)()
	for range f.count {
		if err := f.one(ctx, h, manager, snapshot, dir, image); err != nil {
			return err
		}
	}
	return nil
}

// one restores one VM, and takes it away when its guest does not answer.
func (f *restoreFlags) one(ctx context.Context, h host, manager *smartvm.Manager, snapshot *smartvm.Snapshot, dir, image string) error {
	vm, err := manager.Create(ctx, smartvm.Config{}, smartvm.CreateOptions{Name: f.name, Image: image, Detached: true, Remove: f.remove})
	if err != nil {
		return vmFailure(notRestored, err)
	}
	h.progress.step("restoring …")
	err = vm.Restore(ctx, dir, smartvm.RestoreOptions{Paused: f.paused, NetNS: f.netns})
	if err == nil && !f.paused && snapshot.Config.Guest != nil {
		err = awaitGuest(ctx, vm, waitAgent)
	}
	h.progress.clear()
	if err != nil {
		if errors.Is(err, smartvm.VMExists) {
			return existsFailure(err)
		}
		return vmFailure(notRestored, errors.Join(err, vm.Remove(context.WithoutCancel(ctx), true)))
	}
	_, err = fmt.Fprintln(h.out, vm.ID())
	return err
}
