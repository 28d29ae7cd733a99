package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"smartvm/internal/cpuarch"
)

// Stop ends the VMM by the ladder's rungs and returns the method that worked; nil is the [DefaultLadder] of this
// machine. A rung that cannot work (the guest is paused or not started, the VMM refuses) is left at once. When Stop
// returns without an error, the VMM is reaped and its socket gone.
//
// A second call waits for the first and returns its result; a VMM that has ended already is [ByItself]. When ctx ends,
// Stop gives up and the VMM may still run.
func (p *Process) Stop(ctx context.Context, ladder Ladder) (Method, error) {
	select {
	case p.stopping <- struct{}{}:
		defer func() { <-p.stopping }()
	case <-ctx.Done():
		return "", fmt.Errorf("VMM %d: another stop is under way: %w", p.PID(), context.Cause(ctx))
	}
	if p.stopped != "" {
		return p.stopped, nil
	}
	if ladder == nil {
		ladder = DefaultLadder(cpuarch.Host())
	}
	select {
	case <-p.done:
		p.stopped = ByItself
		return p.stopped, nil
	default:
	}
	var refused error
	for _, rung := range ladder {
		ended, err := p.descend(ctx, rung)
		switch {
		case ended:
			p.stopped = rung.Method
			return p.stopped, nil
		case ctx.Err() != nil:
			return "", fmt.Errorf("VMM %d still runs: %w", p.PID(), context.Cause(ctx))
		case err != nil:
			refused = errors.Join(refused, fmt.Errorf("%s: %w", rung.Method, err))
		}
	}
	return "", errors.Join(fmt.Errorf("VMM %d still runs after the last rung", p.PID()), refused)
}

// descend tries one rung and tells whether the VMM has ended.
func (p *Process) descend(ctx context.Context, rung Rung) (ended bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, rung.Limit)
	defer cancel()
	switch rung.Method {
	case ByCtrlAltDel:
		err = p.askGuest(ctx)
	case BySIGTERM:
		err = p.Signal(syscall.SIGTERM)
	case BySIGKILL:
		err = p.Signal(syscall.SIGKILL)
	default:
		err = errors.New("no such method")
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		if !brokenOff(err) {
			return false, err
		}
		// The VMM may be ending just now: give the kernel the time to say so.
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, endGrace)
		defer stop()
	}
	select {
	case <-p.done:
		return true, nil
	case <-ctx.Done():
		return false, err
	}
}

// askGuest presses Ctrl-Alt-Del. A paused guest would not see it, and one without a keyboard driver does not tell.
func (p *Process) askGuest(ctx context.Context) error {
	info, err := p.client.Info(ctx)
	if err != nil {
		return err
	}
	if info.State != StateRunning {
		return fmt.Errorf("the VM is %q, not running", info.State)
	}
	return p.client.SendCtrlAltDel(ctx)
}

// end kills and reaps a VMM whose start failed.
func (p *Process) end() error {
	if err := p.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end VMM %d: %w", p.PID(), err)
	}
	limit := time.NewTimer(killLimit)
	defer limit.Stop()
	select {
	case <-p.done:
		return nil
	case <-limit.C:
		return fmt.Errorf("VMM %d does not end after SIGKILL: it waits in the kernel", p.PID())
	}
}
