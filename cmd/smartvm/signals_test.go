//go:build linux

package main

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAGuestThatDoesNotReadCannotKeepASignalFromEndingItsVM(t *testing.T) {
	t.Parallel()
	ctx, in, stop := watchSignals(t.Context())
	defer stop()
	stuck, forwarding := make(chan struct{}), make(chan struct{})
	defer close(stuck)
	in.attach(func(unix.Signal) { close(forwarding); <-stuck }, func() {})
	in.take(unix.SIGINT)
	<-forwarding
	for range 2 * maxToGuest {
		in.take(unix.SIGWINCH)
	}
	in.take(unix.SIGTERM)
	<-ctx.Done()
	var i interrupted
	if !errors.As(context.Cause(ctx), &i) || i.signal != unix.SIGTERM {
		t.Errorf("the run was ended by %v", context.Cause(ctx))
	}
	in.attach(nil, nil) // what a run does next
	in.take(unix.SIGINT)
	<-in.hurry
}
