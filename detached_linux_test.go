package smartvm

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"smartvm/internal/filewatch"
	"smartvm/internal/proof"
)

// detachedManager makes a manager whose VMs have supervisors, as the command's have.
func detachedManager(t *testing.T) (*Manager, Config) {
	t.Helper()
	m, config := guestManager(t)
	m.options.Supervisor = []string{proof.Command(t), "supervise"}
	m.options.Settle = []string{proof.Command(t), "settle"}
	return m, config
}

// createDetached makes a VM that outlives its manager, and takes it away when the test ends.
func createDetached(t *testing.T, m *Manager, config Config, options CreateOptions) *VM {
	t.Helper()
	options.Detached = true
	vm, err := m.Create(t.Context(), config, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := vm.Remove(ctx, true); err != nil {
			t.Error(err)
		}
	})
	return vm
}

func TestADetachedVMRunsItsCommandWhoeverIsThere(t *testing.T) {
	t.Parallel()
	m, config := detachedManager(t)
	vm := createDetached(t, m, config, CreateOptions{Name: "worker", Command: &Command{
		Args: []string{"sh", "-c", "echo to the log; echo $A >&2; exit 7"}, Env: []string{"A=from the environment"}, Dir: "/tmp",
	}})
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	other := anotherManager(t, m)
	found, err := other.Find("worker")
	if err != nil {
		t.Fatal(err)
	}
	note, err := found.WaitEnd(ctx)
	if err != nil || note.Command == nil || note.Command.Code != 7 || note.ExitCode() != 7 {
		t.Errorf("the end is %+v, %+v, %v", note, note.Command, err)
	}
	var log bytes.Buffer
	err = found.Logs(ctx, LogOptions{Source: LogAgent}, &log)
	lines := strings.Fields(log.String()) // stdout and stderr come each in its own time
	slices.Sort(lines)
	if err != nil || strings.Join(lines, " ") != "environment from log the the to" {
		t.Errorf("the log holds %q, %v", log.String(), err)
	}
	status, err := found.Status(ctx)
	if err != nil || status.Phase != PhaseExited || status.ExitCode == nil || *status.ExitCode != 7 {
		t.Errorf("status %+v, %v", status, err)
	}
}

// anotherManager is what another process would have.
func anotherManager(t *testing.T, m *Manager) *Manager {
	t.Helper()
	other, err := NewManager(m.Options())
	if err != nil {
		t.Fatal(err)
	}
	return other
}

