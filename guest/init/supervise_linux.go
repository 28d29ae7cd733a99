package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxRestarts is how often an agent that died is started again.
	maxRestarts = 5
	// restartPause lies before a restart.
	restartPause = 100 * time.Millisecond
	// termGrace is what processes get between SIGTERM and SIGKILL at a shutdown, killGrace what is waited after.
	termGrace = 5 * time.Second
	killGrace = 2 * time.Second
)

// exitNoTransport is the agent's exit code where the VM has nothing to reach it by; there is no point in another try.
const exitNoTransport = 3

// supervise is PID 1's life: it keeps the agent running and reaps every process whose parent is gone, until it is told to
// shut down. It never returns.
func supervise() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	// SIGINT is Ctrl-Alt-Del and our agent; the others are what busybox's reboot, poweroff and halt send. All are one: a
	// power-off would leave Firecracker running on x86.
	orders := make(chan os.Signal, 1)
	signal.Notify(orders, unix.SIGINT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPWR)
	outliveHangup()

	agent, restarts := startAgent(), 0
	var restart <-chan time.Time
	for {
		select {
		case <-orders:
			shutdown(children)
		case <-restart:
			restart = nil
			agent = startAgent()
		case <-children:
			status, ended := reap(agent)
			if !ended || status.ExitStatus() == exitNoTransport {
				continue
			}
			if restarts++; restarts > maxRestarts {
				say("the agent has ended too often (%s): giving up", describe(status))
				shutdown(children)
			}
			say("the agent has ended (%s): starting it again", describe(status))
			restart = time.After(restartPause)
		}
	}
}

// reap takes every status there is and tells that of one process, if it came.
func reap(wanted int) (status unix.WaitStatus, ended bool) {
	for {
		var s unix.WaitStatus
		pid, err := unix.Wait4(-1, &s, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return status, ended
		}
		if pid == wanted {
			status, ended = s, true
		}
	}
}

func describe(s unix.WaitStatus) string {
	if s.Signaled() {
		return fmt.Sprintf("killed by %v", s.Signal())
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}

// startAgent starts this program again as the agent, in a session of its own. It does not use os/exec, which would wait
// for a child that reap may have taken. The program itself may be deleted by now; /proc/self/exe still leads to it.
func startAgent() int {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{agentName}, &syscall.ProcAttr{
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		giveUp(fmt.Errorf("start the agent: %w", err))
	}
	return pid
}

// shutdown ends all processes, writes everything to the disks and reboots.
func shutdown(children <-chan os.Signal) {
	unix.Kill(-1, unix.SIGTERM)
	unix.Kill(-1, unix.SIGCONT) // a stopped process could not end
	if !allGone(children, termGrace) {
		unix.Kill(-1, unix.SIGKILL)
		allGone(children, killGrace)
	}
	unix.Sync()
	unmountAll()
	reboot()
}

// allGone waits until there is no process left but this one: a child whose parent has ended becomes ours.
func allGone(children <-chan os.Signal, patience time.Duration) bool {
	timeout := time.After(patience)
	for {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.ECHILD {
				return true
			}
			if pid <= 0 && err != unix.EINTR {
				break
			}
		}
		select {
		case <-children:
		case <-timeout:
			return false
		}
	}
}

// reboot ends the VM: Firecracker, and the emulator, exit when the guest resets. It never returns.
func reboot() {
	unix.Sync()
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	say("reboot: %v", err)
	os.Exit(1) // the kernel panics when PID 1 ends
}
