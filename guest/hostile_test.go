package guest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"

	"smartvm/guest"
	"smartvm/internal/agentwire"
)

// pretender is an agent that reads one request and then sends what it likes.
func pretender(reply []byte, stay bool) *guest.Agent {
	return guest.New(func(context.Context, uint32) (net.Conn, error) {
		host, theirs := net.Pipe()
		go func() {
			c := agentwire.NewConn(theirs)
			if _, err := c.Next(); err == nil {
				go io.Copy(io.Discard, theirs) // so that the host is not held up
				theirs.Write(reply)
			}
			if !stay {
				theirs.Close()
			}
		}()
		return host, nil
	})
}

func frames(pairs ...any) (b []byte) {
	for i := 0; i < len(pairs); i += 2 {
		var err error
		if b, err = agentwire.Append(b, pairs[i].(agentwire.Kind), pairs[i+1].([]byte)); err != nil {
			panic(err)
		}
	}
	return b
}

var started = frames(agentwire.KindStarted, []byte(`{"pid":1}`))

func TestAnAgentThatBreaksTheProtocolGivesAnErrorAndNoStatus(t *testing.T) {
	t.Parallel()
	flood := bytes.Clone(started)
	for range agentwire.Window/agentwire.MaxData + 1 {
		flood = append(flood, frames(agentwire.KindStdout, make([]byte, agentwire.MaxData))...)
	}
	for what, reply := range map[string][]byte{
		"nothing":                   nil,
		"half a frame":              {4},
		"garbage":                   []byte("HTTP/1.1 200 OK\r\n"),
		"a hello for an exec":       frames(agentwire.KindHello, []byte("{}")),
		"credit nobody needs":       append(bytes.Clone(started), frames(agentwire.KindCredit, agentwire.Credit{Stream: agentwire.KindStdin, Bytes: 1}.Payload())...),
		"credit for its own stream": append(bytes.Clone(started), frames(agentwire.KindCredit, agentwire.Credit{Stream: agentwire.KindStdout, Bytes: 1}.Payload())...),
		"an exit out of range":      append(bytes.Clone(started), frames(agentwire.KindExit, agentwire.Exit{Code: 4711}.Payload())...),
		"output beyond the window":  flood,
		"an end without an exit":    append(bytes.Clone(started), frames(agentwire.KindStdoutEnd, []byte{}, agentwire.KindStderrEnd, []byte{})...),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			stop := make(chan struct{}) // the writer takes nothing before the command has been started
			s, err := pretender(reply, false).Start(t.Context(), guest.Command{Args: []string{"x"}, Stdout: blocked(stop)})
			if err != nil {
				return
			}
			defer s.Close()
			close(stop)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if status, err := s.Wait(ctx); !errors.Is(err, guest.ErrLost) {
				t.Errorf("got %v, %v", status, err)
			}
		})
	}
}

// blocked is a writer that takes nothing until the channel is closed.
type blocked chan struct{}

func (b blocked) Write(p []byte) (int, error) { <-b; return len(p), nil }

func TestAnAgentThatSaysNothingCostsTheCallersContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() { failed <- pretender(nil, true).Ping(ctx) }()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestTheGuestsWordsAreShortAndPrintable(t *testing.T) {
	t.Parallel()
	message := `{"reason":"invented","message":"\u001b[2Jgone\n` + strings.Repeat("x", 8000) + `"}`
	_, err := pretender(frames(agentwire.KindFailed, []byte(message)), false).Start(t.Context(), guest.Command{Args: []string{"x"}})
	var refused *guest.StartError
	if !errors.As(err, &refused) || refused.Reason != guest.Internal || strings.ContainsAny(refused.Message, "\x1b\n") || len(refused.Message) > 1024 {
		t.Fatalf("%v", err)
	}
}

// dialler is an agent that opens the main command's connection and sends what it likes.
func dialler(words []byte) net.Conn {
	host, theirs := net.Pipe()
	go func() {
		go io.Copy(io.Discard, theirs)
		theirs.Write(words)
		theirs.Close()
	}()
	return host
}

var hello = frames(agentwire.KindHello, []byte(`{"protocol":1,"boot":"x"}`))

func TestAMainCommandsConnectionThatBreaksTheProtocolIsNone(t *testing.T) {
	t.Parallel()
	for what, words := range map[string][]byte{
		"nothing":                   nil,
		"garbage":                   []byte("HTTP/1.1 200 OK\r\n"),
		"another protocol":          frames(agentwire.KindHello, []byte(`{"protocol":2,"boot":"x"}`)),
		"output before its start":   append(bytes.Clone(hello), frames(agentwire.KindStdout, []byte("x"))...),
		"a hello and nothing after": hello,
		"a refusal":                 frames(agentwire.KindFailed, []byte(`{"reason":"internal"}`)),
	} {
		if s, err := guest.AcceptMain(t.Context(), dialler(words), nil, nil); err == nil {
			s.Close()
			t.Errorf("%s was taken for a main command", what)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	silent, _ := net.Pipe()
	if _, err := guest.AcceptMain(ctx, silent, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("silence: %v", err)
	}
}

func TestAnOlderAgentIsNotAskedForWhatItCannotDo(t *testing.T) {
	t.Parallel()
	a := pretender(hello, false)
	_, err := a.StartDetached(t.Context(), guest.Command{Args: []string{"x"}, Main: true})
	_, copyErr := a.CopyTo(t.Context(), ".", "/x", guest.CopyOptions{})
	_, backErr := a.CopyFrom(t.Context(), "/x", t.TempDir(), guest.CopyOptions{})
	for _, err := range []error{err, a.SignalMain(t.Context(), 15), copyErr, backErr} {
		if !errors.Is(err, guest.ErrUnsupported) {
			t.Errorf("got %v", err)
		}
	}
}

func FuzzAcceptMain(f *testing.F) {
	f.Add(hello)
	f.Add(slices.Concat(hello, started, frames(agentwire.KindStdout, []byte("out"), agentwire.KindStdoutEnd, []byte{},
		agentwire.KindStderrEnd, []byte{}, agentwire.KindExit, agentwire.Exit{Code: 3}.Payload())))
	f.Fuzz(func(t *testing.T, words []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		s, err := guest.AcceptMain(ctx, dialler(words), io.Discard, io.Discard)
		if err != nil {
			return
		}
		defer s.Close()
		if _, err := s.Wait(ctx); errors.Is(err, context.DeadlineExceeded) {
			t.Fatal("it hangs")
		}
	})
}

func FuzzSession(f *testing.F) {
	f.Add(frames(agentwire.KindStdout, []byte("out"), agentwire.KindStderr, []byte("err"), agentwire.KindStdoutEnd, []byte{},
		agentwire.KindStderrEnd, []byte{}, agentwire.KindExit, agentwire.Exit{Code: 3}.Payload()))
	f.Add(frames(agentwire.KindExit, agentwire.Exit{Signal: 9}.Payload(), agentwire.KindExit, agentwire.Exit{}.Payload()))
	f.Add(frames(agentwire.KindStdinEnd, []byte{}, agentwire.KindStdoutEnd, []byte{}, agentwire.KindStdout, []byte{1}))
	f.Fuzz(func(t *testing.T, reply []byte) {
		before := runtime.NumGoroutine()
		s, err := pretender(append(bytes.Clone(started), reply...), false).Start(t.Context(), guest.Command{Args: []string{"x"}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := s.Wait(ctx); errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("it hangs; %d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		s.Close()
	})
}
