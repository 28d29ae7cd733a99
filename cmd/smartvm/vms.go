//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"smartvm"
)

// exitVM is the exit code when smartvm itself works, and something is wrong with a VM.
const exitVM = 1

// maxRef is the length of the longest id, in bytes.
const maxRef = 255

// Limits of calls that should not take long. A VM on which another call is at work is waited for so long.
const (
	callLimit   = 2 * time.Minute
	vmsAtOnce   = 8 // calls on several VMs under way at a time
	defaultStop = 10 * time.Second
)

// errCallLimit is the cause of a context whose call took too long.
var errCallLimit = fmt.Errorf("it did not end within %v", callLimit)

// vmCall is what is done with each VM of a command line.
type vmCall struct {
	undone string // "was not stopped"
	// limit bounds the call on each VM; 0: none.
	limit time.Duration
	// missing says that a VM that is not there is as good as one with which it was done.
	missing bool
	do      func(context.Context, *smartvm.Manager, *smartvm.VM) error
	advice  func(ref string, err error) []string // what to try; may be nil
}

// onEach does something with every VM named, several at once, and prints what was typed for those with which it worked, in
// that order. One failure keeps no other VM from its turn.
func onEach(parent context.Context, h host, refs []string, call vmCall) error {
	ctx, stop := untilSignal(parent)
	defer stop()
	manager, err := smartvm.NewManager(h.options)
	if err != nil {
		return err
	}
	defer h.tidy(ctx, manager)()
	results := make([]chan error, len(refs))
	places := make(chan struct{}, vmsAtOnce)
	var wait sync.WaitGroup
	for i, ref := range refs {
		results[i] = make(chan error, 1)
		wait.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			results[i] <- call.on(ctx, manager, ref)
		})
	}
	defer wait.Wait()
	code := 0
	for i, ref := range refs {
		err := <-results[i]
		if err == nil {
			if _, err := fmt.Fprintln(h.out, ref); err != nil && code == 0 {
				code = report(fmt.Errorf("print what was done: %w", err), h.progress)
			}
			continue
		}
		if errors.Is(err, errNothingToDo) {
			continue
		}
		if ctx.Err() != nil {
			return interruptedOr(ctx, err)
		}
		f := vmFailure(fmt.Sprintf("%q %s", shortened(ref), call.undone), err)
		if call.advice != nil {
			f.try = call.advice(ref, err)
		}
		f.print(h.progress)
		code = max(code, f.exitCode())
	}
	if code != 0 {
		return exitCode(code)
	}
	return nil
}

// errNothingToDo says that a VM was not there, and that this is as well.
var errNothingToDo = errors.New("there is no such VM")

// on finds the VM and does it.
func (c vmCall) on(ctx context.Context, manager *smartvm.Manager, ref string) error {
	if c.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.limit, errCallLimit)
		defer cancel()
	}
	vm, err := findVM(manager, ref)
	if err == nil {
		err = c.do(ctx, manager, vm)
	}
	var several *smartvm.AmbiguousError
	if c.missing && errors.Is(err, smartvm.VMNotFound) && !errors.As(err, &several) {
		return errNothingToDo
	}
	return err
}

// findVM returns the VM that was typed: by name, id, or the beginning of an id.
func findVM(manager *smartvm.Manager, ref string) (*smartvm.VM, error) {
	if len(ref) > maxRef {
		return nil, &smartvm.Error{Code: smartvm.VMNotFound, Op: "find", Err: fmt.Errorf("no VM has a name or id of %d bytes", len(ref))}
	}
	return manager.Find(ref)
}

// oneVM is for commands that have a single VM.
func oneVM(h host, ref, undone string) (*smartvm.Manager, *smartvm.VM, error) {
	manager, err := smartvm.NewManager(h.options)
	if err != nil {
		return nil, nil, err
	}
	vm, err := findVM(manager, ref)
	if err != nil {
		return nil, nil, vmFailure(undone, err)
	}
	return manager, vm, nil
}

// vmFailure tells an error of a call on a VM. It is the VM's affair, unless this program may not do its work at all.
func vmFailure(what string, err error) *failure {
	f := &failure{what: what, err: err, code: exitVM}
	var told *failure
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(err, smartvm.InsecurePath), smartvm.CodeOf(err) != "" && errors.Is(err, fs.ErrPermission):
		f.code = exitFailed
	}
	return f
}

// shortened is a text of which only the beginning is of interest when it is long.
func shortened(text string) string {
	const most = 80
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

// atLeastOneVM is for commands that take VMs.
func atLeastOneVM(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return &usageError{cmd, fmt.Errorf("%s needs a VM: a name, an id, or the beginning of an id", cmd.CommandPath())}
	}
	return noneEmpty(cmd, args)
}

// exactArgs is for commands whose arguments are counted; what tells which they are.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return &usageError{cmd, fmt.Errorf("%s takes %s, there are %d arguments", cmd.CommandPath(), what, len(args))}
		}
		return noneEmpty(cmd, args)
	}
}

func noneEmpty(cmd *cobra.Command, args []string) error {
	for _, arg := range args {
		if arg == "" {
			return &usageError{cmd, errors.New("an argument is empty")}
		}
	}
	return nil
}

// usage is a command line that makes no sense, in words.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{cmd, fmt.Errorf(format, args...)}
}
