package record

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func identified(t *testing.T, pid int) Process {
	t.Helper()
	p, err := Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func procPath(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// ended waits until a child has ended, without waiting for it as its parent does: it stays a zombie.
func ended(t *testing.T, o *other) {
	t.Helper()
	pidfd, err := unix.PidfdOpen(o.pid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := awaitEnd(t.Context(), pidfd); err != nil {
		t.Fatal(err)
	}
}

func TestAProcessIsKnownAgain(t *testing.T) {
	t.Parallel()
	us := identified(t, os.Getpid())
	if us.PID != os.Getpid() || us.Start == 0 || len(us.Boot) != 36 || !us.Alive() {
		t.Errorf("got %+v", us)
	}
	if again := identified(t, os.Getpid()); again != us {
		t.Errorf("got %+v, then %+v", us, again)
	}
	child := begin(t, "idle")
	child.says("here")
	if them := identified(t, child.pid()); !them.Alive() || them.Start < us.Start {
		t.Errorf("got %+v, started before %+v", them, us)
	}
}

func TestAProcessWithParenthesesInItsNameIsKnown(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "a) (b")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, binary); err != nil {
		t.Fatal(err)
	}
	child := beginAt(t, binary, "", "idle")
	child.says("here")
	if comm, err := os.ReadFile(procPath(child.pid(), "comm")); err != nil || string(comm) != "a) (b\n" {
		t.Errorf("the test is wrong: %q, %v", comm, err)
	}
	p := identified(t, child.pid())
	if us := identified(t, os.Getpid()); p.Start < us.Start || !p.Alive() {
		t.Errorf("got %+v", p)
	}
}

func TestAnotherBootOrStartIsAnotherProcess(t *testing.T) {
	t.Parallel()
	us := identified(t, os.Getpid())
	for _, p := range []Process{
		{},
		{PID: us.PID, Start: us.Start},
		{PID: us.PID, Start: us.Start, Boot: "00000000-0000-0000-0000-000000000000"},
		{PID: us.PID, Start: us.Start + 1, Boot: us.Boot},
		{PID: -us.PID, Start: us.Start, Boot: us.Boot},
		{PID: 0, Boot: us.Boot},
	} {
		if p.Alive() {
			t.Errorf("%+v is alive", p)
		}
	}
}

func TestADeadProcessIsGone(t *testing.T) {
	t.Parallel()
	child := begin(t, "idle")
	child.says("here")
	p := identified(t, child.pid())
	child.kill()
	if p.Alive() {
		t.Error("alive")
	}
	for _, pid := range []int{p.PID, 0, -1} {
		if _, err := Identify(pid); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("process %d: %v", pid, err)
		}
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAZombieIsNotAlive(t *testing.T) {
	t.Parallel()
	child := begin(t, "end")
	ended(t, child)
	p := identified(t, child.pid())
	if p.Alive() {
		t.Error("alive")
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestKillWaitsForTheEnd(t *testing.T) {
	t.Parallel()
	lock := lockFile(t)
	child := begin(t, "hold", lock, "start")
	child.says("held")
	p := identified(t, child.pid())
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("alive")
	}
	wantHeld(t, lock, false)
	if err := p.Kill(t.Context()); err != nil {
		t.Errorf("killed already: %v", err)
	}
}

func TestKillSparesAStrangerOfTheSameNumber(t *testing.T) {
	t.Parallel()
	child := begin(t, "idle")
	child.says("here")
	p := identified(t, child.pid())
	for _, before := range []Process{
		{PID: p.PID, Start: p.Start - 1, Boot: p.Boot},
		{PID: p.PID, Start: p.Start, Boot: "00000000-0000-0000-0000-000000000000"},
	} {
		if err := before.Kill(t.Context()); err != nil {
			t.Errorf("%+v: %v", before, err)
		}
	}
	if !p.Alive() {
		t.Error("the stranger was killed")
	}
	child.finish()
}

func TestAThreadsNumberIsNoProcessToKill(t *testing.T) {
	t.Parallel()
	child := begin(t, "idle")
	child.says("here")
	tasks, err := os.ReadDir(procPath(child.pid(), "task"))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads: %v, %v", tasks, err)
	}
	p := identified(t, child.pid())
	if p.PID, err = strconv.Atoi(tasks[len(tasks)-1].Name()); err != nil { // a process's before, and a thread's now
		t.Fatal(err)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	child.finish()
}

func TestToAwaitAnEndObeysTheContext(t *testing.T) {
	t.Parallel()
	child := begin(t, "idle")
	child.says("here")
	pidfd, err := unix.PidfdOpen(child.pid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan error)
	go func() { result <- awaitEnd(ctx, pidfd) }()
	cancel(enough)
	if err := <-result; !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	child.finish()
}

func TestAProcessOfAnotherPIDNamespaceCountsAsAliveAndIsNeverKilled(t *testing.T) {
	t.Parallel()
	p, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p.Space = "pid:[1]"
	p.Start++ // here, it would be a stranger
	if !p.Alive() {
		t.Error("it counts as dead")
	}
	if err := p.Kill(t.Context()); err == nil || !strings.Contains(err.Error(), "namespace") {
		t.Errorf("kill: %v", err)
	}
}
