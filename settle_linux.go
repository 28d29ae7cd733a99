package smartvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"smartvm/firecracker"
	"smartvm/record"
)

// Who ended a VM, as ExitNote.By has it.
const (
	byStop    = "stop"
	byKill    = "kill"
	byTimeout = "timeout"
	byOrphan  = "orphan" // the process that the VM was bound to has ended
)

const (
	// noteLimit is how long a monitor may take from the VMM's end until it has noted that.
	noteLimit = 5 * time.Second
	// settleLimit bounds a whole settling: it must not depend on the patience of whoever's call came upon it.
	settleLimit = 30 * time.Second
)

// settle takes away what a run of the VM left that is over: an ended VMM's sockets, journal and runtime folder, or whatever
// a start that was interrupted had come to. There is no other way of cleaning up: a start that fails, a stop, and whoever
// finds a VM whose caller or monitor was killed all come here, and what is to be done is read from the journal alone. A VM
// that runs is left alone. It can be called again when it failed.
func (h *held) settle(ctx context.Context) error {
	interrupted := h.journal != nil && h.jour.State == journalStarting
	if h.journal != nil && !interrupted && h.jour.VMM.Alive() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	hook := h.vm.options.hook
	if h.journal != nil {
		if err := hook.take(stepSettleKill, func() error { return h.endProcesses(ctx) }); err != nil {
			return err
		}
		if err := hook.take(stepSettleNote, func() error { return h.noteEnd(ctx, interrupted) }); err != nil {
			return err
		}
		if err := hook.take(stepSettleSockets, func() error { return h.removeResources(ctx) }); err != nil {
			return err
		}
	}
	if h.journal == nil && h.rec.Instance > 0 && lookAt(h.folder).strayed() {
		if err := hook.take(stepSettleKill, func() error { return h.endStray(ctx) }); err != nil {
			return err
		}
	}
	if h.folder.wasRun() {
		if err := hook.take(stepSettleJournal, h.folder.clearRuntime); err != nil {
			return err
		}
	}
	h.journal, h.jour = nil, vmJournal{}
	if h.rec.Home == nil {
		return hook.take(stepSettleHome, h.folder.clearHome)
	}
	return nil
}

// endProcesses makes sure that nothing runs any more which belongs to the VM: not even a VMM that was spawned and not yet
// noted when its starter was killed.
func (h *held) endProcesses(ctx context.Context) error {
	if h.jour.VMM.PID != 0 {
		letDisksGo(h.jour.Cgroup)
		if err := h.jour.VMM.Kill(ctx); err != nil {
			return err
		}
	}
	// A monitor ends by itself: a start that was interrupted broke its connection.
	waitCtx, cancel := context.WithTimeout(ctx, noteLimit)
	defer cancel()
	if err := awaitMonitor(waitCtx, h.folder.runtime); err != nil && h.jour.Monitor.PID != 0 && h.jour.Monitor.PID != os.Getpid() {
		if err := h.jour.Monitor.Kill(ctx); err != nil {
			return err
		}
	}
	if h.jour.VMM.PID != 0 {
		return h.awaitEmulated(ctx)
	}
	// Spawned, perhaps, and never noted. It is looked for among all processes, which takes its time with many.
	inside, err := record.ProcessesIn(h.folder.work)
	if err != nil {
		return err
	}
	for _, p := range inside {
		// A person's shell may stand in this folder, too.
		if !isVMM(p.PID, h.vm.key) {
			continue
		}
		if err := p.Kill(ctx); err != nil {
			return err
		}
	}
	return nil
}

// strayed tells whether the VM may run although its runtime folder is gone, with the sockets by which it would be reached: systemd
// takes a user's away at the last logout (XDG_RUNTIME_DIR of pam_systemd(8)).
func (l look) strayed() bool {
	if l.err != nil || l.active || l.rec.Instance == 0 || l.note() != nil {
		return false
	}
	boot, err := record.BootID()
	return err == nil && l.rec.Boot == boot
}

