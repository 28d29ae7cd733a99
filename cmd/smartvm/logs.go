//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"smartvm"
)

// logFlags is what was typed behind `smartvm logs`.
type logFlags struct {
	follow bool
	tail   string
	since  string
	source string
}

func newLogsCommand(surroundings func() host) *cobra.Command {
	var f logFlags
	cmd := &cobra.Command{
		Use:   "logs [flags] VM",
		Short: "Print what a VM's command, console or VMM said",
		Long: "logs prints one of a VM's logs: agent (the output of its command, both streams), console (what the guest's kernel\n" +
			"and init print) or vmm (what the VMM says). Each has a bound; the oldest lines go first. With -f it goes on until\n" +
			"the VM has ended; ^C leaves the VM alone.\n\n" +
			"The bytes are the guest's, as they are: to a terminal, better through `less -R` or `cat -v` if you do not trust it.",
		Args:              exactArgs(1, "a VM"),
		ValidArgsFunction: completeVMs(surroundings, 1, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			options, err := f.options(time.Now())
			if err != nil {
				return &usageError{cmd, err}
			}
			return showLog(cmd.Context(), surroundings(), args[0], options)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on with what comes, until the VM has ended")
	flags.StringVarP(&f.tail, "tail", "n", "all", "begin with the last `NUMBER` of lines")
	flags.StringVar(&f.since, "since", "", "leave out what came before this `TIME`: 5m, 2026-01-31T12:00:00Z, 2026-01-31 or seconds since 1970")
	flags.StringVar(&f.source, "source", "", "which `LOG`: console, vmm or agent (default: agent for a VM that has a command, else console)")
	completeWith(cmd, "source", string(smartvm.LogConsole), string(smartvm.LogVMM), string(smartvm.LogAgent))
	return cmd
}

// options reads the flags.
func (f *logFlags) options(now time.Time) (smartvm.LogOptions, error) {
	options := smartvm.LogOptions{Source: smartvm.LogSource(f.source), Follow: f.follow}
	switch options.Source {
	case "", smartvm.LogConsole, smartvm.LogVMM, smartvm.LogAgent:
	default:
		return options, fmt.Errorf("--source %q is none of console, vmm and agent", f.source)
	}
	var err error
	if options.Tail, err = parseTail(f.tail); err != nil {
		return options, err
	}
	options.Since, err = parseSince(f.since, now)
	return options, err
}

// parseTail reads a number of lines; nil is all of them.
func parseTail(text string) (*int, error) {
	if text == "all" {
		return nil, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("--tail %q is neither a number of lines nor all", text)
	}
	return &n, nil
}

// parseSince reads a time as docker does: a duration before now, a date, a date with a time, or seconds since 1970.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds >= 0 && seconds < 1e11 {
		return time.UnixMicro(int64(seconds * 1e6)), nil
	}
	return time.Time{}, fmt.Errorf("--since %q is no time: want 5m, 2026-01-31T12:00:00Z, 2026-01-31 or seconds since 1970", text)
}

// showLog prints a log until it ends, or a signal or whoever reads it has enough.
func showLog(parent context.Context, h host, ref string, options smartvm.LogOptions) error {
	ctx, stop := untilSignal(parent)
	defer stop()
	const undone = "the log cannot be shown"
	_, vm, err := oneVM(h, ref, undone)
	if err != nil {
		return err
	}
	if options.Source == "" {
		status, err := vm.Status(ctx)
		if err != nil {
			return vmFailure(undone, err)
		}
		options.Source = smartvm.LogConsole
		if len(status.Command) > 0 {
			options.Source = smartvm.LogAgent
		}
	}
	err = vm.Logs(ctx, options, h.out)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPIPE):
		return exitCode(exitSignalledBase + int(unix.SIGPIPE)) // as every program before a head(1)
	}
	return interruptedOr(ctx, vmFailure(undone, err))
}
