//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"smartvm/guest"
)

// copyStream is the path that stands for a tar archive on the standard input or output.
const copyStream = "-"

func newCopyCommand(surroundings func() host) *cobra.Command {
	var archive bool
	cmd := &cobra.Command{
		Use:   "cp [flags] SOURCE VM:PATH | VM:PATH TARGET",
		Short: "Copy files and folders into a guest and out of it",
		Long: "cp copies between this host and the guest of a VM that runs. A path with a colon in it that is no VM's is written\n" +
			"with a `/` or `./` in front. `-` for the host's path is a tar archive on the standard input or output.\n\n" +
			"Names mean what they do to docker cp: into a folder that is there, SOURCE goes under its own name, and with `/.`\n" +
			"at its end what is in it goes; otherwise SOURCE becomes the target, whose folder must exist.",
		Example: "  smartvm cp site web:/srv\n" +
			"  smartvm cp web:/var/log/messages .\n" +
			"  smartvm cp web:/etc - | tar t",
		Args: exactArgs(2, "a source and a target"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 1 || strings.ContainsAny(begun, "/:.") {
				return nil, cobra.ShellCompDirectiveDefault
			}
			names := vmNames(cmd.Context(), surroundings(), nil, begun, isLive)
			for i, name := range names {
				ref, about, _ := strings.Cut(name, "\t")
				names[i] = ref + ":\t" + about
			}
			return names, cobra.ShellCompDirectiveNoSpace
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := parseCopy(args[0], args[1])
			if err != nil {
				return &usageError{cmd, err}
			}
			c.options.Archive = archive
			h := surroundings()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			if err := c.run(ctx, h); err != nil {
				return interruptedOr(ctx, vmFailure("not everything was copied", err))
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&archive, "archive", "a", false, "keep owners, by number, and set-user-id bits; not from a guest that you do not trust")
	return cmd
}

// vmCopy is a copy that was asked for.
type vmCopy struct {
	toGuest bool
	vm      string
	inGuest string
	onHost  string // "-" for a tar archive
	options guest.CopyOptions
}

// parseCopy tells which of both paths is the guest's.
func parseCopy(source, target string) (vmCopy, error) {
	fromVM, fromPath, fromGuest := guestPath(source)
	toVM, toPath, toGuest := guestPath(target)
	c := vmCopy{toGuest: toGuest, vm: toVM, inGuest: toPath, onHost: source}
	switch {
	case fromGuest && toGuest:
		return c, errors.New("both paths are in guests; copy to this host first, or through a pipe: smartvm cp A:PATH - | smartvm cp - B:PATH")
	case !fromGuest && !toGuest:
		return c, errors.New("neither path is in a guest: write VM:PATH for one of them")
	case fromGuest:
		c.vm, c.inGuest, c.onHost = fromVM, fromPath, target
	}
	if c.inGuest == "" {
		return c, fmt.Errorf("the path in the guest is empty: write %s:/", c.vm)
	}
	return c, nil
}

// guestPath takes VM:PATH apart. What begins with a dot or has a slash in front of the colon is a path of the host's.
func guestPath(text string) (vm, path string, ok bool) {
	vm, path, ok = strings.Cut(text, ":")
	if !ok || vm == "" || strings.HasPrefix(vm, ".") || strings.Contains(vm, "/") {
		return "", "", false
	}
	return vm, path, true
}

func (c vmCopy) run(ctx context.Context, h host) error {
	if !c.toGuest && c.onHost == copyStream && term.IsTerminal(int(h.out.Fd())) {
		return errors.New("a tar archive is nothing for a terminal: send the output to a file or a pipe")
	}
	vm, agent, err := agentOf(ctx, h, c.vm, "nothing was copied")
	if err != nil {
		return err
	}
	var report guest.CopyReport
	switch {
	case c.toGuest && c.onHost == copyStream:
		report, err = agent.CopyToTar(ctx, h.in, c.inGuest, c.options)
	case c.toGuest:
		report, err = agent.CopyTo(ctx, c.onHost, c.inGuest, c.options)
	case c.onHost == copyStream:
		report, err = agent.CopyFromTar(ctx, c.inGuest, h.out)
	default:
		report, err = agent.CopyFrom(ctx, c.inGuest, c.onHost, c.options)
	}
	for _, name := range report.Skipped {
		h.progress.say("warning: skipped %s", printable(name))
	}
	if copyErr := (*guest.CopyError)(nil); errors.As(err, &copyErr) {
		return err
	}
	return orEnded(ctx, vm, err)
}
