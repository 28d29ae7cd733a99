package smartvm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"smartvm/firecracker"
	"smartvm/guest"
	"smartvm/record"
)

// Phase is what a VM does, in more detail than its State.
type Phase string

// The phases.
const (
	PhaseCreated      Phase = "created"      // never started
	PhaseStarting     Phase = "starting"     // a start or a restore is under way
	PhaseBooting      Phase = "booting"      // the guest's agent has not answered yet
	PhaseReady        Phase = "ready"        // the guest's agent answers
	PhaseRunning      Phase = "running"      // the VM runs; there is no agent of ours in the guest
	PhaseUnresponsive Phase = "unresponsive" // the VMM, or an agent that was up, does not answer
	PhasePaused       Phase = "paused"
	PhasePanicked     Phase = "panicked" // ended: the guest's kernel panicked
	PhaseExited       Phase = "exited"   // ended by itself, or was stopped; ExitCode says how
	PhaseKilled       Phase = "killed"   // ended: by a kill, a signal, or a time-out
	PhaseLost         Phase = "lost"     // ended: nobody knows how; the host was rebooted, or the monitor was killed with the VMM
	PhaseFailed       Phase = "failed"   // the last start failed or was interrupted
	PhaseDamaged      Phase = "damaged"  // the record cannot be read
	PhaseForeign      Phase = "foreign"  // the record is a newer program's: listed, never touched
)

// Status is what there is to say about a VM now.
type Status struct {
	ID        string        `json:"id"`
	Key       string        `json:"key"`
	Name      string        `json:"name,omitempty"`
	Image     string        `json:"image,omitempty"`
	Phase     Phase         `json:"phase"`
	State     State         `json:"state"`
	Detail    string        `json:"detail,omitempty"` // for people: what is wrong, or what is being done
	CreatedAt time.Time     `json:"createdAt,omitzero"`
	StartedAt time.Time     `json:"startedAt,omitzero"`
	CPUs      int           `json:"cpus,omitempty"`
	MemoryMiB int           `json:"memoryMib,omitempty"`
	VMM       string        `json:"vmm,omitempty"` // "firecracker" or "emulator"
	PID       int           `json:"pid,omitempty"` // of the VMM
	Monitor   MonitorStatus `json:"monitor,omitempty"`
	ExitCode  *int          `json:"exitCode,omitempty"` // of the VM's command, else of the VMM as a shell tells it; once it has ended
	Exit      *ExitNote     `json:"exit,omitempty"`
	Restart   string        `json:"restart,omitempty"`
	Restarts  int           `json:"restarts,omitempty"`
	Remove    bool          `json:"remove,omitempty"`
	Command   []string      `json:"command,omitempty"`
	Folder    string        `json:"folder"`
}

// MonitorStatus tells whether a running VM's monitor lives.
type MonitorStatus string

// What a monitor can be. Without one a VM runs as before; its console is no longer logged, and how it ends is not noted.
const (
	MonitorAlive MonitorStatus = "alive"
	MonitorDead  MonitorStatus = "dead"
)

// look is what stands on the disk about a VM, and whether its processes live.
type look struct {
	folder folder
	rec    vmRecord
	err    error // why there is no record
	jour   vmJournal
	active bool // there is a journal
	exit   *ExitNote
	busy   bool // somebody has the VM's lock
	alive  bool // the VMM lives
}

func (vm *VM) look() look { return lookAt(vm.options.folderOf(vm.key)) }

// lookAt looks at a VM without its lock. What it reads may be of two moments; each file by itself is whole.
func lookAt(f folder) (l look) {
	for range 3 {
		l = look{folder: f}
		if _, l.rec, l.err = readRecord(f); l.err != nil {
			return l
		}
		l.folder = f.of(l.rec)
		journal, jour, err := readJournal(l.rec.Runtime)
		l.jour, l.active = jour, journal != nil || err != nil
		if err != nil {
			l.jour.State = journalStarting
		}
		l.exit, _ = readExit(f)
		l.busy, _ = record.Held(f.path(lockName))
		l.alive = l.active && l.jour.VMM.Alive()
		// A VM that was settled between the journal and the note, or started between the record and the journal, is looked
		// at again.
		if !l.active || l.alive || l.exit != nil && l.exit.Instance == l.jour.Instance || l.jour.State == journalStarting {
			return l
		}
	}
	return l
}

