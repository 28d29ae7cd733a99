package smartvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/record"
)

// supervisorFD is where a supervisor finds the connection to its starter.
const supervisorFD = 3

// answerLimit is how long a monitor may take to start a VMM.
const answerLimit = 20 * time.Second

// startedMonitor is a monitor that waits to be told what to do, or does it. It is started before there is anything to do:
// a process takes as long to come up as everything else that a start has to make.
type startedMonitor struct {
	vm       *VM
	link     *monitorLink
	identity record.Process
	settled  bool // the link has been let go of, or given back
}

// startMonitor starts a monitor: in a process of its own where there is a program for that, else in this process.
func (vm *VM) startMonitor() (s *startedMonitor, err error) {
	s = &startedMonitor{vm: vm}
	err = vm.options.hook.take(stepStartMonitor, func() (err error) {
		if len(vm.options.Supervisor) > 0 {
			s.link, s.identity, err = vm.startSupervisor()
			return err
		}
		ours, theirs := net.Pipe()
		s.link = newMonitorLink(ours)
		s.identity, err = record.Identify(os.Getpid())
		go vm.monitorHere(theirs)
		return err
	})
	if err != nil && s.link != nil {
		s.link.conn.Close()
	}
	return s, err
}

// monitorHere is a monitor in this process.
func (vm *VM) monitorHere(conn net.Conn) {
	m := &monitor{link: newMonitorLink(conn), settle: func() {
		if err := vm.Settle(context.Background()); err != nil && !errors.Is(err, VMNotFound) {
			vm.options.Logger.Error("the VM could not be put in order after its end", "vm", vm.id, "error", err)
		}
	}}
	if err := m.run(vm.options.hook); err != nil {
		vm.options.Logger.Warn("monitor", "vm", vm.id, "error", err)
	}
}

// giveBack ends a monitor, and the VMM that it may have started, unless it was let go of.
func (s *startedMonitor) giveBack() {
	if !s.settled {
		s.settled = true
		s.link.conn.Close()
	}
}

// letGo leaves the monitor to itself, or, where the VM is bound to this process, holds on to its connection for good.
func (s *startedMonitor) letGo() {
	s.settled = true
	if !s.vm.create.Attached {
		s.link.conn.Close()
		return
	}
	s.vm.mu.Lock()
	defer s.vm.mu.Unlock()
	s.vm.bound = s.link
}

// startSupervisor runs the supervisor: in a session of its own, without a terminal and without anything of ours but the
// connection.
func (vm *VM) startSupervisor() (*monitorLink, record.Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, record.Process{}, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "supervisor")
	defer theirs.Close()
	file := os.NewFile(uintptr(pair[0]), "starter")
	ours, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return nil, record.Process{}, err
	}
	command := exec.Command(vm.options.Supervisor[0], append(vm.options.Supervisor[1:len(vm.options.Supervisor):len(vm.options.Supervisor)], vm.key)...)
	command.Dir = "/" // it holds no folder that somebody may want to unmount
	command.Env = append(command.Env, supervisorEnv()...)
	command.ExtraFiles = []*os.File{theirs} // becomes supervisorFD
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		ours.Close()
		return nil, record.Process{}, err
	}
	identity, err := record.Identify(command.Process.Pid)
	if err != nil { // it ended at once, or /proc cannot be read
		ours.Close()
		return nil, record.Process{}, errors.Join(fmt.Errorf("%s ended at once", vm.options.Supervisor[0]), err, command.Wait())
	}
	go command.Wait() // it outlives us, or is reaped
	return newMonitorLink(ours), identity, nil
}

// supervisorEnv keeps the supervisor small: one of them stands beside every VM.
func supervisorEnv() []string { return []string{"GOMAXPROCS=1", "GOGC=25"} }

// Supervise is the supervisor's main function: `smartvm supervise` calls it. It serves the one starter at the other end of
// its descriptor 3, and returns when the VM has ended.
func Supervise() error { return supervise(nil) }

func supervise(hook stepHook) error {
	file := os.NewFile(supervisorFD, "starter")
	conn, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("a supervisor is started by the VM's start, not by hand: %w", err)
	}
	file.Close()
	m := &monitor{link: newMonitorLink(conn)}
	m.settle = func() { m.startSettling() }
	return m.run(hook)
}

// startSettling leaves the VM to a process that knows how to put it in order, or to start it again.
func (m *monitor) startSettling() {
	if len(m.spec.Settle) == 0 {
		return
	}
	command := exec.Command(m.spec.Settle[0], append(m.spec.Settle[1:], m.spec.Key)...)
	command.Env, command.Dir = m.spec.SettleEnv, "/"
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err == nil {
		_ = command.Process.Release()
	}
}

// answer waits for the monitor's answer to a spec.
func (l *monitorLink) answer(ctx context.Context) (monitorMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.conn.Close() })
	defer stop()
	m, err := l.receive()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return m, err
}
