package smartvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/firecracker"
	"smartvm/guest"
	"smartvm/internal/undo"
	"smartvm/record"
)

// A monitor is a VMM's parent for as long as that lives: it starts the VMM, collects what VMM and guest print, greets the
// guest, notes how all of it ended, and has the VM put in order. It does nothing else; calls on the VM go from the caller
// straight to the VMM's and the agent's sockets, so that a VM whose monitor died lacks logs and a known end, no more.
//
// It runs in a process of its own (Supervise), or in the process that starts the VM, and is told what to do over a
// connection in both cases.
type monitor struct {
	spec monitorSpec
	link *monitorLink
	// settle puts the VM in order when it ended while nobody held on to it.
	settle func()

	committed chan struct{} // closed when the VM is to live on
	gone      chan struct{} // closed when the starter has ended the connection

	steps   undo.Stack
	lock    *record.Lock
	console *firecracker.Console
	log     *firecracker.Console
	process *firecracker.Process
	guest   *guestLink // nil without our init
	command *commandWatch
	oomKill uint64 // how often this host's kernel had killed for want of memory
}

// monitorSpec is what a monitor must know.
type monitorSpec struct {
	ID        string        `json:"id"`
	Key       string        `json:"key"`
	Folder    string        `json:"folder"`  // the VM's
	Work      string        `json:"work"`    // where the VMM works
	Runtime   string        `json:"runtime"` // of the sockets
	Instance  uint64        `json:"instance"`
	Binary    string        `json:"binary"`
	Args      []string      `json:"args,omitempty"`
	Env       []string      `json:"env,omitempty"`
	Vsock     string        `json:"vsock,omitempty"` // the host's path; "" without
	Guest     bool          `json:"guest,omitempty"` // our init runs in the guest
	Restored  bool          `json:"restored,omitempty"`
	Command   *Command      `json:"command,omitempty"`
	Timeout   time.Duration `json:"timeout,omitempty"`
	Jail      *jailSpec     `json:"jail,omitempty"`
	Cgroup    string        `json:"cgroup,omitempty"`   // the folder of the VM's cgroup; "" without limits
	Attached  bool          `json:"attached,omitempty"` // the VM ends when the connection does
	Settle    []string      `json:"settle,omitempty"`
	SettleEnv []string      `json:"settleEnv,omitempty"`
}

// monitorMessage is one message between a starter and its monitor. The starter sends Spec, and Commit when the VM is to
// live on; the monitor answers with Spawned or Failed, and at the end sends Ended. A connection that ends before Commit
// is a starter that died: the VMM is ended.
type monitorMessage struct {
	Spec    *monitorSpec    `json:"spec,omitempty"`
	Commit  bool            `json:"commit,omitempty"`
	Spawned *record.Process `json:"spawned,omitempty"`
	Failed  string          `json:"failed,omitempty"`
	Ended   *ExitNote       `json:"ended,omitempty"`
}

// How long a monitor waits for what may not come.
const (
	commandGrace = 3 * time.Second // for the status of a command whose guest has ended
	timeoutGrace = 5 * time.Second // for a guest that shuts down when its time is over
)

// monitorLink is one end of the connection.
type monitorLink struct {
	conn io.ReadWriteCloser
	in   *json.Decoder

	mu  sync.Mutex
	out *json.Encoder
}

func newMonitorLink(conn io.ReadWriteCloser) *monitorLink {
	return &monitorLink{conn: conn, in: json.NewDecoder(conn), out: json.NewEncoder(conn)}
}

func (l *monitorLink) send(m monitorMessage) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Encode(m)
}

func (l *monitorLink) receive() (m monitorMessage, err error) {
	err = l.in.Decode(&m)
	return m, err
}

// run is the monitor's whole life. It returns when the VM has ended and the end is noted. hook is a test's.
func (m *monitor) run(hook stepHook) error {
	first, err := m.link.receive()
	switch {
	case errors.Is(err, io.EOF):
		return nil // the start was given up before there was anything to do
	case err != nil:
		return err
	case first.Spec == nil:
		return errors.New("the monitor was told nothing")
	}
	m.spec = *first.Spec
	if err := hook.take(stepMonitorSpawn, m.spawn); err != nil {
		err = errors.Join(err, m.steps.Unwind(context.Background()))
		_ = m.link.send(monitorMessage{Failed: err.Error()})
		return err
	}
	by := m.watch()
	ending := m.ending() != "" // whoever ends the VM will put it in order, too
	note := m.describe(by)
	noteErr := hook.take(stepMonitorNote, func() error { return writeExit(folder{data: m.spec.Folder}, note) })
	undone := m.steps.Unwind(context.Background()) // frees the monitor's lock: the note is there
	_ = m.link.send(monitorMessage{Ended: &note})
	if !ending && m.letGo(by) {
		_ = hook.take(stepMonitorSettle, func() error { m.settle(); return nil })
	}
	m.link.conn.Close()
	return errors.Join(noteErr, undone)
}

