package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// save writes the paused machine's state and memory.
func (v *vm) save(ctx context.Context, state io.Writer, memoryPath string) error {
	file, err := newMemfd("state")
	if err != nil {
		return err
	}
	defer file.Close()
	if err := v.saveDevices(ctx, file); err != nil {
		return err
	}
	if err := writeMemory(memoryPath, v.memory); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(state, file); err != nil {
		return fmt.Errorf("write the machine's state: %w", err)
	}
	return nil
}

// fdset is the number under which QEMU knows a file that it was handed (/dev/fdset/<n>); one is in use at a time.
const fdset = 1

// saveDevices has QEMU write the state of CPUs and devices to file.
func (v *vm) saveDevices(ctx context.Context, file *os.File) error {
	// QEMU takes a descriptor only for the access that it wants: writing alone.
	out, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("hand QEMU a file for the state: %w", err)
	}
	defer out.Close()
	if _, err := v.execute(ctx, "add-fd", map[string]any{"fdset-id": fdset}, out); err != nil {
		return err
	}
	_, err = v.execute(ctx, "xen-save-devices-state",
		map[string]any{"filename": fmt.Sprintf("/dev/fdset/%d", fdset), "live": false}, nil)
	_, removeErr := v.execute(context.WithoutCancel(ctx), "remove-fd", map[string]any{"fdset-id": fdset}, nil)
	return errors.Join(err, removeErr)
}

// load hands QEMU a saved state. The memory is filled first: QEMU writes nothing to it while it waits for a state.
func (v *vm) load(ctx context.Context, state io.Reader, memoryPath string) error {
	if err := readMemory(v.memory, memoryPath, v.spec.MemoryMiB); err != nil {
		return err
	}
	file, err := newMemfd("state")
	if err != nil {
		return err
	}
	defer file.Close()
	n, err := io.Copy(file, io.LimitReader(state, maxState+1))
	if err != nil {
		return fmt.Errorf("read the machine's state: %w", err)
	}
	if n > maxState {
		return fmt.Errorf("read the machine's state: it has more than %d MiB", maxState>>20)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the machine's state: %w", err)
	}
	capability := map[string]any{"capability": "events", "state": true}
	if _, err := v.execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []any{capability}}, nil); err != nil {
		return err
	}
	if _, err := v.execute(ctx, "getfd", map[string]any{"fdname": "state"}, file); err != nil {
		return err
	}
	if _, err := v.execute(ctx, "migrate-incoming", map[string]any{"uri": "fd:state"}, nil); err != nil {
		return err
	}
	if err := v.arrived(ctx); err != nil {
		return fmt.Errorf("load the machine's state: %w", err)
	}
	return v.configureBalloon(ctx)
}

// arrived waits until QEMU has the incoming state. QEMU ends when it cannot take it.
func (v *vm) arrived(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	for {
		select {
		case status := <-v.migration:
			switch status {
			case "completed":
				return nil
			case "failed":
				if v.proc.wait(quitTimeout) {
					return v.proc.ended()
				}
				return errors.New("QEMU refused it")
			}
		case <-v.proc.done:
			return v.proc.ended()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
