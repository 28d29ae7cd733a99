package smartvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"smartvm/drive"
	"smartvm/firecracker"
)

// Pause stops the guest's vCPUs; from Running.
func (vm *VM) Pause(ctx context.Context) error {
	return vm.change(ctx, "pause", []State{Running}, func(in *instance) error {
		if err := healVsock(ctx, vm.Config().Vsock, in.client); err != nil {
			return err
		}
		if err := in.client.Pause(ctx); err != nil {
			return err
		}
		vm.setState(Paused)
		return nil
	})
}

// Resume lets the guest's vCPUs run on; from Paused.
func (vm *VM) Resume(ctx context.Context) error {
	return vm.change(ctx, "resume", []State{Paused}, func(in *instance) error {
		if err := in.client.Resume(ctx); err != nil {
			return err
		}
		vm.setState(Running)
		if in.guest != nil && vm.home.restored {
			in.guest.greet(in.process.Done())
		}
		return nil
	})
}

// healVsock goes round a fault of Firecracker 1.16.0 and 1.16.1: after a bare pause and resume every vsock connection
// hangs and the VMM spins (issue 6074). A snapshot asked for while the VM runs is refused and writes nothing, but resets
// the vsock on the way, and then pausing is harmless.
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
	return vm.change(ctx, "set metadata", liveStates(), func(in *instance) error { return in.client.PutMMDS(ctx, data) })
}

// Metadata returns the metadata as JSON. Running or Paused.
func (vm *VM) Metadata(ctx context.Context) (data json.RawMessage, err error) {
	err = vm.change(ctx, "get metadata", liveStates(), func(in *instance) error {
		data, err = in.client.GetMMDS(ctx)
		return err
	})
	return data, err
}

// UpdateDrive puts another file behind a drive. The guest keeps the drive's name and learns of a new size; it must not
// have the drive mounted. The file is used as it is, never staged. Running or Paused.
func (vm *VM) UpdateDrive(ctx context.Context, driveID, pathOnHost string) error {
	return vm.change(ctx, "update drive", liveStates(), func(in *instance) error {
		if err := drive.CheckSource(pathOnHost, false); err != nil {
			return vm.fail("update drive", DriveStageFailed, err)
		}
		path, err := filepath.Abs(pathOnHost)
		if err != nil {
			return err
		}
		if err := in.client.PatchDrive(ctx, firecracker.DriveUpdate{DriveID: driveID, PathOnHost: path}); err != nil {
			return err
		}
		vm.mu.Lock()
		defer vm.mu.Unlock()
		for _, config := range []*Config{&vm.config, &vm.home.seen, &vm.home.onHost} {
			for i := range config.Drives {
				if config.Drives[i].DriveID == driveID {
					config.Drives[i].PathOnHost = path
				}
			}
		}
		return nil
	})
}

// UpdateInterface changes an interface's limits; nil leaves one as it is, and a bucket of size 0 lifts it. Running or
// Paused.
func (vm *VM) UpdateInterface(ctx context.Context, ifaceID string, rx, tx *RateLimiter) error {
	return vm.change(ctx, "update interface", liveStates(), func(in *instance) error {
		return in.client.PatchNetworkInterface(ctx, firecracker.NetworkInterfaceUpdate{
			IfaceID: ifaceID, RxRateLimiter: rateLimiter(rx), TxRateLimiter: rateLimiter(tx),
		})
	})
}

// UpdateBalloon asks the guest for a balloon of amountMiB. It is a wish: the guest's driver follows it or not. Running or
// Paused.
func (vm *VM) UpdateBalloon(ctx context.Context, amountMiB int) error {
	return vm.change(ctx, "update balloon", liveStates(), func(in *instance) error {
		return in.client.PatchBalloon(ctx, firecracker.BalloonUpdate{AmountMiB: amountMiB})
	})
}

// BalloonStats returns what the guest's balloon driver reported last; the balloon must have been configured with a polling
// interval. Running or Paused.
func (vm *VM) BalloonStats(ctx context.Context) (stats firecracker.BalloonStats, err error) {
	err = vm.change(ctx, "balloon statistics", liveStates(), func(in *instance) error {
		stats, err = in.client.GetBalloonStats(ctx)
		return err
	})
	return stats, err
}

// FlushMetrics has the VMM write its metrics now. Running or Paused.
func (vm *VM) FlushMetrics(ctx context.Context) error {
	return vm.change(ctx, "flush metrics", liveStates(), func(in *instance) error { return in.client.FlushMetrics(ctx) })
}

// Info asks the VMM about itself and its VM. Without a VMM it is NoClient.
func (vm *VM) Info(ctx context.Context) (firecracker.InstanceInfo, error) {
	client, err := vm.Client()
	if err != nil {
		return firecracker.InstanceInfo{}, err
	}
	info, err := client.Info(ctx)
	if err != nil {
		return info, vm.clientError(ctx, "info", err)
	}
	return info, nil
}

// Version returns the VMM's version. Without a VMM it is NoClient.
func (vm *VM) Version(ctx context.Context) (firecracker.Version, error) {
	client, err := vm.Client()
	if err != nil {
		return firecracker.Version{}, err
	}
	version, err := client.GetVersion(ctx)
	if err != nil {
		return version, vm.clientError(ctx, "version", err)
	}
	return version, nil
}

// Client returns the API client of the VM's VMM, for what this package has no call for. What is changed through it is not
// known here. Without a VMM it is NoClient.
func (vm *VM) Client() (*firecracker.Client, error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.live == nil {
		return nil, &Error{Code: NoClient, Op: "client", VM: vm.id, Err: errors.New("the VM has no VMM process; start it first")}
	}
	select {
	case <-vm.live.process.Done():
		return nil, &Error{Code: NoClient, Op: "client", VM: vm.id, Err: vm.live.exitError()}
	default:
		return vm.live.client, nil
	}
}

// PID returns the process id of the VM's VMM, or 0 when there is none.
func (vm *VM) PID() int {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.live == nil {
		return 0
	}
	select {
	case <-vm.live.process.Done():
		return 0
	default:
		return vm.live.process.PID()
	}
}

// change calls f with the VM's instance when the VM is in one of the wanted states, while no other operation changes the
// VM, and gives its error a code.
func (vm *VM) change(ctx context.Context, op string, wanted []State, f func(*instance) error) error {
	if err := vm.acquire(ctx, op); err != nil {
		return err
	}
	defer vm.release()
	in, err := vm.require(op, wanted...)
	if err != nil {
		return err
	}
	if err := f(in); err != nil {
		return vm.vmmError(ctx, op, in, err)
	}
	return nil
}

func (vm *VM) clientError(ctx context.Context, op string, err error) error {
	vm.mu.Lock()
	in := vm.live
	vm.mu.Unlock()
	if in == nil {
		return vm.fail(op, NoClient, fmt.Errorf("the VM ended meanwhile: %w", err))
	}
	return vm.vmmError(ctx, op, in, err)
}

func liveStates() []State { return []State{Running, Paused} }
