package smartvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"smartvm/drive"
	"smartvm/firecracker"
	"smartvm/record"
)

// Start boots the VM and returns when its vCPUs run, which says nothing about the guest yet (see [VM.Agent]). It starts
// from Created, and from Stopped and Failed with the drives as they were left, unless CleanUp took them.
//
// A configuration that is refused (InvalidConfig) leaves the state as it was. A failure at any later step undoes all that
// was done, leaves the state Failed, and is returned with the code of the step: DriveStageFailed, InsecurePath,
// SocketTimeout, APITimeout, UnsafeVersion, UnsupportedField, SocketRequestFailed or APIError. VMExists when the VM has no
// folder yet and another has its id or name; VMLocked when another call on it does not end.
func (vm *VM) Start(ctx context.Context) error {
	const op = "start"
	defer vm.markStarting()()
	h, prepared, err := vm.prepareStart(ctx, op)
	if err != nil {
		return err
	}
	defer h.release()
	defer prepared.monitor.giveBack()
	h.rec.Restarts = 0
	return h.start(ctx, op, prepared)
}

// prepared is what a start needs beside the VM's lock.
type prepared struct {
	binary  string
	monitor *startedMonitor // which has been coming up since before the lock was taken
}

// prepareStart looks whether the VM can boot, before anything is done about it, and returns its lock and its VMM.
func (vm *VM) prepareStart(ctx context.Context, op string) (h *held, p prepared, err error) {
	if look := vm.look(); look.rec.Home != nil && look.rec.Home.Restored != "" {
		return nil, p, vm.fail(op, InvalidState, errors.New("the VM was restored from a snapshot and cannot boot; restore the snapshot again in a new VM"))
	}
	if err := vm.check(op); err != nil {
		return nil, p, err
	}
	if p.monitor, err = vm.startMonitor(); err != nil {
		return nil, p, vm.fail(op, InvalidState, fmt.Errorf("start the monitor: %w", err))
	}
	if h, err = vm.acquire(ctx, op); err != nil {
		p.monitor.giveBack()
		return nil, p, err
	}
	p.binary, err = h.binary()
	if err == nil && h.rec.VMM.Jailed {
		_, err = vm.options.jailer(p.binary)
		err = errors.Join(err, vm.given.checkJail())
	}
	if err != nil {
		p.monitor.giveBack()
		h.release()
		return nil, p, vm.fail(op, InvalidConfig, err)
	}
	return h, p, nil
}

// binary returns the VMM to run: what this process is configured with, else what ran the VM the last time.
func (h *held) binary() (string, error) {
	binary, err := h.vm.options.vmm()
	if err != nil && h.rec.VMM.Binary != "" {
		if last, lastErr := executable(h.rec.VMM.Binary); lastErr == nil {
			return last, nil
		}
	}
	return binary, err
}

// markStarting has State tell of a start before there is anything on the disk.
func (vm *VM) markStarting() (done func()) {
	set := func(starting bool) {
		vm.mu.Lock()
		defer vm.mu.Unlock()
		vm.starting = starting
	}
	set(true)
	return func() { set(false) }
}

func (h *held) start(ctx context.Context, op string, p prepared) error {
	if err := h.require(ctx, op, Created, Stopped, Failed); err != nil && !errors.Is(err, VMMExited) {
		return err
	}
	return h.bringUp(ctx, op, bringing{
		prepared: p, then: journalRunning,
		stage: func(ctx context.Context, home *home) error {
			if err := h.vm.driveQuota(); err != nil {
				return h.vm.fail(op, DriveStageFailed, err)
			}
			return h.vm.furnish(ctx, op, home, drive.Stage)
		},
		configure: func(ctx context.Context, in *instance, home *home) error {
			vmm := vmmConfig(&home.seen)
			if err := sendObservers(ctx, in.client, &home.seen, vmm); err != nil {
				return err
			}
			if err := sendDevices(ctx, in.client, vmm); err != nil {
				return err
			}
			return in.client.InstanceStart(ctx)
		},
		stageStep: stepStartStage, tellStep: stepStartTell,
	})
}

// check validates the configuration and looks at the files in it.
func (vm *VM) check(op string) error {
	if err := vm.given.validate(vm.options.Arch); err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	if err := vm.given.checkFiles(&vm.options); err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	return nil
}

// bringing says in what a start and a restore differ.
type bringing struct {
	prepared
	stage     func(context.Context, *home) error            // into a home that is new
	configure func(context.Context, *instance, *home) error // the VMM, to where the guest runs
	then      journalState
	config    *Config // what the VM is from now on, with its command; nil: what it was
	command   *Command

	stageStep, tellStep step
}

