package smartvm

import (
	"os"
	"sync"
)

// maxConsoleLog bounds each of the two files of a console log: the guest may write as much as it likes, for as long as it
// likes.
const maxConsoleLog = 4 << 20

// consoleWriter writes a guest's console to a file, and to whoever watches. When the file is full it becomes `<name>.1`,
// in place of an older one. A disk that is full loses console output, never the VM.
type consoleWriter struct {
	path  string
	watch func([]byte) // nil without a watcher

	mu     sync.Mutex
	file   *os.File // opened with the first byte: a start need not wait for it
	size   int64
	closed bool
}

func newConsoleWriter(path string, watch func([]byte)) *consoleWriter {
	return &consoleWriter{path: path, watch: watch}
}

// Write never fails: there is nobody who could do anything about it.
func (w *consoleWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watch != nil {
		w.watch(p)
	}
	if w.size+int64(len(p)) > maxConsoleLog {
		w.rotate()
	}
	if w.file == nil && !w.closed {
		w.file, _ = os.OpenFile(w.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	}
	if w.file != nil {
		n, _ := w.file.Write(p)
		w.size += int64(n)
	}
	return len(p), nil
}

// rotate makes room. Where the full file cannot be moved away it is written anew.
func (w *consoleWriter) rotate() {
	if w.file != nil {
		w.file.Close()
	}
	w.file, w.size = nil, 0
	_ = os.Rename(w.path, w.path+".1")
}

// Close closes the file; what is written afterwards is dropped.
func (w *consoleWriter) Close() error {
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