// endStray ends the VMM of such a VM: nobody can reach it, and a second one must never have the same drives. Its monitor ends
// by itself then.
func (h *held) endStray(ctx context.Context) error {
	if err := h.endProcesses(ctx); err != nil {
		return err
	}
	if err := h.awaitEmulated(ctx); err != nil {
		return err
	}
	if h.rec.Jail != nil {
		if err := unmountBelow(h.folder.data); err != nil {
			return err
		}
	}
	note := ExitNote{Instance: h.rec.Instance, At: time.Now().UTC(), Code: -1, Unknown: true, Meaning: strayMeaning}
	if err := writeExit(h.folder, note); err != nil {
		h.vm.options.Logger.Warn("how the VM ended could not be noted", "vm", h.vm.id, "error", err)
	}
	return nil
}

// strayMeaning is what is said of a VM that lost its runtime folder.
const strayMeaning = "its runtime folder was taken away while it ran"

// awaitEmulated waits for the QEMU of an emulator that was killed. The kernel ends it, too, but a moment later, in which it
// may still write into the VM's folder.
func (h *held) awaitEmulated(ctx context.Context) error {
	if !h.rec.VMM.Emulate {
		return nil
	}
	inside, err := record.ProcessesIn(h.folder.work)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, noteLimit)
	defer cancel()
	for _, p := range inside {
		if executableOf(p.PID) != emulatorBackEnd {
			continue
		}
		if err := p.Kill(ctx); err != nil {
			return err
		}
	}
	return nil
}

// emulatorBackEnd is the name of the program behind the emulator, which only starts it for itself.
const emulatorBackEnd = "qemu-system-x86_64"

// executableOf returns the base name of the program that a process runs; "" when that cannot be told.
func executableOf(pid int) string {
	path, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if err != nil {
		return ""
	}
	return filepath.Base(path)
}

// isVMM tells whether a process was started as the VMM of the VM with this key.
func isVMM(pid int, key string) bool {
	text, err := commandLine(pid)
	if err != nil {
		return false
	}
	args := bytes.Split(text, []byte{0})
	for i, arg := range args[:len(args)-1] {
		if string(arg) == "--id" && string(args[i+1]) == key {
			return true
		}
	}
	return false
}

// commandLine returns a process's arguments, each with a NUL behind it. A process in the middle of execve(2) has none for a
// moment, in which it is no longer what started it and not yet known for what it is.
func commandLine(pid int) (text []byte, err error) {
	const tries = 1000
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for range tries {
		text, err = os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil || len(text) > 0 {
			break
		}
		<-again.C
	}
	return text, err
}

// awaitMonitor waits until the monitor has noted the end of its VMM, or is gone.
func awaitMonitor(ctx context.Context, runtime string) error {
	lock, err := record.AcquireShared(ctx, filepath.Join(runtime, monitorName), "wait", nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return lock.Release()
}

// exitNote returns the note of the VM's latest end; what it says is "unknown" when there is none.
func (h *held) exitNote(ctx context.Context) ExitNote {
	return noteOf(ctx, h.folder, h.jour.Instance)
}

func noteOf(ctx context.Context, f folder, instance uint64) ExitNote {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteLimit)
	defer cancel()
	_ = awaitMonitor(ctx, f.runtime)
	if note, err := readExit(f); err == nil && note != nil && note.Instance == instance {
		return *note
	}
	return ExitNote{Instance: instance, At: time.Now().UTC(), Code: -1, Unknown: true, Meaning: "nobody was there to see how it ended"}
}