// look is the same for whoever holds the lock: no other call is under way.
func (h *held) look() look {
	l := look{folder: h.folder, rec: h.rec, jour: h.jour, active: h.journal != nil, alive: h.journal != nil && h.jour.VMM.Alive()}
	l.exit, _ = readExit(h.folder)
	return l
}

// note is how the latest run ended; nil while nobody has noted it.
func (l look) note() *ExitNote {
	instance := l.rec.Instance
	if l.active {
		instance = l.jour.Instance
	}
	if l.exit == nil || l.exit.Instance != instance {
		return nil
	}
	return l.exit
}

func (l look) state() State {
	switch note := l.note(); {
	case errors.Is(l.err, fs.ErrNotExist):
		return Stopped
	case l.err != nil:
		return Failed
	case l.active && l.jour.State == journalStarting && l.busy:
		return Configuring
	case l.active && l.jour.State == journalStarting:
		return Failed
	case l.alive && l.jour.State == journalPaused:
		return Paused
	case l.alive:
		return Running
	case !l.active && l.rec.Instance == 0:
		return Created
	case note == nil || note.failed():
		return Failed
	}
	return Stopped
}

// How long a status waits for answers: of the VMM, and of the agent.
const (
	vmmAnswer   = 250 * time.Millisecond
	agentAnswer = 250 * time.Millisecond
)

// Status asks what the VM does: its files, its VMM and, when it runs, its agent. It never waits for another call on the
// VM, and at most half a second. VMNotFound when the VM is gone.
func (vm *VM) Status(ctx context.Context) (Status, error) {
	vm.mu.Lock()
	published := vm.published
	vm.mu.Unlock()
	if !published {
		return Status{ID: vm.id, Key: vm.key, Name: vm.create.Name, Phase: PhaseCreated, State: vm.State(), Folder: vm.Folder()}, nil
	}
	look := vm.look()
	if errors.Is(look.err, fs.ErrNotExist) {
		return Status{}, vm.lost("status")
	}
	s := look.status(ctx)
	if s.Key == "" {
		return Status{}, vm.lost("status")
	}
	return s, nil
}

// status is empty for a VM that is removed meanwhile.
func (l look) status(ctx context.Context) Status {
	if l = l.afterNote(ctx); l.gone() {
		return Status{}
	}
	key := filepath.Base(l.folder.data)
	if l.err != nil {
		s := Status{ID: key, Key: key, Phase: PhaseDamaged, State: Failed, Detail: l.err.Error(), Folder: l.folder.data}
		var newer *record.NewerError
		if errors.As(l.err, &newer) {
			s.Phase = PhaseForeign
		}
		return s
	}
	s := Status{
		ID: l.rec.ID, Key: key, Name: l.rec.Name, Image: l.rec.Image, State: l.state(), CreatedAt: l.rec.CreatedAt, StartedAt: l.rec.StartedAt,
		CPUs: l.rec.Config.MachineConfig.VCPUCount, MemoryMiB: l.rec.Config.MachineConfig.MemSizeMiB, VMM: "firecracker",
		Restart: l.rec.Restart.String(), Restarts: l.rec.Restarts, Remove: l.rec.Remove, Folder: l.folder.data,
	}
	if l.rec.VMM.Emulate {
		s.VMM = "emulator"
	}
	if l.rec.Command != nil {
		s.Command = slices.Clone(l.rec.Command.Args)
	}
	if l.alive && l.jour.State != journalStarting {
		s.PID, s.Monitor = l.jour.VMM.PID, MonitorDead
		if held, _ := record.Held(filepath.Join(l.folder.runtime, monitorName)); held {
			s.Monitor = MonitorAlive
		}
	}
	l.phase(ctx, &s)
	return s
}

// afterNote looks again at a VM whose VMM has ended this very moment, when its monitor has noted how.
func (l look) afterNote(ctx context.Context) look {
	if l.err != nil || !l.active || l.alive || l.note() != nil || l.jour.State == journalStarting {
		return l
	}
	ctx, cancel := context.WithTimeout(ctx, vmmAnswer)
	defer cancel()
	_ = awaitMonitor(ctx, l.folder.runtime)
	return lookAt(l.folder)
}

// gone tells whether the VM was removed.
func (l look) gone() bool {
	if !errors.Is(l.err, fs.ErrNotExist) {
		return false
	}
	_, err := os.Lstat(l.folder.data)
	return errors.Is(err, fs.ErrNotExist)
}