// spawn makes what the VMM needs around it, and starts it.
func (m *monitor) spawn() (err error) {
	lock := filepath.Join(m.spec.Runtime, monitorName)
	if err := record.Ensure(lock); err != nil {
		return err
	}
	if m.lock, err = record.Try(lock, "monitor"); err != nil {
		return fmt.Errorf("another monitor is at work: %w", err)
	}
	m.steps.Add("free the monitor's lock", func(context.Context) error { return m.lock.Release() })
	if m.console, err = m.collect(consoleFIFO, consoleLog, maxConsoleLog); err != nil {
		return err
	}
	if m.log, err = m.collect(vmmFIFO, vmmLog, maxVMMLog); err != nil {
		return err
	}
	if m.spec.Guest {
		if m.guest, err = listenForGuest(m.spec.Vsock, m.spec.Restored); err != nil {
			return err
		}
		m.steps.Add("stop listening for the guest", func(context.Context) error { return m.guest.close() })
		if m.command, err = m.watchCommand(); err != nil {
			return err
		}
		m.steps.Add("stop listening for the command", func(context.Context) error { return m.command.close() })
	}
	m.oomKill = oomKills()
	command, err := m.vmm()
	if err != nil {
		return err
	}
	m.process, err = firecracker.Spawn(context.Background(), command)
	if err != nil {
		return err
	}
	m.steps.Add("end the VMM", func(ctx context.Context) error {
		letDisksGo(m.spec.Cgroup)
		_, err := m.process.Stop(ctx, firecracker.Kill())
		return err
	})
	identity, err := record.Identify(m.process.PID())
	if errors.Is(err, fs.ErrNotExist) { // it has ended already, which is told in its turn
		identity, err = record.Process{PID: m.process.PID()}, nil
	}
	if err != nil {
		return err
	}
	return m.link.send(monitorMessage{Spawned: &identity})
}

// vmm is how the VMM is run. For one that a jailer forks off, this process becomes a subreaper, and a jail's files the VMM's.
func (m *monitor) vmm() (firecracker.Command, error) {
	command := firecracker.Command{
		Path: m.spec.Binary, Dir: m.spec.Work, Socket: apiSocket, ID: m.spec.Key, Args: m.spec.Args, Env: m.spec.Env,
		Console: m.console, Stderr: m.log, Cgroup: m.spec.Cgroup,
	}
	jail := m.spec.Jail
	if jail == nil {
		return command, nil
	}
	command.Jail = &firecracker.Jail{
		Jailer: jail.Jailer, UID: jail.UID, GID: jail.UID, Base: jail.Base, NetNS: jail.NetNS, NoFile: jail.OpenFiles, FileSize: jail.FileSize,
	}
	if jail.PIDNS {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return command, os.NewSyscallError("prctl", err)
		}
		command.Jail.NewPIDNS = true
	}
	if m.spec.Cgroup != "" {
		command.Jail.Cgroup, command.Cgroup = cgroupOf(m.spec.Key), ""
	}
	return command, m.giveToVM()
}

// giveToVM lets a VMM in a jail use what was made for it here.
func (m *monitor) giveToVM() error {
	paths := []string{filepath.Join(m.spec.Work, consoleFIFO), filepath.Join(m.spec.Work, vmmFIFO)}
	if m.spec.Guest {
		for _, port := range []uint32{guest.UpPort, guest.MainPort} {
			paths = append(paths, fmt.Sprintf("%s_%d", m.spec.Vsock, port))
		}
	}
	for _, path := range paths {
		if err := os.Lchown(path, m.spec.Jail.UID, m.spec.Jail.UID); err != nil {
			return err
		}
	}
	return nil
}

// collect makes a FIFO whose bytes go to a log of a bounded size.
func (m *monitor) collect(fifo, log string, limit int64) (*firecracker.Console, error) {
	to := newLogWriter(filepath.Join(m.spec.Folder, log), limit)
	m.steps.Add("close "+log, func(context.Context) error { return to.Close() })
	console, err := firecracker.NewConsole(filepath.Join(m.spec.Work, fifo))
	if err != nil {
		return nil, err
	}
	m.steps.Add("close "+fifo, func(context.Context) error { return console.Close() })
	console.Drain(to)
	return console, nil
}

