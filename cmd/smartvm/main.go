//go:build linux

// Command smartvm runs commands in microVMs. docs/cli.md describes it for its users.
//
// Each command has a file of its own and does what a person at a terminal needs: flags, signals, the terminal, words.
// Everything else is the package smartvm's.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// The exit codes that are not the guest's.
const (
	exitUsage         = 2   // called wrongly
	exitTimeout       = 124 // --timeout is over
	exitFailed        = 125 // smartvm itself failed; docker's code for it
	exitSignalledBase = 128 // and the signal's number
)

func main() {
	if supervises(os.Args) {
		os.Exit(runSupervisor())
	}
	// What a careless parent left open must not reach a VMM. The descriptors stay open here: they may be the runtime's.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	os.Exit(execute(os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

// streams are the three that every process has. Data goes to out and nothing else does; progress, hints and errors go
// to err.
type streams struct{ in, out, err *os.File }

// execute runs the command line and returns the exit code.
func execute(args []string, s streams) int {
	root := newRootCommand(s)
	root.SetArgs(args)
	return report(root.ExecuteContext(context.Background()), s.err)
}

func newRootCommand(s streams) *cobra.Command {
	var verbose bool
	root := &cobra.Command{
		Use:   "smartvm",
		Short: "Run commands in microVMs",
		Long: "smartvm runs commands in microVMs: a Linux kernel of their own, under Firecracker, or under an emulator where\n" +
			"there is no KVM.\n\n" +
			"  smartvm run -- uname -a              a command in a VM of its own, made for it and gone with it\n" +
			"  smartvm run --emulate -it -- sh      a shell, where there is no KVM\n" +
			"  smartvm doctor                       what this host can do, found out by trying",
		Args: rootArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := quotasFromEnvironment(); err != nil {
				return &usageError{cmd, err}
			}
			return nil
		},
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       versionLine(),
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{cmd, err} })
	root.PersistentFlags().BoolVarP(&verbose, "verbose", "v", false, "say on stderr what happens")

	surroundings := func() host { return hostFromEnvironment(s, verbose) }
	addCommands(root, surroundings, s)
	return root
}

// addCommands adds all commands in the order of a VM's life, by what they are about.
func addCommands(root *cobra.Command, surroundings func() host, s streams) {
	cobra.EnableCommandSorting = false
	for _, group := range []struct {
		id, title string
		commands  []func(func() host) *cobra.Command
	}{
		{"life", "A VM's life:", []func(func() host) *cobra.Command{
			newRunCommand, newCreateCommand, newStartCommand, newStopCommand, newRestartCommand, newKillCommand, newPauseCommand,
			newResumeCommand, newWaitCommand, newRenameCommand, newRemoveCommand,
		}},
		{"inside", "In the guest:", []func(func() host) *cobra.Command{newExecCommand, newShellCommand, newCopyCommand}},
		{"look", "What there is to see:", []func(func() host) *cobra.Command{
			newListCommand, newLogsCommand, newConsoleCommand, newInspectCommand, newStatsCommand,
		}},
		{"change", "Changes and snapshots:", []func(func() host) *cobra.Command{newUpdateCommand, newSnapshotCommand, newRestoreCommand}},
		{"house", "The house:", []func(func() host) *cobra.Command{
			newImageCommand, newSweepCommand, newPruneCommand, newDoctorCommand,
		}},
	} {
		root.AddGroup(&cobra.Group{ID: group.id, Title: group.title})
		for _, newCommand := range group.commands {
			cmd := newCommand(surroundings)
			cmd.GroupID = group.id
			root.AddCommand(cmd)
		}
	}
	root.AddCommand(newVersionCommand(s), newSettleCommand(surroundings))
}

// rootArgs refuses a command that there is not, and says which one may have been meant.
func rootArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("there is no command %q", args[0])
	const maxTypos = 2
	cmd.SuggestionsMinimumDistance = maxTypos
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		err = fmt.Errorf("%w; did you mean %q?", err, similar[0])
	}
	return &usageError{cmd, err}
}

// noArgs is for commands that take none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{cmd, fmt.Errorf("%s takes no arguments, there is %q", cmd.CommandPath(), args[0])}
	}
	return nil
}

// usageError is a command line that makes no sense.
type usageError struct {
	cmd *cobra.Command
	err error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// exitCode ends the program with a code and without another word.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// report prints an error and returns the exit code for it.
func report(err error, w io.Writer) int {
	var (
		code  exitCode
		usage *usageError
		f     *failure
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		fmt.Fprintf(w, "Error: %v\nSee '%s --help'.\n", usage, usage.cmd.CommandPath())
		return exitUsage
	case errors.As(err, &f):
		f.print(w)
		return f.exitCode()
	default:
		(&failure{err: err}).print(w)
		return exitFailed
	}
}

// printable makes text that a guest may have written harmless to a terminal; line ends stay.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}
