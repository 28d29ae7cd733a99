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
	path string

	mu    sync.Mutex
	file  *os.File
	size  int64
	watch func([]byte) // nil without a watcher
}

func newConsoleWriter(path string, watch func([]byte)) (*consoleWriter, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &consoleWriter{path: path, file: file, watch: watch}, nil
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
	if w.file != nil {
		n, _ := w.file.Write(p)
		w.size += int64(n)
	}
	return len(p), nil
}

func (w *consoleWriter) rotate() {
	if w.file != nil {
		w.file.Close()
	}
	w.file, w.size = nil, 0
	if os.Rename(w.path, w.path+".1") != nil {
		return
	}
	if file, err := os.OpenFile(w.path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600); err == nil {
		w.file = file
	}
}

// Close closes the file; what is written afterwards is dropped.
func (w *consoleWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}