// watch waits for the VMM's end, and tells why where this monitor ended it.
func (m *monitor) watch() (by string) {
	m.committed, m.gone = make(chan struct{}), make(chan struct{})
	go m.listen()
	var up <-chan struct{}
	if m.guest != nil {
		up = m.guest.up
		if m.spec.Restored {
			m.guest.greet(m.process.Done())
		}
	}
	var late <-chan time.Time
	if m.spec.Timeout > 0 {
		timer := time.NewTimer(m.spec.Timeout)
		defer timer.Stop()
		late = timer.C
	}
	starter := m.gone
	for {
		select {
		case <-m.process.Done():
			return by
		case <-starter:
			starter = nil
			if m.isCommitted() && !m.spec.Attached {
				continue
			}
			by = byOrphan
			m.end()
		case <-up:
			up = nil
			m.guestIsUp()
		case <-late:
			by = byTimeout
			go m.shutDown()
		}
	}
}

// listen hears the starter out.
func (m *monitor) listen() {
	defer close(m.gone)
	for {
		message, err := m.link.receive()
		if err != nil {
			return
		}
		if message.Commit && !m.isCommitted() {
			close(m.committed)
		}
	}
}

// isCommitted tells whether the VM was to live on. Once the starter is gone the answer is final.
func (m *monitor) isCommitted() bool {
	select {
	case <-m.committed:
		return true
	default:
		return false
	}
}

// ending is the call that is about to end the VM. One that was killed over it is about to do nothing.
func (m *monitor) ending() string {
	_, jour, err := readJournal(m.spec.Runtime)
	if err != nil || jour.Instance != m.spec.Instance {
		return ""
	}
	if held, err := record.Held(filepath.Join(m.spec.Folder, lockName)); err != nil || !held {
		return ""
	}
	return jour.Ending
}

// letGo tells whether nobody is there any more who will put the VM in order. A VMM may end before its starter's last word
// was heard, so that is waited for: a starter whose VMM ends during the start has nothing more to say, and cleans up.
func (m *monitor) letGo(by string) bool {
	select {
	case <-m.committed:
	case <-m.gone:
		return m.isCommitted() || by == byOrphan
	}
	if !m.spec.Attached {
		return true
	}
	select {
	case <-m.gone:
		return true
	default:
		return false
	}
}

func (m *monitor) end() {
	letDisksGo(m.spec.Cgroup)
	_, _ = m.process.Stop(context.Background(), firecracker.Kill()) // that it ended shows by Done
}

// shutDown ends a VM whose time is over.
func (m *monitor) shutDown() {
	ctx, cancel := context.WithTimeout(context.Background(), timeoutGrace)
	defer cancel()
	if m.guest != nil && m.guest.agent.Shutdown(ctx) == nil && m.process.AwaitEnd(ctx) == nil {
		return
	}
	m.end()
}

// guestIsUp leaves word that the guest's agent has answered, and starts the VM's command.
func (m *monitor) guestIsUp() {
	m.mark(readyName)
	if m.spec.Command != nil && !m.spec.Restored {
		go func() {
			if m.command.start(m.guest.agent, *m.spec.Command) {
				m.mark(commandName)
			}
		}()
	}
}

// mark leaves word for others, who wait for the file.
func (m *monitor) mark(name string) {
	if file, err := os.OpenFile(filepath.Join(m.spec.Runtime, name), os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		file.Close()
	}
}

// describe says how the VM ended.
func (m *monitor) describe(by string) ExitNote {
	exit := m.process.Exit()
	m.console.Settle()
	m.log.Settle()
	note := ExitNote{
		Instance: m.spec.Instance, At: exit.At.UTC(), Code: exit.Code, Signal: int(exit.Signal), Meaning: exit.Meaning(), By: by,
		LastOutput: lastOutput(m.log.Tail(), m.console.Tail()),
	}
	if note.By == "" {
		note.By = m.ending()
	}
	if by == byOrphan {
		note.Error = "the process that the VM was bound to is gone"
	}
	note.Panic = panicLine(m.console.Tail())
	note.OutOfMemory = guestOutOfMemory(m.console.Tail()) || exit.Signal == 9 && note.By == "" && oomKills() > m.oomKill
	if met, outOfMemory := limitsMet(m.spec.Cgroup); met != "" {
		note.LimitMet, note.OutOfMemory = met, note.OutOfMemory || outOfMemory
		note.Meaning += "; " + met
	}
	if jail := m.spec.Jail; jail != nil && jail.FileSize > 0 && exit.Code == exitFileSize {
		met := jail.fileSizeMet(m.spec.Work)
		if note.LimitMet != "" {
			note.LimitMet += "; "
		}
		note.LimitMet += met
		note.Meaning += "; " + met
	}
	if m.command != nil {
		note.Command = m.command.status()
	}
	return note
}