func (l look) phase(ctx context.Context, s *Status) {
	switch s.State {
	case Created:
		s.Phase = PhaseCreated
	case Configuring:
		s.Phase = PhaseStarting
	case Running, Paused:
		l.ask(ctx, s)
	default:
		l.ended(s)
	}
}

// ended tells how a VM ended that does not run.
func (l look) ended(s *Status) {
	note := l.note()
	switch {
	case l.active && l.jour.State == journalStarting:
		s.Phase, s.Detail = PhaseFailed, "the start was interrupted"
		return
	case note == nil:
		s.Phase, s.Detail = PhaseLost, "nobody noted how it ended"
		if boot, err := record.BootID(); err == nil && l.rec.Boot != boot {
			s.Detail = "the host was rebooted while it ran"
		} else if l.strayed() {
			s.Detail = strayMeaning + "; start, rm or gc end what is left of it"
		}
		return
	}
	s.Exit = note
	code := note.ExitCode()
	s.ExitCode = &code
	switch {
	case note.Error != "":
		s.Phase, s.Detail = PhaseFailed, note.Error
	case note.Unknown && note.By == "":
		s.Phase, s.Detail = PhaseLost, note.Meaning
	case note.Panic != "":
		s.Phase, s.Detail = PhasePanicked, note.Panic
	case note.By == byKill || note.By == byTimeout || note.Signal != 0 && note.By == "":
		s.Phase, s.Detail = PhaseKilled, note.Meaning
		if note.By == byTimeout {
			s.Detail = "its time was over"
		}
	default:
		s.Phase = PhaseExited
	}
	if note.OutOfMemory {
		s.Detail = strings.TrimPrefix(s.Detail+"; out of memory", "; ")
	}
}

// ExitCode is what a shell would report of the VM: its command's code, else the VMM's; 124 for one whose time was over.
func (n ExitNote) ExitCode() int {
	switch {
	case n.By == byTimeout:
		return 124
	case n.Command != nil && n.Command.Code >= 0:
		return n.Command.ExitCode()
	case n.By == byKill:
		return 137
	case n.Signal != 0 && n.By != byStop:
		return 128 + n.Signal
	case n.Code > 0:
		return n.Code
	case n.Panic != "" || n.Unknown || n.Error != "":
		return 125
	}
	return 0
}

// ask asks the VMM whether the guest stands still, and the agent whether it answers.
func (l look) ask(ctx context.Context, s *Status) {
	if l.busy {
		// Another call is at work: the VMM may be in the middle of it and answers one request at a time.
		s.Phase = PhaseRunning
		if l.jour.State == journalPaused {
			s.Phase = PhasePaused
		}
	} else {
		client := firecracker.NewClient(l.folder.seen(apiSocket))
		defer client.Close()
		ctx, cancel := context.WithTimeout(ctx, vmmAnswer)
		defer cancel()
		info, err := client.Info(ctx)
		switch {
		case err != nil:
			s.Phase, s.Detail = PhaseUnresponsive, "the VMM does not answer"
		case info.State == firecracker.StatePaused:
			s.Phase, s.State = PhasePaused, Paused
		default:
			s.Phase, s.State = PhaseRunning, Running
		}
	}
	if s.Phase != PhaseRunning || l.rec.Home == nil || l.rec.Home.Seen.Guest == nil {
		return
	}
	ready := filepath.Join(l.folder.runtime, readyName)
	_, err := os.Lstat(ready)
	wasUp := err == nil
	ctx, cancel := context.WithTimeout(ctx, agentAnswer)
	defer cancel()
	switch err := agentAt(l.rec.Home).Ping(ctx); {
	case err == nil:
		s.Phase = PhaseReady
		if !wasUp && s.Monitor == MonitorDead && l.rec.Home.Restored == "" {
			_ = os.WriteFile(ready, nil, 0o600) // nobody else is left to find out
		}
	case wasUp:
		s.Phase, s.Detail = PhaseUnresponsive, "the guest's agent does not answer"
	default:
		s.Phase = PhaseBooting
	}
}

// agentAt returns the agent of a guest, over the VM's vsock.
func agentAt(home *homeRecord) *guest.Agent {
	path := home.OnHost.Vsock.UDSPath
	return guest.New(dialer(path))
}
