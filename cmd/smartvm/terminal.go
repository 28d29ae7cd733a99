//go:build linux

package main

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/term"
)

// terminal is the user's, lent to the guest's command.
type terminal struct {
	file *os.File

	mu    sync.Mutex
	saved *term.State // nil while it is as the user left it
}

// openTerminal returns the terminal at in, or an error when there is none.
func openTerminal(in *os.File) (*terminal, error) {
	if !term.IsTerminal(int(in.Fd())) {
		return nil, &failure{
			what: "-t needs a terminal", stage: stageConfigure, err: errors.New("the standard input is none"),
			try: []string{"leave -t out; -i alone hands any input on"},
		}
	}
	return &terminal{file: in}, nil
}

// size returns rows and columns, 0 and 0 when the terminal does not say.
func (t *terminal) size() (rows, cols uint16) {
	width, height, err := term.GetSize(int(t.file.Fd()))
	if err != nil {
		return 0, 0
	}
	return uint16(height), uint16(width)
}

// raw hands every byte through as it is typed, ^C too: the guest's terminal makes signals of them.
func (t *terminal) raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		return nil
	}
	saved, err := term.MakeRaw(int(t.file.Fd()))
	t.saved = saved
	return err
}

// restore gives the terminal back as it was. It may be called at any time and more than once.
func (t *terminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved == nil {
		return
	}
	term.Restore(int(t.file.Fd()), t.saved)
	t.saved = nil
}
