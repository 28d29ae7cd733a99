package agent

import (
	"io"
	"os"
	"time"

	"smartvm/internal/agentwire"
)

// pump sends what a command writes to one of its streams.
type pump struct {
	from    *os.File // nil for a stream that does not exist
	to      sink
	exited  <-chan struct{} // closed when the command has ended
	lasting bool            // the command outlives the host's interest: go on reading when nobody takes what it writes
}

// sink is where a command's output goes.
type sink interface {
	io.Writer
	End() error
}

// run sends until the stream's end, or until the command has ended and nothing more comes. When the connection is gone,
// the main command's output is dropped, so that it is not held up.
func (p *pump) run() {
	defer p.to.End()
	if p.from == nil {
		return
	}
	buf := make([]byte, agentwire.MaxData)
	for tail := 0; tail < maxTail; {
		over := p.over()
		if over {
			p.from.SetReadDeadline(time.Now().Add(outputGrace))
		}
		n, err := p.from.Read(buf)
		if over {
			tail += n
		}
		if n > 0 {
			if _, failed := p.to.Write(buf[:n]); failed != nil && !p.lasting {
				return
			}
		}
		// An error is the end: EOF of a pipe, EIO of a terminal that nobody has open, or the deadline. The deadline may
		// have been set by ended while we were reading: then there may be more.
		if err != nil && (over || !p.over()) {
			return
		}
	}
}

func (p *pump) over() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// ended bounds a read that waits now, as the command has ended.
func (p *pump) ended() {
	if p.from != nil {
		p.from.SetReadDeadline(time.Now().Add(outputGrace))
	}
}

// unwanted closes the stream for the command: it gets SIGPIPE, or EPIPE, at its next write; from a terminal, SIGHUP.
func (p *pump) unwanted() {
	if p.from != nil {
		p.from.Close()
	}
}