// noteEnd makes sure that there is a note of the end.
func (h *held) noteEnd(ctx context.Context, interrupted bool) error {
	note := h.exitNote(ctx)
	if note.Unknown && note.By == "" {
		note.By = h.jour.Ending
	}
	if interrupted && note.Error == "" {
		note.Error = "the start was interrupted"
	}
	if h.rec.Instance < h.jour.Instance {
		h.rec.Instance = h.jour.Instance
		if err := h.save(); err != nil {
			return err
		}
	}
	if err := writeExit(h.folder, note); err != nil {
		// A disk that is full costs the note: the VM counts as lost. It must not keep anybody from making room.
		h.vm.options.Logger.Warn("how the VM ended could not be noted", "vm", h.vm.id, "error", err)
	}
	return nil
}

// removeResources removes what was made for the VM, or by its VMM, outside of the VM's folders.
func (h *held) removeResources(ctx context.Context) error {
	errs := []error{removeCgroups(ctx, h.journal), h.dropUnused()}
	for _, r := range h.journal.Resources {
		switch r.Kind {
		case kindSocket:
			info, err := os.Lstat(r.Name)
			if err == nil && info.Mode().Type() == fs.ModeSocket {
				err = os.Remove(r.Name)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		case kindMount:
			if err := unmount(r.Name); err != nil {
				errs = append(errs, err)
			}
		case kindProcess, kindCgroup:
		default:
			// A newer program made it and knows how to take it away.
			errs = append(errs, fmt.Errorf("the journal names a resource of a kind that this program does not know: %s %q; use a newer smartvm", r.Kind, r.Name))
		}
	}
	return errors.Join(errs...)
}

// cause is the note as an error.
func (n ExitNote) cause() error {
	switch {
	case n.Error != "":
		return errors.New(n.Error)
	case n.Unknown:
		return fmt.Errorf("the VMM ended, and %s", n.Meaning)
	}
	text := "the VMM ended by itself: " + n.exit().String()
	if n.By != "" {
		text = fmt.Sprintf("the VM was ended by a call (%s): %s", n.By, n.exit())
	}
	if n.LimitMet != "" {
		text += "; " + n.LimitMet
	}
	if n.Panic != "" {
		return fmt.Errorf("%s; last on the console: %q", text, n.Panic)
	}
	if n.LastOutput != "" && (n.Code != 0 || n.Signal != 0) { // one that ended in order has nothing to explain
		return fmt.Errorf("%s; its last output: %q", text, n.LastOutput)
	}
	return errors.New(text)
}

// exit is how the VMM ended.
func (n ExitNote) exit() firecracker.Exit {
	return firecracker.Exit{Code: n.Code, Signal: signalOf(n.Signal), At: n.At}
}

// remove takes the VM away: nothing of it is there afterwards. It must have been settled. A folder that is hidden is no VM
// any more; what could not be removed of it is left to gc.
func (h *held) remove() error {
	hook, m := h.vm.options.hook, h.vm.manager
	hidden := filepath.Join(filepath.Dir(h.folder.data), hiddenPrefix+h.vm.key+"-"+newID()[:8])
	err := hook.take(stepRemoveHide, func() error {
		// Before the folder is hidden: afterwards another VM may have the id, and run.
		if err := removeTree(h.folder.runtime); err != nil {
			return err
		}
		return os.Rename(h.folder.data, hidden)
	})
	if err != nil {
		return err
	}
	h.vm.mu.Lock()
	h.vm.gone = true
	h.vm.mu.Unlock()
	h.release() // nobody finds it any more, and the lock on the names comes before it
	var errs []error
	if h.rec.Name != "" {
		errs = append(errs, hook.take(stepRemoveName, func() error { return m.freeName(h.rec.Name, h.vm.key) }))
	}
	if h.rec.Jail != nil {
		errs = append(errs, m.dropUID(h.rec.Jail.UID, h.vm.key))
	} else { // a start that was killed before it was on record may have taken one
		errs = append(errs, m.dropUIDsOf(h.vm.key))
	}
	errs = append(errs, hook.take(stepRemoveFolder, func() error { return os.RemoveAll(hidden) }))
	return errors.Join(errs...)
}
