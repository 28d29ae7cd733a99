//go:build linux

package agent_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pidfd opens a process, so that its end can be waited for.
func pidfd(t *testing.T, pid int) int {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func waitGone(t *testing.T, fd int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != 1 {
			t.Fatalf("the process is still there: %v", err)
		}
		return
	}
}
