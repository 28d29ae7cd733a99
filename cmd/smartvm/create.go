//go:build linux

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"smartvm"
)

func newCreateCommand(surroundings func() host) *cobra.Command {
	var f vmFlags
	cmd := &cobra.Command{
		Use:   "create [flags] [IMAGE] [-- COMMAND [ARGUMENT…]]",
		Short: "Make a VM without starting it",
		Long: "create makes a VM as `smartvm run -d` does, and does not start it: `smartvm start` does. The VM's id is printed.\n" +
			"Nothing is copied and nothing runs until then.",
		Example:   "  smartvm create --name db --memory 1GiB --disk 20GiB -- /usr/bin/postgres\n  smartvm start db",
		ValidArgs: []string{smartvm.DefaultImage},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.take(cmd, args); err != nil {
				return &usageError{cmd, err}
			}
			h := surroundings()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			p := &preparation{host: h, flags: &f}
			err := p.prepare(ctx, false, false, f.checkCommand)
			var vm *smartvm.VM
			if err == nil {
				defer h.tidy(ctx, p.manager)()
				p.stage = stageConfigure
				vm, err = p.detached(ctx)
			}
			if err == nil {
				err = vm.Save(ctx)
			}
			if err != nil {
				return interruptedOr(ctx, createFailure(p, err))
			}
			_, err = fmt.Fprintln(h.out, vm.ID())
			return err
		},
	}
	f.define(cmd)
	return cmd
}
