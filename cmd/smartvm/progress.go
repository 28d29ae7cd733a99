//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

// progress tells on stderr what takes time: lines that stay, and, on a terminal, one that is replaced and goes away. It is
// a writer as well, so that a log does not run into that line.
type progress struct {
	w    io.Writer
	live bool // a terminal that may be written over, by a user who does not mind

	mu    sync.Mutex
	shown bool // the replaceable line stands there
}

func newProgress(f *os.File) *progress {
	live := term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return &progress{w: f, live: live}
}

// step shows what is being done, on a terminal only.
func (p *progress) step(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.live {
		return
	}
	p.wipe()
	fmt.Fprintf(p.w, "smartvm: "+format, args...)
	p.shown = true
}

// say prints a line that stays.
func (p *progress) say(format string, args ...any) {
	fmt.Fprintf(p, "smartvm: "+format+"\n", args...)
}

// clear takes the replaceable line away: from now on the terminal is somebody else's.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
}

// Write implements io.Writer.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	return p.w.Write(b)
}

func (p *progress) wipe() {
	if p.shown {
		io.WriteString(p.w, "\r\x1b[K")
		p.shown = false
	}
}
