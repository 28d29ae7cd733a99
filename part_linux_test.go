package smartvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/record"
)

// The test binary plays other processes, too: it is started with one of these words, and a part as JSON.
const (
	playActor      = "play-actor"      // performs one operation
	playSupervisor = "play-supervisor" // is a VM's supervisor
	playWorker     = "play-worker"     // performs one operation per line of its standard input
)

// A part is what a played process is told.
type part struct {
	House house `json:"house"`
	Do    deed  `json:"do,omitzero"`
	Fault fault `json:"fault,omitzero"`
	// Supervisor is what befalls the supervisors that this process starts.
	Supervisor fault `json:"supervisor,omitzero"`
}

// PlayPart plays a part when this process was started for one, and returns false otherwise.
func PlayPart() bool {
	if len(os.Args) < 3 {
		return false
	}
	var p part
	play := map[string]func(part) error{playActor: part.act, playSupervisor: part.supervise, playWorker: part.work}[os.Args[1]]
	if play == nil {
		return false
	}
	err := json.Unmarshal([]byte(os.Args[2]), &p)
	if err == nil {
		err = play(p)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		syscall.Exit(1)
	}
	syscall.Exit(0) // os.Exit takes a second where the race detector is built in
	return true
}

func (p part) act() error {
	m, err := p.House.open(p.Fault, p.Supervisor)
	if err != nil {
		return err
	}
	return p.Do.perform(context.Background(), m, p.House)
}

func (p part) supervise() error { return supervise(p.Fault.hook()) }

// work performs one deed per line, and answers each with a line.
func (p part) work() error {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var next part
		if err := in.Decode(&next); errors.Is(err, io.EOF) {
			return nil // nobody gives orders any more
		} else if err != nil {
			return err
		}
		m, err := p.House.open(next.Fault, next.Supervisor)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err = next.Do.perform(ctx, m, p.House)
		cancel()
		var reply answer
		if err != nil {
			reply = answer{Code: CodeOf(err), Text: err.Error()}
		}
		if err := out.Encode(reply); err != nil {
			return err
		}
	}
}

// answer is how a deed went.
type answer struct {
	Code Code   `json:"code,omitempty"`
	Text string `json:"text,omitempty"` // "": it went well
}

// A deed is one operation on a VM.
type deed struct {
	Op   string `json:"op"`
	VM   string `json:"vm,omitempty"`
	Name string `json:"name,omitempty"` // of the VM, or of a snapshot
}

// perform performs the deed as any process would: with a handle that it looks for.
func (d deed) perform(ctx context.Context, m *Manager, h house) error {
	switch d.Op {
	case "create", "own":
		vm, err := m.Create(ctx, h.config(d.VM), CreateOptions{Name: d.Name, Detached: d.Op == "create"})
		if err != nil {
			return err
		}
		if d.Op == "own" {
			return vm.Start(ctx)
		}
		return vm.Save(ctx)
	case "gc":
		_, err := m.Sweep(ctx, SweepOptions{})
		return err
	case "remove snapshot":
		return m.RemoveSnapshot(ctx, d.Name)
	}
	vm, err := m.VM(d.VM)
	if err != nil {
		return err
	}
	switch d.Op {
	case "start":
		return vm.Start(ctx)
	case "restore":
		dir, err := m.SnapshotDir(d.Name)
		if err != nil {
			return err
		}
		return vm.Restore(ctx, dir, RestoreOptions{})
	case "pause":
		return vm.Pause(ctx)
	case "resume":
		return vm.Resume(ctx)
	case "stop":
		return vm.Stop(ctx)
	case "kill":
		return vm.Kill(ctx)
	case "snapshot":
		_, err := vm.TakeSnapshot(ctx, d.Name, SnapshotOptions{})
		return err
	case "rename":
		return vm.Rename(ctx, d.Name)
	case "update drive":
		return vm.UpdateDrive(ctx, "data", h.path("other"))
	case "clean up":
		return vm.CleanUp(ctx)
	case "remove":
		return m.Remove(ctx, d.VM, false)
	case "force":
		return m.Remove(ctx, d.VM, true)
	case "settle":
		return vm.Settle(ctx)
	case "status":
		_, err := vm.Status(ctx)
		return err
	case "end": // by itself
		return h.endVMM(ctx, d.VM)
	}
	return fmt.Errorf("there is no operation %q", d.Op)
}

// What befalls an operation at a step.
const (
	faultKill  = "kill"  // the process that takes the step is killed
	faultVMM   = "vmm"   // the VM's VMM is killed
	faultError = "error" // the step fails
	faultTrace = "trace" // nothing: the steps are written down
)

// A fault is something that befalls an operation before or after a step, the first time that it comes there.
type fault struct {
	How   string     `json:"how,omitempty"`
	Step  step       `json:"step,omitempty"`
	After bool       `json:"after,omitempty"`
	Errno unix.Errno `json:"errno,omitempty"`
	VM    string     `json:"vm,omitempty"`   // whose VMM is killed: its folder
	Mark  string     `json:"mark,omitempty"` // a file that tells that it happened; for a trace, the steps
}

func (f fault) hook() stepHook {
	var once sync.Once
	if f.How == faultTrace {
		return f.note
	}
	if f.How == "" {
		return nil
	}
	return func(s step, after bool) (err error) {
		if s == f.Step && after == f.After {
			once.Do(func() { err = f.strike() })
		}
		return err
	}
}

func (f fault) strike() error {
	if err := f.note(f.Step, f.After); err != nil {
		return err
	}
	switch f.How {
	case faultKill:
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		for {
			_ = unix.Pause() // it is on its way
		}
	case faultVMM:
		for _, vmm := range vmmsIn(f.VM) {
			if err := vmm.Kill(context.Background()); err != nil {
				return err
			}
		}
		return nil
	}
	return f.Errno
}

func (f fault) note(s step, after bool) error {
	if f.Mark == "" {
		return nil
	}
	file, err := os.OpenFile(f.Mark, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "%v %s\n", after, s)
	return errors.Join(err, file.Close())
}

// vmmsIn returns the VMMs of the VM with this folder: by the kernel, not by what was noted.
func vmmsIn(dir string) (vmms []record.Process) {
	inside, err := record.ProcessesIn(dir)
	if err != nil {
		return nil
	}
	for _, p := range inside {
		if isVMM(p.PID, filepath.Base(dir)) {
			vmms = append(vmms, p)
		}
	}
	return vmms
}
