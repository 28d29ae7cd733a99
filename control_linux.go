package smartvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"smartvm/firecracker"
)

// Pause stops the guest's vCPUs; from Running.
func (vm *VM) Pause(ctx context.Context) error {
	return vm.change(ctx, "pause", []State{Running}, func(h *held, in *instance) error {
		return h.pause(ctx, in)
	})
}

func (h *held) pause(ctx context.Context, in *instance) error {
	if err := h.vm.options.hook.take(stepPauseVMM, func() error { return in.client.Pause(ctx) }); err != nil {
		return err
	}
	h.jour.State = journalPaused
	if err := h.vm.options.hook.take(stepPauseNote, h.note); err != nil {
		h.jour.State = journalRunning
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteLimit)
		defer cancel()
		return h.vm.fail("pause", InvalidState, errors.Join(fmt.Errorf("it could not be noted, and the VM runs on: %w", err), in.client.Resume(ctx)))
	}
	return nil
}

// Resume lets the guest's vCPUs run on; from Paused.
func (vm *VM) Resume(ctx context.Context) error {
	return vm.change(ctx, "resume", []State{Paused}, func(h *held, in *instance) error {
		return h.resume(ctx, in)
	})
}

func (h *held) resume(ctx context.Context, in *instance) error {
	err := h.vm.options.hook.take(stepResumeVMM, func() error {
		if err := in.client.Resume(ctx); err != nil {
			return err
		}
		return healVsock(ctx, h.rec.Home.Seen.Vsock, in.client)
	})
	if err != nil {
		return err
	}
	h.jour.State = journalRunning
	if err := h.vm.options.hook.take(stepResumeNote, h.note); err != nil {
		// It is done, and the guest has gone on meanwhile: follow finds out.
		return h.vm.fail("resume", InvalidState, fmt.Errorf("the VM runs, and that could not be noted: %w", err))
	}
	return nil
}

// follow asks the VMM whether the guest stands still. The journal may have it wrong: whoever paused or resumed the guest
// was killed before that was noted, or could not note it.
func (h *held) follow(ctx context.Context, in *instance) error {
	info, err := in.client.Info(ctx)
	if err != nil {
		return err
	}
	h.jour.State = journalRunning
	if info.State == firecracker.StatePaused {
		h.jour.State = journalPaused
	}
	return nil
}

// healVsock goes round a fault of Firecracker 1.16.0 and 1.16.1 (issue 6074). At a resume the VMM holds back what is for the
// guest until the guest has acknowledged a reset of its vsock; but only a snapshot sends one. So after a bare pause and
// resume every connection hangs, and the VMM spins. A snapshot that is asked for while the VM runs is refused and writes
// nothing, but sends the reset on the way. It has to come after the resume: before the pause, a guest that is quick has
// acknowledged it when the VMM begins to wait.
func healVsock(ctx context.Context, vsock *Vsock, client *firecracker.Client) error {
	v := client.Version()
	if vsock == nil || v.Major != 1 || v.Minor != 16 || v.Patch > 1 {
		return nil
	}
	err := client.CreateSnapshot(ctx, firecracker.SnapshotCreate{SnapshotPath: runLink + "/none", MemFilePath: runLink + "/none"})
	var refused *firecracker.APIError
	if err == nil || errors.As(err, &refused) {
		return nil
	}
	return err
}

// SetMetadata replaces what the guest can ask of its metadata service (MMDS); data is anything that is a JSON object.
// Running or Paused.
func (vm *VM) SetMetadata(ctx context.Context, data any) error {
	return vm.change(ctx, "set metadata", liveStates(), func(_ *held, in *instance) error { return in.client.PutMMDS(ctx, data) })
}

// Metadata returns the metadata as JSON. Running or Paused.
func (vm *VM) Metadata(ctx context.Context) (data json.RawMessage, err error) {
	err = vm.change(ctx, "get metadata", liveStates(), func(_ *held, in *instance) error {
		data, err = in.client.GetMMDS(ctx)
		return err
	})
	return data, err
}

// UpdateInterface changes an interface's limits; nil leaves one as it is, and a bucket of size 0 lifts it. Running or
// Paused.
func (vm *VM) UpdateInterface(ctx context.Context, ifaceID string, rx, tx *RateLimiter) error {
	return vm.change(ctx, "update interface", liveStates(), func(_ *held, in *instance) error {
		return in.client.PatchNetworkInterface(ctx, firecracker.NetworkInterfaceUpdate{
			IfaceID: ifaceID, RxRateLimiter: rateLimiter(rx), TxRateLimiter: rateLimiter(tx),
		})
	})
}

// LimitDrive changes what the guest may read from and write to a drive, both together; a bucket of size 0 lifts its limit.
// Running or Paused.
func (vm *VM) LimitDrive(ctx context.Context, driveID string, limit RateLimiter) error {
	return vm.change(ctx, "limit drive", liveStates(), func(_ *held, in *instance) error {
		return in.client.PatchDrive(ctx, firecracker.DriveUpdate{DriveID: driveID, RateLimiter: rateLimiter(&limit)})
	})
}

