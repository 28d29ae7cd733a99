package agent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"smartvm/internal/agentwire"
)

// terminal opens a new terminal of the user's, of the size given (pty(7)). The master end can be polled: reads of it obey
// deadlines, which they would not after a call of its Fd method.
func terminal(user *account, size agentwire.Size) (master, slave *os.File, err error) {
	failed := func(err error) (*os.File, *os.File, error) {
		for _, f := range []*os.File{master, slave} {
			if f != nil {
				f.Close()
			}
		}
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return failed(&os.PathError{Op: "open", Path: "/dev/ptmx", Err: err})
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return failed(os.NewSyscallError("TIOCGPTN", err))
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return failed(os.NewSyscallError("TIOCSPTLCK", err))
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return failed(err)
	}
	if size.Rows == 0 || size.Cols == 0 {
		size = agentwire.Size{Rows: 24, Cols: 80}
	}
	if err := setSize(master, size); err != nil {
		return failed(err)
	}
	if os.Geteuid() == 0 {
		if err := slave.Chown(int(user.uid), -1); err != nil { // the group stays tty, as devpts' gid= says
			return failed(err)
		}
	}
	return master, slave, nil
}

// setSize tells a terminal its size, and its foreground processes by SIGWINCH.
func setSize(master *os.File, size agentwire.Size) error {
	conn, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("TIOCSWINSZ", failed)
}
