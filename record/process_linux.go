package record

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Process is a process that is known again later, by this process or another: its number alone may be a stranger's by
// then. Boot and start make it unique, as long as the numbers do not go round within one clock tick (10 ms). The zero
// value is no process.
type Process struct {
	PID int `json:"pid"`
	// Start is when it started, in clock ticks since boot (sysconf(_SC_CLK_TCK), 100 per second): field 22 of
	// /proc/<pid>/stat, proc_pid_stat(5). It stays over execve(2).
	Start uint64 `json:"start"`
	Boot  string `json:"boot"` // as of [BootID]
	// Space is the PID namespace in which the number counts (pid_namespaces(7)), "pid:[4026531836]"; "" is this one, whichever
	// that is. Two containers that share a folder do not share their numbers.
	Space string `json:"space,omitempty"`
}

// Identify returns what makes a process unique, also one that has ended but was not waited for. When there is none of this
// number the error wraps [fs.ErrNotExist], and [os.ErrProcessDone], too; any other error says what is missing in /proc.
func Identify(pid int) (Process, error) {
	boot, err := BootID()
	if err != nil {
		return Process{}, err
	}
	s, err := readStat(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: s.start, Boot: boot, Space: pidSpace()}, nil
}

// pidSpace is the PID namespace of this process; "" where /proc does not tell.
var pidSpace = sync.OnceValue(func() string {
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return space
})

// foreign tells whether the process's number is of another PID namespace: nothing can be said of it here.
func (p Process) foreign() bool {
	return p.Space != "" && pidSpace() != "" && p.Space != pidSpace()
}

// Alive tells whether the process runs: the boot and the start are the same, and it is neither a zombie (Z) nor dead (X).
// Where /proc cannot tell, and in another PID namespace, it counts as alive: one may wait for a dead process in vain, but must not clean up after a
// living one.
func (p Process) Alive() bool {
	boot, err := BootID()
	if p.PID <= 0 || p.Boot == "" || err == nil && boot != p.Boot {
		return false
	}
	if p.foreign() {
		return true
	}
	s, err := readStat(p.PID)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	return s.start == p.Start && s.state != 'Z' && s.state != 'X'
}

// Kill ends the process with SIGKILL and waits until it has ended, or until ctx is over; then the error wraps ctx's cause
// and names the process. That it has ended already is success. It works on a pidfd (pidfd_open(2), Linux 5.3), so it never
// hits another process of the same number. Its parent still has to wait for it: until then it is a zombie.
func (p Process) Kill(ctx context.Context) error {
	if err := p.kill(ctx); err != nil {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return nil
}

// BootID returns what the kernel calls this boot, a random UUID (/proc/sys/kernel/random/boot_id, random(4)).
func BootID() (string, error) { return bootID() }

var bootID = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	id := string(bytes.TrimSpace(text))
	if err == nil && id == "" {
		err = errors.New("/proc/sys/kernel/random/boot_id is empty")
	}
	if err != nil {
		return "", fmt.Errorf("no boot id, so processes cannot be told from those of another boot: %w", err)
	}
	return id, nil
})

func (p Process) kill(ctx context.Context) error {
	boot, err := BootID()
	if err != nil {
		return err
	}
	if p.Boot != boot {
		return nil // it ended with its boot
	}
	if p.PID <= 0 {
		return errors.New("no process has such a number")
	}
	if p.foreign() {
		return fmt.Errorf("it is in another PID namespace (%s): act on it from there", p.Space)
	}
	// The order is what keeps strangers safe. First the pidfd, which stays with whoever has the number now. Then the start:
	// if it is the right one, then the process has had its number from before the pidfd until now, so the pidfd is its.
	pidfd, err := unix.PidfdOpen(p.PID, 0)
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		// EINVAL, since Linux 6.16 ENOENT: the number is that of a thread by now.
		return nil
	case err != nil:
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(pidfd)
	s, err := readStat(p.PID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.start != p.Start {
		return nil // another one has its number
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("pidfd_send_signal: %w", err)
	}
	return awaitEnd(ctx, pidfd)
}

// awaitEnd waits until the pidfd is readable, which it is once all threads of the process have ended (pidfd_open(2)).
func awaitEnd(ctx context.Context, pidfd int) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	written := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(written)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // eventfd(2): adds this number, and it is readable
	})
	defer func() {
		if !stop() {
			<-written
		}
		unix.Close(wake)
	}()

	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("poll: %w", err)
		case fds[0].Revents != 0:
			return nil
		}
		return fmt.Errorf("it did not end in time after SIGKILL: %w", context.Cause(ctx))
	}
}

// stat is what counts of /proc/<pid>/stat.
type stat struct {
	state byte
	start uint64
}

// readStat reads /proc/<pid>/stat. Its error for a missing process is a gone; it takes care not to say so of one that
// /proc just does not show.
func readStat(pid int) (stat, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/stat"
	text, err := os.ReadFile(name)
	if errors.Is(err, unix.ESRCH) { // it ended between open and read
		return stat{}, gone(pid)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return stat{}, explainMissing(pid, name)
	}
	if err != nil {
		return stat{}, err
	}
	s, err := parseStat(string(text))
	if err != nil {
		return stat{}, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// explainMissing tells why there is no such file: no process, no /proc, or one that hides others' processes.
func explainMissing(pid int, name string) error {
	if pid <= 0 {
		return gone(pid)
	}
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		return fmt.Errorf("is /proc mounted? %w", errors.New(err.Error())) // not to be taken for fs.ErrNotExist
	}
	if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) {
		return gone(pid)
	}
	if _, err := os.Stat(name); err == nil {
		return gone(pid) // it was; another one started just now
	}
	return fmt.Errorf("process %d exists, but /proc does not show it (mounted with hidepid?)", pid)
}

// parseStat reads the third and the twenty-second field. The second one, the command's name, stands in parentheses and
// may have any characters, parentheses and blanks, too; what follows its last parenthesis are numbers and one letter.
func parseStat(text string) (stat, error) {
	const state, start = 0, 19 // the third and the twenty-second, counted from the one after the name
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= start || len(fields[state]) != 1 {
		return stat{}, fmt.Errorf("not a process's state: %q", text)
	}
	ticks, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("start time: %w", err)
	}
	return stat{state: fields[state][0], start: ticks}, nil
}

// gone is the error for a process that does not exist.
type gone int

func (g gone) Error() string { return fmt.Sprintf("process %d is gone", int(g)) }

func (g gone) Is(target error) bool { return target == fs.ErrNotExist || target == os.ErrProcessDone }
