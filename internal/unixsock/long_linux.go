package unixsock

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

func dialLong(ctx context.Context, path string) (net.Conn, error) {
	folder, short, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", short)
	if err != nil {
		return nil, fmt.Errorf("dial unix %s: %w", path, err)
	}
	return conn, nil
}

func listenLong(path string) (net.Listener, error) {
	folder, short, err := shorten(path)
	if err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		folder.Close()
		return nil, fmt.Errorf("listen unix %s: %w", path, err)
	}
	// The short path is only good as long as the folder is open: net must not remove by it.
	l.SetUnlinkOnClose(false)
	return &longListener{UnixListener: l, path: path, folder: folder}, nil
}

// shorten opens path's folder and gives a path through its descriptor, good until the folder is closed.
func shorten(path string) (folder *os.File, short string, err error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		return nil, "", tooLong(path)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", &os.PathError{Op: "open", Path: dir, Err: err}
	}
	short = fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
	if len(short) > MaxPath {
		unix.Close(fd)
		return nil, "", tooLong(path)
	}
	return os.NewFile(uintptr(fd), dir), short, nil
}

// longListener shows and removes the path that was asked for.
type longListener struct {
	*net.UnixListener
	path   string
	folder *os.File
	close  sync.Once
	err    error
}

func (l *longListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *longListener) Close() error {
	l.close.Do(func() {
		l.err = l.UnixListener.Close()
		// By the folder's descriptor: the path may lead elsewhere by now.
		_ = unix.Unlinkat(int(l.folder.Fd()), filepath.Base(l.path), 0)
		l.folder.Close()
	})
	return l.err
}
