package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Holder is who holds a lock exclusively, as it wrote into the lock file. It is for people to read: what counts is the
// flock. The zero value is a holder of whom nothing is known.
type Holder struct {
	PID   int       `json:"pid"`
	Op    string    `json:"op"`    // what it holds the lock for
	Since time.Time `json:"since"` // since when
}

// String names the holder in the middle of a sentence: `process 123 ("stop", since 12:00:01)`, in local time, or
// "another process".
func (h Holder) String() string {
	if h == (Holder{}) {
		return "another process"
	}
	return fmt.Sprintf("process %d (%q, since %s)", h.PID, h.Op, h.Since.Local().Format(time.TimeOnly))
}

// BusyError says that somebody else holds a lock.
type BusyError struct {
	Path   string
	Holder Holder
	Err    error // why the wait ended, the cause of the context; nil when there was no wait
}

func (e *BusyError) Error() string {
	text := fmt.Sprintf("lock %s is held by %s", e.Path, e.Holder)
	if e.Err != nil {
		text += ": gave up waiting: " + e.Err.Error()
	}
	return text
}

func (e *BusyError) Unwrap() error { return e.Err }

// maxHolder is how many bytes of a lock file are looked at.
const maxHolder = 4096

// announce marks the lock as held exclusively, and writes who holds it into the file. The name may fail to get there: to
// remove a VM from a full disk needs the lock, but not the name.
func (l *Lock) announce(op string) error {
	if err := mark(l.file); err != nil {
		return err
	}
	text, err := json.Marshal(Holder{PID: os.Getpid(), Op: op, Since: time.Now()})
	if err != nil {
		return err
	}
	_ = l.file.Truncate(0)
	_, _ = l.file.WriteAt(append(text, '\n'), 0)
	return nil
}

// readHolder reads who holds a lock. The file is written while others read it, may be of somebody who was killed, and may
// hold anything: where it does not name a process that runs, the holder is unknown.
func readHolder(f *os.File) Holder {
	text := make([]byte, maxHolder)
	n, err := f.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Holder{}
	}
	var h Holder
	if err := json.Unmarshal(text[:n], &h); err != nil || h.PID <= 0 {
		return Holder{}
	}
	if errors.Is(unix.Kill(h.PID, 0), unix.ESRCH) {
		return Holder{}
	}
	return h
}
