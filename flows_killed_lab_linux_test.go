package smartvm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

func TestAJailedVMGoesOnWithoutItsSupervisorAndItsKilledVMMIsTold(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	vm := createDetached(t, m, config, CreateOptions{Name: "web"})
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	sh(t, agentOf(t, vm), "echo kept >/run/kept")
	supervisor := vm.look().jour.Monitor
	if err := supervisor.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	adopted, err := anotherManager(t, m).Find("web")
	if err != nil {
		t.Fatal(err)
	}
	// A guest as slow as the lab's may take longer to answer than a status waits.
	for status := (Status{}); status.Phase != PhaseReady; {
		if status, err = adopted.Status(ctx); err != nil || status.Monitor != MonitorDead || status.State != Running {
			t.Fatalf("without its supervisor the VM is %+v, %v", status, err)
		}
	}
	if got := sh(t, agentOf(t, adopted), "cat /run/kept"); got != "kept" {
		t.Errorf("the guest says %q", got)
	}
	if err := adopted.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	wantState(t, vm, Stopped)

	if err := adopted.Start(ctx); err != nil { // in the same jail, with a supervisor again
		t.Fatal(err)
	}
	if err := syscall.Kill(adopted.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if note, status := ended(t, adopted); note.Signal != int(syscall.SIGKILL) || note.By != "" || note.Unknown || status.Phase != PhaseKilled || status.State != Failed {
		t.Errorf("a VMM that was killed is told as %+v, phase %s, state %s", note, status.Phase, status.State)
	}
}

// killedAtEnv makes a test program the process that starts and removes a VM and is killed over it: the folders of its manager, and
// the step at which that happens.
const killedAtEnv = "SMARTVM_LAB_KILLED_AT"

func TestAStartOrARemovalThatIsKilledLeavesNothingOfAJail(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	config.Drives = []Drive{{DriveID: "data", BlankMiB: 16}}
	if said := strings.Split(os.Getenv(killedAtEnv), "\n"); len(said) == 3 {
		liveAndBeKilled(t, m.Options(), config, said[0], said[1], step(said[2]))
		return
	}
	for _, at := range []step{
		stepCreatePublish, stepStartRuntime, stepStartJournal, stepStartStage, stepStartRecord, stepStartSpawn, stepStartReady, stepStartTell, stepStartRunning,
		stepRemoveHide,
	} {
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		again.Env = append(os.Environ(), killedAtEnv+"="+strings.Join([]string{m.options.DataDir, m.options.RuntimeDir, string(at)}, "\n"))
		out, err := again.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
			t.Errorf("%s: the process was not killed: %v\n%s", at, err, bytes.TrimSpace(out))
		}
		began := time.Now()
		actions, err := anotherManager(t, m).Sweep(t.Context(), SweepOptions{})
		if err != nil {
			t.Errorf("%s: gc: %v", at, err)
		}
		t.Logf("%s: gc took %v, and did %+v", at, time.Since(began).Round(time.Millisecond), actions)
		checkNothingLeft(t, m)
	}
}

func liveAndBeKilled(t *testing.T, options Options, config Config, data, runtime string, at step) {
	options.DataDir, options.RuntimeDir = data, runtime
	options.hook = fault{How: faultKill, Step: at, After: true}.hook()
	m, err := NewManager(options)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := m.CreateVM(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Fatalf("neither the start nor the removal was killed: %v", vm.Remove(t.Context(), true))
}