// UpdateBalloon asks the guest for a balloon of amountMiB. It is a wish: the guest's driver follows it or not. Running or
// Paused.
func (vm *VM) UpdateBalloon(ctx context.Context, amountMiB int) error {
	return vm.change(ctx, "update balloon", liveStates(), func(_ *held, in *instance) error {
		return in.client.PatchBalloon(ctx, firecracker.BalloonUpdate{AmountMiB: amountMiB})
	})
}

// BalloonStats returns what the guest's balloon driver reported last; the balloon must have been configured with a polling
// interval. Running or Paused.
func (vm *VM) BalloonStats(ctx context.Context) (stats firecracker.BalloonStats, err error) {
	err = vm.change(ctx, "balloon statistics", liveStates(), func(_ *held, in *instance) error {
		stats, err = in.client.GetBalloonStats(ctx)
		return err
	})
	return stats, err
}

// FlushMetrics has the VMM write its metrics now. Running or Paused.
func (vm *VM) FlushMetrics(ctx context.Context) error {
	return vm.change(ctx, "flush metrics", liveStates(), func(_ *held, in *instance) error { return in.client.FlushMetrics(ctx) })
}

// Info asks the VMM about itself and its VM. Without a VMM it is NoClient.
func (vm *VM) Info(ctx context.Context) (firecracker.InstanceInfo, error) {
	in, f, err := vm.running("info")
	if err != nil {
		return firecracker.InstanceInfo{}, err
	}
	info, err := in.client.Info(ctx)
	if err != nil {
		return info, vm.vmmError(ctx, "info", in, f, err)
	}
	return info, nil
}

// Version returns the VMM's version. Without a VMM it is NoClient.
func (vm *VM) Version(ctx context.Context) (firecracker.Version, error) {
	in, f, err := vm.running("version")
	if err != nil {
		return firecracker.Version{}, err
	}
	version, err := in.client.GetVersion(ctx)
	if err != nil {
		return version, vm.vmmError(ctx, "version", in, f, err)
	}
	return version, nil
}

// Client returns the API client of the VM's VMM, for what this package has no call for. What is changed through it is not
// known here. Without a VMM it is NoClient.
func (vm *VM) Client() (*firecracker.Client, error) {
	in, _, err := vm.running("client")
	if err != nil {
		return nil, err
	}
	return in.client, nil
}

// running returns the VM's VMM without the VM's lock. Without a VMM it is NoClient.
func (vm *VM) running(op string) (*instance, folder, error) {
	vm.mu.Lock()
	published := vm.published
	vm.mu.Unlock()
	look := vm.look()
	if !published || !look.active || look.jour.VMM.PID == 0 {
		return nil, folder{}, &Error{Code: NoClient, Op: op, VM: vm.id, Err: errors.New("the VM has no VMM process; start it first")}
	}
	if !look.alive {
		return nil, folder{}, &Error{Code: NoClient, Op: op, VM: vm.id, Err: noteOf(context.Background(), look.folder, look.jour.Instance).cause()}
	}
	in, err := vm.attach(look.rec, look.jour)
	if err != nil {
		return nil, folder{}, vm.fail(op, NoClient, err)
	}
	if in.client.Version().IsZero() {
		ctx, cancel := context.WithTimeout(context.Background(), vmmAnswer)
		defer cancel()
		_, _ = in.client.GetVersion(ctx) // it is only needed to refuse what the VMM does not know
	}
	return in, look.folder, nil
}

// PID returns the process id of the VM's VMM, or 0 when there is none.
func (vm *VM) PID() int {
	if look := vm.look(); look.alive {
		return look.jour.VMM.PID
	}
	return 0
}

// change calls f with the VM's VMM when the VM is in one of the wanted states, while no other operation changes the VM,
// and gives its error a code.
func (vm *VM) change(ctx context.Context, op string, wanted []State, f func(*held, *instance) error) error {
	vm.mu.Lock()
	published := vm.published
	vm.mu.Unlock()
	if !published {
		return vm.stateError(op, vm.State(), wanted)
	}
	h, err := vm.acquire(ctx, op)
	if err != nil {
		return err
	}
	defer h.release()
	if !h.look().state().Live() {
		return h.require(ctx, op, wanted...)
	}
	in, err := h.instance()
	if err != nil {
		return vm.fail(op, VMMExited, errors.Join(err, h.exitNote(ctx).cause()))
	}
	if in.client.Version().IsZero() {
		if _, err := in.client.GetVersion(ctx); err != nil {
			return h.vmmError(ctx, op, in, err)
		}
	}
	if err := h.follow(ctx, in); err != nil {
		return h.vmmError(ctx, op, in, err)
	}
	if err := h.require(ctx, op, wanted...); err != nil {
		return err
	}
	if err := f(h, in); err != nil {
		return h.vmmError(ctx, op, in, err)
	}
	return nil
}

func liveStates() []State { return []State{Running, Paused} }
