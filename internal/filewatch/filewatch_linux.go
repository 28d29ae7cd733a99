// Package filewatch tells when something in a folder changes, without asking again and again (inotify(7)).
package filewatch

import (
	"os"

	"golang.org/x/sys/unix"
)

// Watch watches one folder.
type Watch struct {
	file    *os.File
	changed chan struct{}
}

// New watches the folder dir: files that are made, written to, renamed or removed in it, and the folder itself when it is.
// Look at what you wait for after New and again after each change: what happened before New is not told.
func New(dir string) (*Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	const events = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "watch", Path: dir, Err: err}
	}
	w := &Watch{file: os.NewFile(uintptr(fd), "inotify of "+dir), changed: make(chan struct{}, 1)}
	go w.read()
	return w, nil
}

// Changed gets a token when something has changed since the last was taken.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// read turns events into tokens. What they say is of no account: more may have happened by now.
func (w *Watch) read() {
	buf := make([]byte, 4096)
	for {
		n, err := w.file.Read(buf)
		if err != nil || n == 0 {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

// Close ends the watch. It does not wait for the kernel, which takes some 16 ms over it.
func (w *Watch) Close() { go w.file.Close() }
