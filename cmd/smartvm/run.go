//go:build linux

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"smartvm"
)

// runFlags is what was typed behind `smartvm run`.
type runFlags struct {
	vmFlags
	detach      bool
	wait        string
	interactive bool
	tty         bool
	console     string
	dryRun      bool
}

func newRunCommand(surroundings func() host) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] [IMAGE] -- COMMAND [ARGUMENT…]",
		Short: "Run a command in a microVM of its own",
		Long: "run boots a VM, runs the command in it, and ends the VM when the command has ended. Output, exit code and signals\n" +
			"are the command's. IMAGE is \"" + smartvm.DefaultImage + "\" where none is named; it is made when it is not there.\n\n" +
			"A VM without a name is taken away when it has ended; one with a --name stays, with its drives, until `smartvm rm`.\n" +
			"With -d the VM runs on by itself and its id is printed; without a command it runs until it is stopped.\n\n" +
			"FILE[:OPTION]... of --rootfs and --drive takes the options ro (read-only), in-place (the guest writes to the file\n" +
			"itself; otherwise to a copy of the VM's own) and id=NAME.\n\n" +
			"Exit codes: the command's own; 128+n when signal n ended it; 127 when the guest has no such program, 126 when it\n" +
			"cannot be run; 124 when --timeout is over; 125 when smartvm failed; 2 for wrong usage.",
		Example: "  smartvm run -- uname -a\n" +
			"  smartvm run -it --emulate -- sh\n" +
			"  smartvm run -d --name web --restart on-failure -- /usr/sbin/httpd -f\n" +
			"  smartvm run --memory 512M --rootfs debian.ext4 -e KEY=value -u www-data -- /usr/bin/env\n" +
			"  tar c src | smartvm run -i --rootfs build.ext4 -w /src -- make >out",
		ValidArgs: []string{smartvm.DefaultImage},
		RunE: func(cmd *cobra.Command, args []string) error {
			err := f.take(cmd, args)
			if err == nil {
				err = f.check()
			}
			if err != nil {
				return &usageError{cmd, err}
			}
			return run(cmd.Context(), surroundings(), f)
		},
	}
	f.vmFlags.define(cmd)
	flags := cmd.Flags()
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "give the command this standard input; otherwise it has none")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	flags.BoolVarP(&f.detach, "detach", "d", false, "leave the VM running and print its id; the command's output goes to the log")
	waitFlag(cmd, &f.wait)
	flags.StringVar(&f.console, "console", "", "write the guest's console to this `FILE`")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print what would be done as JSON, and do nothing")
	return cmd
}

// check refuses what makes no sense for run.
func (f *runFlags) check() error {
	if err := checkWait(f.wait); err != nil {
		return err
	}
	switch {
	case f.detach && (f.interactive || f.tty || f.console != ""):
		return errors.New("-d excludes -i, -t and --console: nobody sits in front of the VM; see smartvm exec and smartvm logs")
	case f.detach:
		return nil
	case f.wait != "":
		return errors.New("--wait is for -d: without it run waits for the command")
	case f.policy.Mode != smartvm.RestartNever:
		return errors.New("--restart is for a VM that runs on by itself: add -d")
	case len(f.command) > 0:
		return nil
	case f.interactive || f.tty:
		return errors.New("-i and -t are for a command, and there is none; for a shell: smartvm run -it -- sh")
	case f.init != "image" && f.config == "" && f.kernel == "" && f.initrd == "":
		return errNoCommand
	}
	return nil
}

var errNoCommand = errors.New("there is no command behind `--`; for a shell: smartvm run -it -- sh")

// checkCommand holds the command against the finished configuration.
func (f *runFlags) checkCommand(config *smartvm.Config) error {
	if err := f.vmFlags.checkCommand(config); err != nil {
		return err
	}
	if !f.detach && len(f.command) == 0 && config.Guest != nil && config.Guest.Init != "image" {
		return errNoCommand
	}
	return nil
}

// checkCommand refuses a command for a guest in which nobody could run it.
func (f *vmFlags) checkCommand(config *smartvm.Config) error {
	if len(f.command) > 0 && config.Guest == nil {
		return fmt.Errorf("the VM has an initrd of its own, so there is no agent in the guest that could run a command;\n" +
			"leave the command out to see the console, or, if that initrd has SmartVM's init, say --init smartvm")
	}
	return nil
}
