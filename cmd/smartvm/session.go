//go:build linux

package main

import (
	"context"

	"golang.org/x/sys/unix"

	"smartvm/guest"
)

// guestSession is a command in a guest with a person in front of it.
type guestSession struct {
	host
	signals     *interrupts
	terminal    *terminal // nil without -t
	interactive bool      // the command gets the standard input
}

// run runs a command to its end. When ctx ends first, so does the command.
func (g guestSession) run(ctx context.Context, agent *guest.Agent, cmd guest.Command) (guest.ExitStatus, error) {
	cmd.Stdout, cmd.Stderr = g.out, g.err
	if g.interactive {
		cmd.Stdin = g.in
	}
	if g.terminal != nil {
		cmd.Rows, cmd.Cols = g.terminal.size()
	}
	session, err := agent.Start(ctx, cmd)
	if err != nil {
		return guest.ExitStatus{}, err
	}
	defer session.Close()
	if g.terminal != nil && g.interactive {
		if err := g.terminal.raw(); err != nil {
			return guest.ExitStatus{}, err
		}
		defer g.terminal.restore()
	}
	g.attach(session)
	defer g.signals.attach(nil, nil)
	return session.Wait(ctx)
}

// attach gives the command the user's signals and the size of the terminal.
func (g guestSession) attach(session *guest.Session) {
	forward := func(s unix.Signal) {
		if err := session.Signal(int(s)); err != nil {
			g.options.Logger.Warn("the signal did not reach the guest", "signal", s, "error", err)
		}
	}
	var resize func()
	if g.terminal != nil {
		resize = func() {
			if rows, cols := g.terminal.size(); rows > 0 {
				session.Resize(rows, cols) // an error means that the session is over, and is told there
			}
		}
	}
	g.signals.attach(forward, resize)
}
