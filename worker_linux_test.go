package smartvm

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
)

// A worker is another process that performs deeds as it is told.
type worker struct {
	command *exec.Cmd
	orders  io.WriteCloser
	answers *json.Decoder
}

func (h house) hire(tb testing.TB) *worker {
	tb.Helper()
	w := &worker{command: h.play(tb, playWorker, part{})}
	w.command.Stderr = os.Stderr
	var err error
	if w.orders, err = w.command.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	answers, err := w.command.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	w.answers = json.NewDecoder(answers)
	if err := w.command.Start(); err != nil {
		tb.Fatal(err)
	}
	return w
}

// order has the worker begin.
func (w *worker) order(p part) error { return json.NewEncoder(w.orders).Encode(p) }

// answer waits until the worker is done; without an answer it has died.
func (w *worker) answer() (reply answer, alive bool) {
	err := w.answers.Decode(&reply)
	return reply, err == nil
}

// dismiss ends the worker.
func (w *worker) dismiss(tb testing.TB) {
	tb.Helper()
	w.orders.Close()
	var exit *exec.ExitError
	if err := w.command.Wait(); err != nil && !errors.As(err, &exit) {
		tb.Error(err)
	}
}
