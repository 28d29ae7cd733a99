package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

// filterAPIThread makes a thread as Firecracker's API thread is, which is filtered as the word says.
func filterAPIThread(how string) {
	action := map[string]uint32{
		"open filter": unix.SECCOMP_RET_ALLOW, "trapping filter": unix.SECCOMP_RET_TRAP, "killing filter": unix.SECCOMP_RET_KILL_PROCESS,
		"refusing filter": unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM),
	}
	ready := make(chan error)
	var thread func()
	thread = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() { // never the process's first
			go thread()
			select {}
		}
		name := []byte(apiThread + "\x00")
		err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
		if what, ok := action[how]; ok && err == nil {
			program := []unix.SockFilter{
				{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number: seccomp_data.nr, at 0
				{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_GETPPID},
				{Code: unix.BPF_RET | unix.BPF_K, K: what},
				{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
			}
			filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
			if err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err == nil {
				err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0)
			}
		}
		ready <- err
		for {
			_, _ = unix.Poll(nil, -1)
		}
	}
	go thread()
	if err := <-ready; err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestAFilterIsToldFromOneThatHoldsNothing(t *testing.T) {
	t.Parallel()
	proof.Host(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for how, want := range map[string]Seccomp{
		"unfiltered": SeccompNone, "open filter": SeccompOpen,
		"trapping filter": SeccompHolds, "refusing filter": SeccompHolds, "killing filter": SeccompHolds,
	} {
		dir := shortDir(t)
		if got, err := TrySeccomp(t.Context(), Command{Path: self, Dir: dir, Socket: "s", Args: []string{how}}); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", how, got, err, want)
		}
		if _, err := os.Lstat(filepath.Join(dir, "s")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the socket is still there: %v", how, err)
		}
	}
	if got, err := TrySeccomp(t.Context(), Command{Path: self, Dir: shortDir(t), Socket: "s", Args: []string{"obedient"}}); err == nil {
		t.Errorf("what has no API thread: %q", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := TrySeccomp(ended, Command{Path: self, Dir: shortDir(t), Socket: "s", Args: []string{"open filter"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestAFilterThatTheKernelLetsNobodyTryIsNotJudged(t *testing.T) {
	t.Parallel()
	proof.Host(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), Command{Path: self, Dir: shortDir(t), Socket: "s", Args: []string{"open filter"}})
	if err != nil {
		t.Fatal(err)
	}
	tid, err := threadNamed(p.PID(), apiThread)
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // a thread has one tracer: nobody else becomes it
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(tid); err != nil {
		t.Fatal(err)
	}
	if got, err := tryThread(p.PID(), tid); got != "" || !errors.Is(err, ErrSeccompUntried) || !errors.Is(err, unix.EPERM) {
		t.Errorf("got %q, %v", got, err)
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if _, err := unix.Wait4(tid, nil, unix.WALL, nil); err != nil {
		t.Error(err)
	}
	<-p.Done()
}

// A release's binary holds; a build for another libc is open (here, one for glibc).
func TestTheFilterOfARealVMMIsTried(t *testing.T) {
	t.Parallel()
	binary := proof.Firecracker(t)
	got, err := TrySeccomp(t.Context(), Command{Path: binary, Dir: shortDir(t), Socket: "s"})
	if err != nil || got != SeccompHolds && got != SeccompOpen {
		t.Errorf("got %q, %v", got, err)
	}
	t.Logf("the filters of %s: %s", binary, got)
	got, err = TrySeccomp(t.Context(), Command{Path: binary, Dir: shortDir(t), Socket: "s", Args: []string{"--no-seccomp"}})
	if err != nil || got != SeccompNone {
		t.Errorf("with --no-seccomp: %q, %v", got, err)
	}
}
