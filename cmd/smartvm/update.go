//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"smartvm"
	"smartvm/internal/bytesize"
)

// updateFlags is what was typed behind `smartvm update`.
type updateFlags struct {
	drives  []string
	balloon string
	rx, tx  []string
	io      []string
}

func newUpdateCommand(surroundings func() host) *cobra.Command {
	var f updateFlags
	cmd := &cobra.Command{
		Use:   "update [flags] VM",
		Short: "Change a VM while it runs",
		Long: "update puts another file behind a drive, which the guest must not have mounted and to which it writes itself; asks\n" +
			"the guest for a balloon, which takes memory from it; and limits what an interface receives (--rx) and sends\n" +
			"(--tx), as the guest sees it, and what goes to and from a drive (--io). What was done before a failure stays. The\n" +
			"limits last until the VM ends; its next start has those of its configuration.",
		Example: "  smartvm update --drive data=new.img web\n" +
			"  smartvm update --balloon 64MiB --rx eth0=10MiB --tx eth0=0 --io data=50MiB web",
		Args:              exactArgs(1, "a VM"),
		ValidArgsFunction: completeVMs(surroundings, 1, isLive),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := f.changes()
			if err == nil && len(changes) == 0 {
				err = errors.New("nothing is to be changed: want --drive, --balloon, --rx, --tx or --io")
			}
			if err != nil {
				return &usageError{cmd, err}
			}
			h := surroundings()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			ctx, cancel := context.WithTimeoutCause(ctx, callLimit, errCallLimit)
			defer cancel()
			_, vm, err := oneVM(h, args[0], "nothing was changed")
			if err != nil {
				return err
			}
			for _, change := range changes {
				if err := change.do(ctx, vm); err != nil {
					return interruptedOr(ctx, vmFailure(change.what+" was not changed", err))
				}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringArrayVar(&f.drives, "drive", nil, "put another file behind a drive: `ID=PATH`; can be given again")
	flags.StringVar(&f.balloon, "balloon", "", "ask the guest for so much of its memory: `SIZE`, such as 64MiB; a bare number is MiB")
	flags.StringArrayVar(&f.rx, "rx", nil, "limit what an interface receives: `IFACE=RATE` in bytes a second, such as eth0=10MiB; 0 is no limit")
	flags.StringArrayVar(&f.tx, "tx", nil, "limit what it sends: `IFACE=RATE`")
	flags.StringArrayVar(&f.io, "io", nil, "limit what the guest reads from and writes to a drive together: `ID=RATE`")
	return cmd
}

// vmChange is one change of a VM.
type vmChange struct {
	what string
	do   func(context.Context, *smartvm.VM) error
}

// changes reads the flags.
func (f *updateFlags) changes() ([]vmChange, error) {
	var all []vmChange
	for _, text := range f.drives {
		id, path, ok := strings.Cut(text, "=")
		if !ok || id == "" || path == "" {
			return nil, fmt.Errorf("--drive %q is not ID=PATH", text)
		}
		all = append(all, vmChange{"drive " + id, func(ctx context.Context, vm *smartvm.VM) error { return vm.UpdateDrive(ctx, id, path) }})
	}
	if f.balloon != "" {
		size, err := bytesize.Parse(f.balloon, bytesize.MiB)
		if err == nil && size%bytesize.MiB != 0 {
			err = fmt.Errorf("%q is no whole number of MiB", f.balloon)
		}
		if err != nil {
			return nil, fmt.Errorf("--balloon: %w", err)
		}
		all = append(all, vmChange{"the balloon", func(ctx context.Context, vm *smartvm.VM) error {
			return vm.UpdateBalloon(ctx, int(size/bytesize.MiB))
		}})
	}
	for _, text := range f.rx {
		iface, limit, err := parseRate("--rx", text)
		if err != nil {
			return nil, err
		}
		all = append(all, vmChange{"interface " + iface, func(ctx context.Context, vm *smartvm.VM) error {
			return vm.UpdateInterface(ctx, iface, limit, nil)
		}})
	}
	for _, text := range f.tx {
		iface, limit, err := parseRate("--tx", text)
		if err != nil {
			return nil, err
		}
		all = append(all, vmChange{"interface " + iface, func(ctx context.Context, vm *smartvm.VM) error {
			return vm.UpdateInterface(ctx, iface, nil, limit)
		}})
	}
	for _, text := range f.io {
		id, limit, err := parseRate("--io", text)
		if err != nil {
			return nil, err
		}
		all = append(all, vmChange{"drive " + id, func(ctx context.Context, vm *smartvm.VM) error { return vm.LimitDrive(ctx, id, *limit) }})
	}
	return all, nil
}

// parseRate reads ID=RATE: a bucket that is filled once a second.
func parseRate(flag, text string) (id string, limit *smartvm.RateLimiter, err error) {
	id, rate, ok := strings.Cut(text, "=")
	if !ok || id == "" {
		return "", nil, fmt.Errorf("%s %q is not ID=RATE", flag, text)
	}
	size, err := bytesize.Parse(strings.TrimSuffix(rate, "/s"), 1)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", flag, err)
	}
	const second = 1000 // milliseconds
	bucket := &smartvm.TokenBucket{Size: size, RefillTime: second}
	if size == 0 {
		bucket.RefillTime = 0
	}
	return id, &smartvm.RateLimiter{Bandwidth: bucket}, nil
}
