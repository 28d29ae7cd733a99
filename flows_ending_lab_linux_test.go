package smartvm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"smartvm/guest"
	"smartvm/internal/cpio"
	"smartvm/internal/proof"
)

// order has the guest do something after which no answer comes.
func order(t *testing.T, agent *guest.Agent, line string) {
	t.Helper()
	session, err := agent.Start(t.Context(), guest.Command{Args: []string{"sh", "-c", line}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
}

// awaitConsole follows the guest's console until it has a text in it.
func awaitConsole(ctx context.Context, t *testing.T, vm *VM, text string) {
	t.Helper()
	found := errors.New("found")
	var log bytes.Buffer
	err := vm.Logs(ctx, LogOptions{Source: LogConsole, Follow: true}, writerTo(func(p []byte) error {
		log.Write(p)
		if strings.Contains(log.String(), text) {
			return found
		}
		return nil
	}))
	if !errors.Is(err, found) {
		t.Fatalf("%q is not on the console %q: %v", text, log.String(), err)
	}
}

// ended waits for the VM's end and returns what is told of it.
func ended(t *testing.T, vm *VM) (ExitNote, Status) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	note, err := vm.WaitEnd(ctx)
	if err != nil {
		t.Fatal(err)
	}
	status, err := vm.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return note, status
}

func TestAJailedGuestsRebootPanicAndPowerOffAreTold(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	vm, agent := boot(t, m, config)

	order(t, agent, "reboot -f")
	if note, status := ended(t, vm); note.Code != 0 || note.Signal != 0 || note.By != "" || status.Phase != PhaseExited || status.State != Stopped {
		t.Errorf("a reboot is told as %+v, phase %s, state %s", note, status.Phase, status.State)
	}

	if err := vm.Start(t.Context()); err != nil { // in the same jail
		t.Fatal(err)
	}
	order(t, agentOf(t, vm), "echo c >/proc/sysrq-trigger")
	if note, status := ended(t, vm); !strings.Contains(note.Panic, "sysrq triggered crash") || status.Phase != PhasePanicked || status.State != Failed {
		t.Errorf("a panic is told as %+v, phase %s, state %s", note, status.Phase, status.State)
	}

	// On x86 Firecracker has no way to be told of a power-off: the guest halts, and the VM has to be stopped.
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	order(t, agentOf(t, vm), "poweroff -f")
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	awaitConsole(ctx, t, vm, "reboot: ")
	wantState(t, vm, Running)
	for status := (Status{}); status.Phase != PhaseUnresponsive; { // the line comes before the end
		var err error
		if status, err = vm.Status(ctx); err != nil {
			t.Fatalf("a guest that is off is %s, %v", status.Phase, err)
		}
	}
	before := time.Now()
	if err := vm.StopWithin(ctx, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	t.Logf("the guest that was off was stopped after %v", time.Since(before).Round(time.Millisecond))
	if note, status := ended(t, vm); note.By != byStop || status.State != Stopped {
		t.Errorf("the end is told as %+v, state %s", note, status.State)
	}
}

// Ctrl-Alt-Del reaches the guest's kernel by the keyboard controller, and its kernel reboots: process 1 is a shell script,
// which asks for nothing else.
func TestAJailedGuestWithoutAnAgentIsAskedToEndByCtrlAltDel(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	config.Guest = nil
	initrd, err := os.ReadFile(config.BootSource.InitrdPath)
	if err != nil {
		t.Fatal(err)
	}
	file := bytes.NewBuffer(initrd) // a kernel unpacks one archive after the other
	w := cpio.NewWriter(file, 0)
	const script = "#!/bin/sh\necho nobody to ask\nexec sleep 1000000\n"
	if err := w.WriteHeader(cpio.Header{Name: "alone", Mode: cpio.TypeRegular | 0o755, Size: int64(len(script))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(script)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	config.BootSource.InitrdPath = filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(config.BootSource.InitrdPath, file.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	config.BootSource.BootArgs = defaultBootArgs + " quiet rdinit=/alone"
	vm := start(t, m, config)
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	awaitConsole(ctx, t, vm, "nobody to ask")
	if status, err := vm.Status(ctx); err != nil || status.Phase != PhaseRunning {
		t.Errorf("a guest without an agent is %s, %v", status.Phase, err)
	}
	if err := vm.StopWithin(ctx, time.Minute); err != nil {
		t.Fatal(err)
	}
	if note, _ := ended(t, vm); note.Code != 0 || note.Signal != 0 || note.By != byStop {
		t.Errorf("the guest did not end by itself: %+v", note)
	}
	var console bytes.Buffer
	if err := vm.Logs(ctx, LogOptions{Source: LogConsole}, &console); err != nil || !strings.Contains(console.String(), "reboot: Restarting system") {
		t.Errorf("its last words are %q, %v", tailOf(vm.look().folder.path(consoleLog), 200), err)
	}
}
