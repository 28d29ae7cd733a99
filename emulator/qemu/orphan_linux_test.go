package qemu

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/emulator/machine"
	"smartvm/internal/proof"
)

// parentVariable makes the test binary a parent that starts a machine, names QEMU's process, and waits to be killed.
const parentVariable = "SMARTVM_TEST_QEMU_PARENT"

func TestMain(m *testing.M) {
	if kernel := os.Getenv(parentVariable); kernel != "" {
		beParent(kernel)
	}
	os.Exit(m.Run())
}

func beParent(kernel string) {
	m := New(Options{})
	err := m.Start(context.Background(), machine.Spec{VCPUs: 1, MemoryMiB: 64, Kernel: kernel, SerialOut: io.Discard})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(m.(*qemuMachine).vm.proc.cmd.Process.Pid)
	io.Copy(io.Discard, os.Stdin) // until the test kills us, or is gone itself
	os.Exit(0)
}

func TestQEMUDoesNotOutliveAParentThatIsKilled(t *testing.T) {
	image := proof.Guest(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), parentVariable+"="+filepath.Join(image, "vmlinux"))
	stdin, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	do(t, "start the parent", parent.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent says %q", line)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)

	do(t, "kill the parent", parent.Process.Kill())
	parent.Wait()

	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Minute/time.Millisecond))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != 1 {
			unix.Kill(pid, unix.SIGKILL)
			t.Fatalf("QEMU (process %d) outlives its parent", pid)
		}
		return
	}
}

// stopProcess stops a process as a debugger would.
func stopProcess(t testing.TB, pid int) {
	t.Helper()
	do(t, "stop QEMU", unix.Kill(pid, unix.SIGSTOP))
}