// bringUp is the way of every start and restore: a home (the one that is there, or a new one), a VMM in it, and what that
// VMM is told. What is about to be made is noted before it is; an error walks all of it back, by what was noted.
func (h *held) bringUp(ctx context.Context, op string, b bringing) (err error) {
	vm := h.vm
	if err := h.settle(ctx); err != nil {
		return vm.fail(op, InvalidState, fmt.Errorf("what the last run left could not be taken away: %w", err))
	}
	before := h.rec
	link := b.monitor.link
	defer func() {
		if err == nil {
			b.monitor.letGo()
			return
		}
		b.monitor.giveBack() // which ends the VMM that it may have started
		vm.options.Logger.Info("VM did not start", "vm", vm.id, "error", err)
		h.giveUp(ctx, before, err)
	}()
	if err := h.begin(ctx, b.binary); err != nil {
		return vm.fail(op, InvalidState, err)
	}
	h.jour.Monitor = b.monitor.identity
	vm.startWatch()
	home, err := h.makeHome(ctx, b)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return vm.fail(op, InvalidState, context.Cause(ctx))
	}
	if err := vm.options.hook.take(stepStartCgroup, h.makeCgroup); err != nil {
		return vm.fail(op, InvalidState, fmt.Errorf("limits: %w", err))
	}
	if err := h.spawn(ctx, link, home, b.binary); err != nil {
		return vm.fail(op, SocketTimeout, err)
	}
	in, err := h.instance()
	if err != nil { // it has ended before it could be looked at
		return h.startError(ctx, op, &firecracker.StartError{Stage: firecracker.StageSocket, Path: b.binary, Err: firecracker.ErrEnded})
	}
	if err := vm.options.hook.take(stepStartReady, func() error { return in.process.Ready(ctx) }); err != nil {
		return h.startError(ctx, op, err)
	}
	if err := h.wantInCgroup(in.process.PID()); err != nil {
		return vm.fail(op, InvalidState, err)
	}
	if err := vm.options.hook.take(b.tellStep, func() error { return b.configure(ctx, in, home) }); err != nil {
		return h.vmmError(ctx, op, in, err)
	}
	h.jour.State = b.then
	if err := vm.options.hook.take(stepStartRunning, h.note); err != nil {
		return vm.fail(op, InvalidState, err)
	}
	if err := vm.options.hook.take(stepStartCommit, func() error { return link.send(monitorMessage{Commit: true}) }); err != nil {
		return vm.fail(op, InvalidState, fmt.Errorf("the monitor is gone: %w", err))
	}
	vm.options.Logger.Info("VM started", "vm", vm.id, "pid", in.process.PID(), "vmm", in.client.Version().String())
	return nil
}

