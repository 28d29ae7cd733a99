package smartvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unicode"

	"smartvm/firecracker"
	"smartvm/internal/undo"
)

// instance is a VM's VMM process and what stands around it. It lives from a start to the VMM's end; then everything here
// is let go of at once, whoever ended it.
type instance struct {
	binary  string
	steps   *undo.Stack
	console *firecracker.Console
	process *firecracker.Process
	client  *firecracker.Client
	guest   *guestLink // nil without our init

	closed chan struct{} // closed when the steps are undone
	undone error         // what went wrong with that; read it after closed
}

// watch undoes the instance when its process ends, and keeps what is left to say.
func (in *instance) watch() {
	<-in.process.Done()
	in.undone = in.steps.Unwind(context.Background())
	close(in.closed)
}

// exitError says how the VMM ended, with the last words of the console.
func (in *instance) exitError() error {
	exit := in.process.Exit()
	text := "the VMM ended by itself: " + exit.String()
	if hint := consoleHint(in.console.Tail()); hint != "" {
		text += "; last on the console: " + hint
	}
	return errors.New(text)
}

// startVMM starts the VMM in the VM's folder, up to where its API answers.
func (vm *VM) startVMM(ctx context.Context, op string, h *home, binary string) (_ *instance, err error) {
	in := &instance{binary: binary, steps: new(undo.Stack), closed: make(chan struct{})}
	defer func() {
		if err != nil {
			vm.logUndo(in.steps.Unwind(ctx))
		}
	}()
	log := newConsoleWriter(h.folder.path(consoleLog), vm.toConsole)
	in.steps.Add("close the console's log", func(context.Context) error { return log.Close() })
	if in.console, err = firecracker.NewConsole(h.folder.path(consoleFIFO)); err != nil {
		return nil, vm.fail(op, InvalidState, err)
	}
	in.steps.Add("close the console", func(context.Context) error { return in.console.Close() })
	in.console.Drain(log)

	if h.seen.Guest != nil {
		if in.guest, err = listenForGuest(h.onHost.Vsock.UDSPath, h.restored); err != nil {
			return nil, vm.fail(op, InvalidState, err)
		}
		in.steps.Add("stop listening for the guest", func(context.Context) error { return in.guest.close() })
	}
	if v := h.onHost.Vsock; v != nil {
		if _, err := os.Lstat(v.UDSPath); !errors.Is(err, fs.ErrNotExist) {
			return nil, vm.fail(op, InvalidConfig, fmt.Errorf("vsock.udsPath: %s is there already; choose another path, or remove it when nothing uses it", v.UDSPath))
		}
		// Firecracker makes the socket and never removes it.
		in.steps.Add("remove the vsock", func(context.Context) error { return removeIfThere(v.UDSPath) })
	}
	in.process, err = firecracker.Start(ctx, firecracker.Command{
		Path: binary, Dir: h.folder.data, Socket: apiSocket, ID: vm.key, Args: vm.options.VMMArgs, Console: in.console,
		Env: vm.options.vmmEnv(), AllowVersions: vm.options.AllowVersions,
	})
	if err != nil {
		return nil, vm.startError(op, err)
	}
	in.client = in.process.Client()
	in.steps.Add("end the VMM", func(ctx context.Context) error {
		_, err := in.process.Stop(ctx, firecracker.Kill())
		return err
	})
	return in, nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// consoleHint picks from a console's last output what tells why a guest failed: the line of a kernel panic, else the last
// few lines. The guest wrote it, so it is cut and stripped of everything that a terminal would obey.
func consoleHint(tail []byte) string {
	const maxLines, maxLine = 3, 200
	clean := strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(string(bytes.TrimSpace(tail)), "?"))
	lines := strings.FieldsFunc(clean, func(r rune) bool { return r == '\n' })
	for i, line := range lines {
		if len(line) > maxLine {
			lines[i] = line[:maxLine]
		}
		if strings.Contains(line, "Kernel panic") {
			return fmt.Sprintf("%q", lines[i])
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return fmt.Sprintf("%q", strings.Join(lines[max(0, len(lines)-maxLines):], "\n"))
}
