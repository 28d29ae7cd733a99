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

// vmFlags are what run and create have in common: what a VM is made of, how it lives, and its command.
type vmFlags struct {
	image   string // "" without one
	command []string
	commandFlags

	name    string
	remove  bool // as resolved by take
	restart string
	cpus    int
	memory  string
	kernel  string
	initrd  string
	rootfs  string
	drives  []string
	disk    string
	limits  []string
	netns   string
	config  string
	init    string

	emulate       bool
	vmmArgs       []string // for tests
	allowVersions []string
	noJail        bool
	timeout       time.Duration

	policy smartvm.Restart // restart's
}

// define makes the flags; they are listed in this order.
func (f *vmFlags) define(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.name, "name", "", "the VM's `NAME`, by which other commands find it; also its host name")
	flags.BoolVar(&f.remove, "rm", false, "remove the VM when it has ended (default: a VM without a name is, one with a name stays)")
	flags.IntVar(&f.cpus, "cpus", 0, "`NUMBER` of vCPUs (default 1)")
	flags.StringVarP(&f.memory, "memory", "m", "", "memory `SIZE`, such as 512M or 2GiB; a bare number is MiB (default 128M)")
	flags.StringVar(&f.kernel, "kernel", "", "boot the kernel in this `FILE`: a vmlinux, an Image on arm64")
	flags.StringVar(&f.initrd, "initrd", "", "boot with the initramfs in this `FILE`")
	flags.StringVar(&f.rootfs, "rootfs", "", "root drive: `FILE[:OPTION]...`")
	flags.StringArrayVar(&f.drives, "drive", nil, "a further drive: `FILE[:OPTION]...`; can be given again")
	flags.StringVar(&f.disk, "disk", "", "an empty ext4 drive of the VM's own of this `SIZE`, such as 8GiB")
	flags.StringArrayVar(&f.limits, "limit", nil, "bound what the VM takes of the host, as root: `KEY=VALUE`, with "+limitKeys+"; can be given again")
	flags.StringVar(&f.netns, "netns", "", netnsUsage)
	flags.StringVar(&f.config, "config", "", "a VM's configuration from a YAML or JSON `FILE`; flags win over it")
	f.commandFlags.define(cmd)
	flags.StringVar(&f.init, "init", "", "`WHO` is process 1: smartvm (default), or image: the root drive's own init")
	flags.StringVar(&f.restart, "restart", "no", "start the VM again by this `POLICY` when it has ended by itself: no, on-failure[:N], always")
	flags.BoolVar(&f.emulate, "emulate", false, "use the emulator: no KVM needed; slow, and no security boundary as KVM is")
	flags.BoolVar(&f.noJail, "no-jail", false, noJailUsage)
	flags.StringArrayVar(&f.allowVersions, "allow-version", nil, "run this `VERSION` of Firecracker although it is known to be unsafe; can be given again")
	flags.DurationVar(&f.timeout, "timeout", 0, "end the VM after this `TIME`, such as 30s, booting included; exit code 124")
	flags.StringArrayVar(&f.vmmArgs, "vmm-arg", nil, "a further `ARGUMENT` of the VMM")
	if err := flags.MarkHidden("vmm-arg"); err != nil {
		panic(err) // there is no such flag: a mistake in this program
	}
	completeWith(cmd, "init", "smartvm", "image")
	completeWith(cmd, "restart", "no", "on-failure", "always")
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) {
			err = fmt.Errorf("%w; flags of the command in the guest stand behind `--`", err)
		}
		return &usageError{cmd, err}
	})
}

func completeWith(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // there is no such flag: a mistake in this program
	}
}

// take sorts the arguments, an image in front of `--` and the command behind it, and settles what flags leave open.
func (f *vmFlags) take(cmd *cobra.Command, args []string) error {
	dash := cmd.ArgsLenAtDash()
	if dash < 0 {
		dash = len(args)
	}
	before, command := args[:dash], args[dash:]
	verb := cmd.CommandPath()
	switch {
	case len(before) > 1:
		return fmt.Errorf("there is one IMAGE, and %q stands behind it; put `--` in front of the command: %s %s -- %s …", before[1], verb, before[0], before[1])
	case len(before) == 1 && before[0] != smartvm.DefaultImage:
		return fmt.Errorf("there is no image %q, only %q; put `--` in front of the command: %s -- %s", before[0], smartvm.DefaultImage, verb, before[0])
	case len(before) == 1:
		f.image = before[0]
	}
	f.command = command
	if len(command) > 0 && command[0] == "" {
		return errors.New("the command's name is empty")
	}
	var err error
	if f.policy, err = smartvm.ParseRestart(f.restart); err != nil {
		return fmt.Errorf("--restart: %w", err)
	}
	if !cmd.Flags().Changed("rm") {
		f.remove = f.name == "" && f.policy.Mode == smartvm.RestartNever
	}
	if cmd.Flags().Changed("cpus") && f.cpus < 1 {
		return fmt.Errorf("--cpus %d: a VM has at least 1", f.cpus)
	}
	if cmd.Flags().Changed("name") {
		if err := smartvm.CheckName(f.name); err != nil {
			return fmt.Errorf("--name: %w", err)
		}
	}
	return f.check()
}

// check refuses what makes no sense whatever the configuration says.
func (f *vmFlags) check() error {
	switch {
	case f.timeout < 0:
		return fmt.Errorf("--timeout %v is negative", f.timeout)
	case f.init != "" && f.init != "smartvm" && f.init != "image":
		return fmt.Errorf("--init %q is neither smartvm nor image", f.init)
	case f.remove && f.policy.Mode != smartvm.RestartNever:
		return errors.New("--rm and --restart exclude each other: a VM that is removed when it has ended cannot start again")
	case len(f.command) == 0 && f.commandFlags.given():
		return errors.New("-e, --env-file, -w and -u are for a command, and there is none behind `--`")
	}
	return nil
}

// creation says how a VM lives that does not end with this process.
func (f *vmFlags) creation(image string) smartvm.CreateOptions {
	return smartvm.CreateOptions{Name: f.name, Image: image, Detached: true, Remove: f.remove, Restart: f.policy, Timeout: f.timeout}
}

const noJailUsage = "as root, run Firecracker as root and not in its jailer; a guest that breaks out of it is root on this host then"
