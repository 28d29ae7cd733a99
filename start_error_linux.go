package smartvm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"smartvm/firecracker"
)

// endGrace is how long a broken connection may precede the end of the VMM that broke it.
const endGrace = 500 * time.Millisecond

// startError gives a failed start of the VMM's process its code.
func (h *held) startError(ctx context.Context, op string, err error) error {
	code := SocketTimeout
	var (
		start  *firecracker.StartError
		unsafe *firecracker.UnsafeVersionError
		old    *firecracker.UnsupportedVersionError
	)
	if errors.As(err, &start) && errors.Is(err, firecracker.ErrEnded) {
		// Only the VMM's parent was told how it ended.
		if note := h.exitNote(ctx); !note.Unknown {
			exit := note.exit()
			start.Exit, start.Output = &exit, []byte(note.LastOutput)
		}
	}
	switch {
	case errors.As(err, &unsafe), errors.As(err, &old):
		code = UnsafeVersion
	case errors.As(err, &start) && start.Stage == firecracker.StageAPI:
		code = APITimeout
	}
	return h.vm.fail(op, code, err)
}

// vmmError gives what the VMM's client returned its code. For a connection that broke, a VMM that ended meanwhile is the
// better explanation. What is neither a reply nor the connection's was refused before anything was sent.
func (h *held) vmmError(ctx context.Context, op string, in *instance, err error) error {
	return h.vm.vmmError(ctx, op, in, h.folder, err)
}

func (vm *VM) vmmError(ctx context.Context, op string, in *instance, f folder, err error) error {
	var (
		coded       *Error
		refused     *firecracker.APIError
		unsupported *firecracker.UnsupportedFieldError
		broken      *firecracker.TransportError
	)
	switch {
	case errors.As(err, &coded):
		return vm.fail(op, coded.Code, err)
	case errors.As(err, &refused):
		return vm.fail(op, APIError, err)
	case errors.As(err, &unsupported):
		return vm.fail(op, UnsupportedField, err)
	case !errors.As(err, &broken):
		return vm.fail(op, InvalidConfig, err)
	}
	// A connection breaks a moment before the kernel reports the end of the process behind it.
	grace := time.NewTimer(endGrace)
	defer grace.Stop()
	select {
	case <-in.process.Done():
		return vm.fail(op, VMMExited, fmt.Errorf("%w: %w", noteOf(ctx, f, in.number).cause(), err))
	case <-grace.C:
		return vm.fail(op, SocketRequestFailed, err)
	case <-ctx.Done():
		return vm.fail(op, SocketRequestFailed, err)
	}
}
