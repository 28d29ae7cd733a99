package smartvm

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A VM's logs are in its folder. Each consists of a file and, once that was full, of the one before it, `<name>.1`; the
// bound holds for each of the two. Beside a log, `<name>.times` says when which of its bytes came.
const (
	maxConsoleLog = 4 << 20 // what the guest prints on its console
	maxVMMLog     = 1 << 20 // what the VMM has to say
	maxAgentLog   = 4 << 20 // what the VM's command prints
)

const (
	timesSuffix = ".times"
	olderSuffix = ".1"
	timesEvery  = time.Second // the grain of the times,
	timesBytes  = 256         // unless fewer bytes came,
	timesLatest = time.Minute // and the longest between two that were noted
	maxTimes    = 32 << 10    // a log is full with so many, too
)

// logWriter appends to a log. A guest may write as much as it likes, for as long as it likes. A disk that is full loses
// output, never the VM.
type logWriter struct {
	path  string
	limit int64

	mu     sync.Mutex
	file   *os.File // opened with the first byte: a start need not wait for it
	size   int64
	stamp  time.Time // the last time that was noted
	at     int64     // at which size
	times  int       // how many were
	closed bool
}

func newLogWriter(path string, limit int64) *logWriter { return &logWriter{path: path, limit: limit} }

// Write never fails: there is nobody who could do anything about it.
func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	given := len(p)
	if w.closed {
		return given, nil
	}
	if int64(len(p)) > w.limit {
		p = p[int64(len(p))-w.limit:]
	}
	w.open()
	if w.size+int64(len(p)) > w.limit || w.times > maxTimes {
		w.rotate()
	}
	if w.file != nil {
		w.noteTime()
		n, _ := w.file.Write(p)
		w.size += int64(n)
	}
	return given, nil
}

func (w *logWriter) open() {
	if w.file != nil {
		return
	}
	file, err := os.OpenFile(w.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	if info, err := file.Stat(); err == nil {
		w.size = info.Size()
	}
	w.file = file
}

// rotate makes room. Where the full file cannot be moved away it is written anew.
func (w *logWriter) rotate() {
	if w.file != nil {
		w.file.Close()
	}
	w.file, w.size, w.stamp, w.times = nil, 0, time.Time{}, 0
	if err := os.Rename(w.path, w.path+olderSuffix); err != nil {
		_ = os.Truncate(w.path, 0)
	}
	_ = os.Rename(w.path+timesSuffix, w.path+olderSuffix+timesSuffix)
	w.open()
}

// noteTime writes "<nanoseconds since 1970> <bytes before>" to the times, once in a while.
func (w *logWriter) noteTime() {
	now := time.Now()
	if since := now.Sub(w.stamp); since < timesEvery || since < timesLatest && w.size-w.at < timesBytes {
		return
	}
	w.stamp, w.at, w.times = now, w.size, w.times+1
	times, err := os.OpenFile(w.path+timesSuffix, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	fmt.Fprintf(times, "%d %d\n", now.UnixNano(), w.size)
	times.Close()
}

// Close closes the file; what is written afterwards is dropped.
func (w *logWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// logFiles lists a log's files, the older one first, with their times.
func logFiles(path string) []string {
	return []string{path + olderSuffix, path + olderSuffix + timesSuffix, path, path + timesSuffix}
}

// tailOf returns the last bytes of a log, from its newer file alone.
func tailOf(path string, most int64) []byte {
	file, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > most {
		_, _ = file.Seek(-most, io.SeekEnd)
	}
	data, err := io.ReadAll(io.LimitReader(file, most))
	if err != nil {
		return nil
	}
	return data
}
