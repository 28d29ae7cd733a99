//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"smartvm"
)

// runFlags is what was typed behind `smartvm run`.
type runFlags struct {
	image   string // "" without one
	command []string

	name    string
	remove  bool
	cpus    int
	memory  string
	kernel  string
	initrd  string
	rootfs  string
	drives  []string
	disk    string
	config  string
	init    string
	console string

	env      []string
	envFiles []string
	workdir  string
	user     string

	interactive bool
	tty         bool

	emulate       bool
	allowVersions []string
	timeout       time.Duration
	dryRun        bool
}

func newRunCommand(surroundings func() host) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] [IMAGE] -- COMMAND [ARGUMENT…]",
		Short: "Run a command in a microVM of its own",
		Long: "run boots a VM, runs the command in it, and takes the VM away when the command has ended. Output, exit code and\n" +
			"signals are the command's. IMAGE is \"" + smartvm.DefaultImage + "\" where none is named; it is made when it is not there.\n\n" +
			"FILE[:OPTION]... of --rootfs and --drive takes the options ro (read-only), in-place (the guest writes to the file\n" +
			"itself; otherwise to a copy of the VM's own) and id=NAME.\n\n" +
			"Exit codes: the command's own; 128+n when signal n ended it; 127 when the guest has no such program, 126 when it\n" +
			"cannot be run; 124 when --timeout is over; 125 when smartvm failed; 2 for wrong usage.",
		Example: "  smartvm run -- uname -a\n" +
			"  smartvm run -it --emulate -- sh\n" +
			"  smartvm run --memory 512M --rootfs debian.ext4 -e KEY=value -u www-data -- /usr/bin/env\n" +
			"  tar c src | smartvm run -i --rootfs build.ext4 -w /src -- make >out",
		ValidArgs: []string{smartvm.DefaultImage},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.take(args, cmd.ArgsLenAtDash()); err != nil {
				return &usageError{cmd, err}
			}
			if cmd.Flags().Changed("cpus") && f.cpus < 1 {
				return &usageError{cmd, fmt.Errorf("--cpus %d: a VM has at least 1", f.cpus)}
			}
			return run(cmd.Context(), surroundings(), f)
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) {
			err = fmt.Errorf("%w; flags of the command in the guest stand behind `--`", err)
		}
		return &usageError{cmd, err}
	})
	f.define(cmd)
	return cmd
}

func (f *runFlags) define(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.name, "name", "", "the VM's `NAME` (default: a random one)")
	flags.BoolVar(&f.remove, "rm", true, "remove the VM when it has ended; no VM outlives the command yet")
	flags.IntVar(&f.cpus, "cpus", 0, "`NUMBER` of vCPUs (default 1)")
	flags.StringVarP(&f.memory, "memory", "m", "", "memory `SIZE`, such as 512M or 2GiB; a bare number is MiB (default 128M)")
	flags.StringVar(&f.kernel, "kernel", "", "boot the kernel in this `FILE`: a vmlinux, an Image on arm64")
	flags.StringVar(&f.initrd, "initrd", "", "boot with the initramfs in this `FILE`")
	flags.StringVar(&f.rootfs, "rootfs", "", "root drive: `FILE[:OPTION]...`")
	flags.StringArrayVar(&f.drives, "drive", nil, "a further drive: `FILE[:OPTION]...`; can be given again")
	flags.StringVar(&f.disk, "disk", "", "an empty ext4 drive of the VM's own of this `SIZE`, such as 8GiB")
	flags.StringVar(&f.config, "config", "", "a VM's configuration from a YAML or JSON `FILE`; flags win over it")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "the command's environment: `KEY=VALUE`, or KEY for the value that it has here")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "the same from a `FILE`, one a line")
	flags.StringVarP(&f.workdir, "workdir", "w", "", "the command's `FOLDER` in the guest (default /)")
	flags.StringVarP(&f.user, "user", "u", "", "the command's `USER[:GROUP]`, names or numbers (default root)")
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "give the command this standard input; otherwise it has none")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	flags.StringVar(&f.init, "init", "", "`WHO` is process 1: smartvm (default), or image: the root drive's own init")
	flags.BoolVar(&f.emulate, "emulate", false, "use the emulator: no KVM needed; slow, and no security boundary as KVM is")
	flags.StringArrayVar(&f.allowVersions, "allow-version", nil, "run this `VERSION` of Firecracker although it is known to be unsafe; can be given again")
	flags.DurationVar(&f.timeout, "timeout", 0, "end the VM after this `TIME`, such as 30s, booting included; exit code 124")
	flags.StringVar(&f.console, "console", "", "write the guest's console to this `FILE`")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print what would be done as JSON, and do nothing")
	completeWith(cmd, "init", "smartvm", "image")
}

func completeWith(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // there is no such flag: a mistake in this program
	}
}

// take sorts the arguments: an image in front of `--`, the command behind it.
func (f *runFlags) take(args []string, dash int) error {
	if dash < 0 {
		dash = len(args)
	}
	before, command := args[:dash], args[dash:]
	switch {
	case len(before) > 1:
		return fmt.Errorf("there is one IMAGE, and %q stands behind it; put `--` in front of the command: smartvm run %s -- %s …", before[1], before[0], before[1])
	case len(before) == 1 && before[0] != smartvm.DefaultImage:
		return fmt.Errorf("there is no image %q, only %q; put `--` in front of the command: smartvm run -- %s", before[0], smartvm.DefaultImage, before[0])
	case len(before) == 1:
		f.image = before[0]
	}
	f.command = command
	if len(command) > 0 && command[0] == "" {
		return errors.New("the command's name is empty")
	}
	return f.check()
}

// check refuses what makes no sense whatever the configuration says.
func (f *runFlags) check() error {
	switch {
	case f.timeout < 0:
		return fmt.Errorf("--timeout %v is negative", f.timeout)
	case f.init != "" && f.init != "smartvm" && f.init != "image":
		return fmt.Errorf("--init %q is neither smartvm nor image", f.init)
	case !f.remove:
		return errors.New("--rm=false: no VM outlives the command yet")
	case len(f.command) > 0:
		return nil
	case f.interactive || f.tty:
		return errors.New("-i and -t are for a command, and there is none; for a shell: smartvm run -it -- sh")
	case f.init != "image" && f.config == "" && f.kernel == "" && f.initrd == "":
		return errors.New("there is no command behind `--`; for a shell: smartvm run -it -- sh")
	case len(f.env) > 0 || len(f.envFiles) > 0 || f.workdir != "" || f.user != "":
		return errors.New("-e, --env-file, -w and -u are for a command, and there is none behind `--`")
	}
	return nil
}