func TestAVMWhoseSupervisorIsKilledGoesOnAndAnswersAllCalls(t *testing.T) {
	t.Parallel()
	m, config := detachedManager(t)
	vm := createDetached(t, m, config, CreateOptions{})
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	agentOf(t, vm)
	if err := syscall.Kill(vm.look().jour.Monitor.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	adopted, err := anotherManager(t, m).VM(vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := awaitMonitor(ctx, adopted.RuntimeDir()); err != nil {
		t.Fatal(err)
	}
	status, err := adopted.Status(ctx)
	if err != nil || status.Phase != PhaseReady || status.Monitor != MonitorDead {
		t.Errorf("status %+v, %v", status, err)
	}
	if got := sh(t, agentOf(t, adopted), "echo alive"); got != "alive" {
		t.Errorf("the agent says %q", got)
	}
	if err := adopted.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	if status, _ := adopted.Status(ctx); status.Phase != PhasePaused {
		t.Errorf("paused, it is %s", status.Phase)
	}
	if err := adopted.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if err := adopted.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	wantState(t, vm, Stopped)
	if err := vm.Start(ctx); err != nil {
		t.Errorf("start after it: %v", err)
	}
}

func TestAVMIsStartedAgainByItsPolicyUntilItIsStopped(t *testing.T) {
	t.Parallel()
	m, config := detachedManager(t)
	vm := createDetached(t, m, config, CreateOptions{
		Restart: Restart{Mode: RestartOnFailure, Max: 1}, Command: &Command{Args: []string{"sh", "-c", "echo run; exit 3"}},
	})
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	// It ends twice: once by itself, and once more after the restart that it is granted.
	watch, err := filewatch.New(vm.Folder())
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	for vm.look().rec.Instance < 2 {
		select {
		case <-watch.Changed():
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		}
	}
	if _, err := vm.WaitEnd(ctx); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if err := vm.Logs(ctx, LogOptions{Source: LogAgent}, &log); err != nil || strings.Count(log.String(), "run\n") != 2 {
		t.Errorf("the log holds %q, %v", log.String(), err)
	}
	if look := vm.look(); look.rec.Restarts != 1 || look.rec.Instance != 2 {
		t.Errorf("%d restarts, %d runs", look.rec.Restarts, look.rec.Instance)
	}
}

func TestACommandThatTheGuestDoesNotHaveEndsTheVMAndSaysSo(t *testing.T) {
	t.Parallel()
	m, config := detachedManager(t)
	vm := createDetached(t, m, config, CreateOptions{Command: &Command{Args: []string{"no-such-program"}}})
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	var refused *CommandError
	if err := vm.AwaitCommand(ctx); !errors.As(err, &refused) || refused.Exit.Code != 127 {
		t.Errorf("the command started: %v", err)
	}
	note, err := vm.WaitEnd(ctx)
	if err != nil || note.ExitCode() != 127 || note.Command == nil || !strings.Contains(note.Command.Error, "no-such-program") {
		t.Errorf("the end is %+v, %+v, %v", note, note.Command, err)
	}
}

func TestAStopGivesTheCommandTimeToEnd(t *testing.T) {
	t.Parallel()
	m, config := detachedManager(t)
	vm := createDetached(t, m, config, CreateOptions{Command: &Command{
		Args: []string{"sh", "-c", "trap 'echo asked to end; exit 5' TERM; echo ready; while :; do sleep 1; done"},
	}})
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	if err := vm.AwaitCommand(ctx); err != nil {
		t.Fatal(err)
	}
	awaitLog(ctx, t, vm, "ready")
	if err := vm.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	note, err := vm.WaitEnd(ctx)
	if err != nil || note.By != byStop || note.Command == nil || note.Command.Code != 5 {
		t.Errorf("the end is %+v, %+v, %v", note, note.Command, err)
	}
	awaitLog(ctx, t, vm, "asked to end")
}

// awaitLog follows the command's output until it has a text in it.
func awaitLog(ctx context.Context, t *testing.T, vm *VM, text string) {
	t.Helper()
	found := errors.New("found")
	var log bytes.Buffer
	err := vm.Logs(ctx, LogOptions{Source: LogAgent, Follow: true}, writerTo(func(p []byte) error {
		log.Write(p)
		if strings.Contains(log.String(), text) {
			return found
		}
		return nil
	}))
	if !errors.Is(err, found) {
		t.Fatalf("%q is not in the log %q: %v", text, log.String(), err)
	}
}

type writerTo func([]byte) error

func (f writerTo) Write(p []byte) (int, error) { return len(p), f(p) }

func TestASnapshotByNameOutlivesItsVMAndIsKeptWhileItIsUsed(t *testing.T) {
	t.Parallel()
	m, config := detachedManager(t)
	vm := createDetached(t, m, config, CreateOptions{})
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	sh(t, agentOf(t, vm), "echo kept > /tmp/memory")
	if _, err := vm.TakeSnapshot(t.Context(), "first", SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	wantState(t, vm, Running)
	if got := sh(t, agentOf(t, vm), "cat /tmp/memory"); got != "kept" {
		t.Errorf("after the snapshot the guest says %q", got)
	}
	if err := vm.Remove(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	dir, err := m.SnapshotDir("first")
	if err != nil {
		t.Fatal(err)
	}
	clone := createDetached(t, m, Config{}, CreateOptions{})
	if err := clone.Restore(t.Context(), dir, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, agentOf(t, clone), "cat /tmp/memory"); got != "kept" {
		t.Errorf("the restored guest says %q", got)
	}
	wantCode(t, m.RemoveSnapshot(t.Context(), "first"), InvalidState)
	if err := clone.Remove(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := m.RemoveSnapshot(t.Context(), "first"); err != nil {
		t.Error(err)
	}
	if all, err := m.Snapshots(); err != nil || len(all) != 0 {
		t.Errorf("snapshots %v, %v", all, err)
	}
}

func TestAVMWithoutTimeIsEnded(t *testing.T) {
	t.Parallel()
	m, config := detachedManager(t)
	vm := createDetached(t, m, config, CreateOptions{Timeout: time.Second})
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	note, err := vm.WaitEnd(ctx)
	if err != nil || note.By != byTimeout || note.ExitCode() != 124 {
		t.Errorf("the end is %+v, %v", note, err)
	}
}

func TestACommandThatItsCallerRanIsNotedAndRunsAgainWithTheNextStart(t *testing.T) {
	t.Parallel()
	m, config := detachedManager(t)
	vm, err := m.Create(t.Context(), config, CreateOptions{Attached: true, Keep: true, CommandByCaller: true, Command: &Command{Args: []string{"sh", "-c", "echo by itself; exit 4"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	agentOf(t, vm)
	if err := vm.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := vm.NoteCommand(ctx, CommandExit{Code: 9}); err != nil {
		t.Fatal(err)
	}
	if status, err := vm.Status(ctx); err != nil || status.ExitCode == nil || *status.ExitCode != 9 {
		t.Errorf("status %+v, %v", status, err)
	}
	later, err := anotherManager(t, m).VM(vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := later.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if note, err := later.WaitEnd(ctx); err != nil || note.Command == nil || note.Command.Code != 4 {
		t.Errorf("the end is %+v, %v", note.Command, err)
	}
	if err := later.Remove(ctx, true); err != nil {
		t.Error(err)
	}
}