// begin notes that a start is under way.
func (h *held) begin(ctx context.Context, binary string) error {
	hook := h.vm.options.hook
	err := hook.take(stepStartRuntime, func() error {
		if err := secureDir(filepath.Dir(h.folder.runtime)); err != nil {
			return err
		}
		if err := os.Mkdir(h.folder.runtime, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := secureDir(h.folder.runtime); err != nil {
			return err
		}
		if h.rec.VMM.Jailed {
			if err := h.enterJail(ctx, binary); err != nil {
				return err
			}
		}
		return h.folder.makeWork()
	})
	if err != nil {
		return err
	}
	h.journal = &record.Record{}
	h.jour = vmJournal{Instance: h.rec.Instance + 1, State: journalStarting}
	h.journal.Intend(kindProcess, "monitor")
	h.journal.Intend(kindProcess, "vmm")
	return hook.take(stepStartJournal, h.note)
}

// makeHome returns the VM's home, and stages it where there is none; then the start is on record.
func (h *held) makeHome(ctx context.Context, b bringing) (*home, error) {
	vm := h.vm
	staged := &home{folder: h.folder, seen: *vm.given.clone(), onHost: *vm.given.clone()}
	if h.rec.Home != nil {
		staged = loadHome(h.folder, h.rec.Home)
		if err := staged.missing(); err != nil {
			return nil, vm.fail("start", DriveStageFailed, err)
		}
		if h.rec.Jail != nil {
			if err := h.folder.mountAgain(); err != nil {
				return nil, vm.fail("start", DriveStageFailed, err)
			}
		}
	} else {
		err := vm.options.hook.take(b.stageStep, func() error { return b.stage(ctx, staged) })
		vm.mu.Lock()
		vm.config = *staged.onHost.clone() // in force, also when the staging failed
		vm.mu.Unlock()
		if err != nil {
			return nil, vm.fail("start", DriveStageFailed, err)
		}
	}
	limits := vm.given.Limits
	if b.config != nil {
		limits = b.config.Limits
	}
	if err := staged.fitFiles(limits); err != nil {
		return nil, vm.fail("start", DriveStageFailed, err)
	}
	if v := staged.onHost.Vsock; v != nil {
		if _, err := os.Lstat(v.UDSPath); !errors.Is(err, fs.ErrNotExist) {
			return nil, vm.fail("start", InvalidConfig, fmt.Errorf("vsock.udsPath: %s is there already; choose another path, or remove it when nothing uses it", v.UDSPath))
		}
		// Firecracker makes the socket and never removes it.
		if filepath.Dir(v.UDSPath) != h.folder.seen(runLink) {
			h.journal.Intend(kindSocket, v.UDSPath)
		}
	}
	boot, err := record.BootID()
	if err != nil {
		return nil, vm.fail("start", InvalidState, err)
	}
	if b.config != nil {
		h.rec.Config, h.rec.Command = *b.config, b.command
	}
	h.rec.Home, h.rec.VMM.Binary, h.rec.Instance, h.rec.Boot, h.rec.StartedAt = staged.record(), b.binary, h.jour.Instance, boot, time.Now().UTC()
	if err := vm.options.hook.take(stepStartRecord, h.save); err != nil {
		return nil, vm.fail("start", InvalidState, err)
	}
	return staged, nil
}

// spawn has the monitor start the VMM, and notes which process that is.
func (h *held) spawn(ctx context.Context, link *monitorLink, home *home, binary string) error {
	vm := h.vm
	spec := monitorSpec{
		ID: vm.id, Key: vm.key, Folder: h.folder.data, Work: h.folder.work, Runtime: h.folder.runtime, Instance: h.jour.Instance,
		Binary: binary, Args: append(vm.options.logArgs(&home.seen), vm.options.VMMArgs...), Env: vm.options.vmmEnv(),
		Guest: home.seen.Guest != nil, Restored: home.restored != "", Command: h.rec.Command, Timeout: h.rec.Timeout,
		Cgroup: h.jour.Cgroup, Attached: vm.create.Attached, Settle: vm.options.Settle, SettleEnv: vm.options.settleEnv(h.rec),
	}
	if vm.create.CommandByCaller {
		spec.Command = nil
	}
	if v := home.onHost.Vsock; v != nil {
		spec.Vsock = v.UDSPath
	}
	if jail := h.rec.Jail; jail != nil {
		jailer, err := vm.options.jailer(binary)
		if err != nil {
			return vm.fail("start", InvalidConfig, err)
		}
		limits := h.rec.Config.Limits
		// The VMM's parent, the jailer, ends: its status goes to a subreaper. A supervisor can be one. In the library's own process
		// it would take in the orphans of all other programs that this process runs.
		h.jour.PIDNS = len(vm.options.Supervisor) > 0
		spec.Jail = &jailSpec{
			Jailer: jailer, UID: jail.UID, Base: filepath.Join(h.folder.data, jailDir),
			NetNS: home.seen.NetNS, PIDNS: h.jour.PIDNS, OpenFiles: limits.openFiles(), FileSize: limits.fileSize(), Outputs: home.outputs(),
		}
		if err := inNetNS(home.seen.NetNS, func() error { return giveTAPs(home.seen.NetworkInterfaces, jail.UID) }); err != nil {
			return err
		}
	}
	// The sockets that may be made are noted before, the process right after it is there: until then it is known by the
	// VM's folder and its own command line.
	err := vm.options.hook.take(stepStartSpawn, func() error {
		if err := h.note(); err != nil {
			return err
		}
		if err := link.send(monitorMessage{Spec: &spec}); err != nil {
			return fmt.Errorf("the monitor is gone: %w", err)
		}
		answer, err := link.answer(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("the monitor does not answer: %w", err)
		case answer.Spawned == nil:
			return errors.New(answer.Failed)
		}
		h.jour.VMM = *answer.Spawned
		return nil
	})
	if err != nil {
		return err
	}
	return vm.options.hook.take(stepStartNote, func() error {
		h.journal.Complete(kindProcess, "monitor", identityText(h.jour.Monitor))
		h.journal.Complete(kindProcess, "vmm", identityText(h.jour.VMM))
		return h.note()
	})
}

func identityText(p record.Process) string { return fmt.Sprintf("%d/%d", p.PID, p.Start) }

// giveUp walks a start back that failed.
func (h *held) giveUp(ctx context.Context, before vmRecord, why error) {
	vm := h.vm
	ctx = context.WithoutCancel(ctx)
	h.rec.Home, h.rec.Config, h.rec.Command = before.Home, before.Config, before.Command
	if h.journal == nil {
		return // nothing was begun
	}
	var errs []error
	if h.jour.VMM.PID != 0 {
		letDisksGo(h.jour.Cgroup)
		errs = append(errs, h.jour.VMM.Kill(ctx))
	}
	note := h.exitNote(ctx)
	note.Error, note.By = why.Error(), ""
	h.rec.Instance = h.jour.Instance
	errs = append(errs, h.save(), writeExit(h.folder, note), h.settle(ctx))
	vm.logUndo(errors.Join(errs...))
}

// logUndo reports what a walk back could not do: the caller gets the error that made it necessary.
func (vm *VM) logUndo(err error) {
	if err != nil {
		vm.options.Logger.Error("undo is incomplete", "vm", vm.id, "error", err)
	}
}
