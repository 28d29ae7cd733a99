//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal unix.Signal }

func (i interrupted) Error() string {
	return fmt.Sprintf("interrupted by %s", unix.SignalName(i.signal))
}

func (i interrupted) exitCode() exitCode { return exitCode(exitSignalledBase + int(i.signal)) }

// interruptedOr returns the exit code of the signal that ended ctx, or err when none did.
func interruptedOr(ctx context.Context, err error) error {
	var i interrupted
	if errors.As(context.Cause(ctx), &i) {
		return i.exitCode()
	}
	return err
}

// interrupts turns the signals that this process gets into what a run does about them:
//
//   - SIGINT goes to the guest's command once it runs; a second one, or one before that, ends the VM;
//   - SIGTERM, SIGHUP and SIGQUIT end the VM;
//   - one more after that does not wait for the guest to shut down (hurry);
//   - SIGPIPE is nothing: the write that failed says so itself, and the VM must not be left alone;
//   - SIGWINCH is a new size of the terminal.
//
// What is sent to the guest is sent by a goroutine of its own: a guest that does not read must not keep a signal from
// ending its VM.
type interrupts struct {
	cancel  context.CancelCauseFunc
	hurry   chan struct{} // closed when there is no more patience
	toGuest chan func()

	mu        sync.Mutex
	forward   func(unix.Signal) // to the guest's command; nil without one
	resize    func()            // nil without a terminal
	forwarded bool              // SIGINT was
	ending    bool
}

// watchSignals takes the process's signals until stop is called; the context ends with the first that ends a run.
func watchSignals(parent context.Context) (ctx context.Context, in *interrupts, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	in = &interrupts{cancel: cancel, hurry: make(chan struct{}), toGuest: make(chan func(), maxToGuest)}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGWINCH)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				in.take(s.(unix.Signal))
			case <-done:
				return
			}
		}
	}()
	go func() {
		for {
			select {
			case send := <-in.toGuest:
				send()
			case <-done:
				return
			}
		}
	}()
	return ctx, in, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// untilSignal returns a context that a signal ends.
func untilSignal(parent context.Context) (context.Context, func()) {
	ctx, _, stop := watchSignals(parent)
	return ctx, stop
}

func (in *interrupts) take(s unix.Signal) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case s == unix.SIGPIPE:
	case s == unix.SIGWINCH:
		in.send(in.resize)
	case s == unix.SIGINT && in.forward != nil && !in.forwarded && !in.ending:
		in.forwarded = true
		forward := in.forward
		in.send(func() { forward(s) })
	case !in.ending:
		in.ending = true
		in.cancel(interrupted{s})
	default:
		select {
		case <-in.hurry:
		default:
			close(in.hurry)
		}
	}
}

// attach names who gets SIGINT and the terminal's size from now on; nil for nobody.
func (in *interrupts) attach(forward func(unix.Signal), resize func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.forward, in.resize = forward, resize
	in.send(resize) // the size may have changed meanwhile
}

// maxToGuest is how much may wait for a guest that does not read. What comes then is lost on it anyway.
const maxToGuest = 16

// send has f called when what was sent before is through; nil is nothing.
func (in *interrupts) send(f func()) {
	if f == nil {
		return
	}
	select {
	case in.toGuest <- f:
	default:
	}
}
