package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Remove takes a cgroup away, or finds that it is gone. Processes that are in it are killed when it has this id, and else
// it is somebody else's and left alone. The context has a deadline, until which their end is waited for.
func Remove(ctx context.Context, dir, id string) error {
	err := rmdir(dir)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	if now, err := ID(dir); err != nil || id == "" || now != id {
		return ignoreMissing(err)
	}
	// Before the kill, so that no change is missed.
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return ignoreMissing(err)
	}
	defer events.Close()
	_ = UnboundDisks(dir) // only for it to be quick
	if err := killAll(dir); err != nil {
		return fmt.Errorf("end what is in the cgroup %s: %w", dir, err)
	}
	for {
		if err := awaitEmpty(ctx, events); err != nil {
			return fmt.Errorf("the cgroup %s does not become empty: %w", dir, err)
		}
		if err := rmdir(dir); !errors.Is(err, unix.EBUSY) || count(dir, "cgroup.events", "populated") == 0 {
			return err
		}
	}
}

func rmdir(dir string) error {
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// killAll kills every process in the cgroup, those that are being forked included where the kernel can (Linux 5.14).
func killAll(dir string) error {
	err := write(dir, "cgroup.kill", "1")
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	inside, err := words(dir, "cgroup.procs")
	for _, word := range inside {
		if pid, err := strconv.Atoi(word); err == nil && pid > 0 { // 0 is a process of another PID namespace
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return ignoreMissing(err)
}

// awaitEmpty waits until there is no living process in a cgroup, whose cgroup.events these are: "A read-only flat-keyed
// file which exists on non-root cgroups. […] a value change in this file generates a file modified event", which poll(2)
// tells as POLLPRI of a file whose content was read before.
func awaitEmpty(ctx context.Context, events *os.File) error {
	for {
		var text [256]byte
		n, err := events.ReadAt(text[:], 0)
		if errors.Is(err, unix.ENODEV) { // it was removed meanwhile
			return nil
		}
		if n == 0 && err != nil {
			return err
		}
		if countIn(string(text[:n]), "populated") == 0 {
			return nil
		}
		left := time.Second
		if deadline, ok := ctx.Deadline(); ok {
			left = time.Until(deadline)
		}
		if err := ctx.Err(); err != nil || left <= 0 {
			return errors.Join(context.DeadlineExceeded, err)
		}
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
