package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/internal/filewatch"
	"smartvm/internal/proof"
)

// Where smartvm keeps what is root's.
const labData, labRuntime = "/var/lib/smartvm", "/run/smartvm"

// labProcesses are the VMMs, jailers, supervisors and what settles VMs: their command lines. The lab's host has no others.
func labProcesses(t *testing.T) map[int]string {
	t.Helper()
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, folder := range folders {
		program, _ := os.Readlink(filepath.Join(folder, "exe"))  // none of one that has ended
		text, _ := os.ReadFile(filepath.Join(folder, "cmdline")) // and empty for a moment of one that begins
		args := strings.Split(strings.Trim(string(text), "\x00"), "\x00")
		switch name := filepath.Base(program); {
		case name == "firecracker", name == "jailer", name == "firecracker-emulator", strings.HasPrefix(name, "qemu"),
			name == "smartvm" && (len(args) < 2 || slices.Contains([]string{"supervise", "settle"}, args[1])):
			pid, _ := strconv.Atoi(filepath.Base(folder))
			found[pid] = name + " " + strings.Join(args[min(1, len(args)):], " ")
		}
	}
	return found
}

// awaitEnd waits for a process's end.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(pidfd)
	for limit := time.Now().Add(time.Minute); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(max(0, time.Until(limit).Milliseconds())))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n == 0 || err != nil {
			t.Errorf("the process %d does not end: %v", pid, err)
		}
		return
	}
}

// nothingLeft looks for what VMs may leave on a host: processes, folders, names, users, mounts and cgroups.
func nothingLeft(t *testing.T) {
	t.Helper()
	for pid := range labProcesses(t) { // on their way out
		awaitEnd(t, pid)
	}
	for _, dir := range []string{labData + "/vms", labData + "/names", labData + "/uids", labRuntime, "/sys/fs/cgroup/smartvm"} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		for _, entry := range entries {
			if control := dir == "/sys/fs/cgroup/smartvm" && !entry.IsDir(); entry.Name() != ".lock" && !control {
				t.Errorf("left behind: %s/%s", dir, entry.Name())
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, labData+"/vms") || strings.Contains(line, labRuntime+"/") {
			t.Errorf("still mounted: %s", line)
		}
	}
}

// do runs a command that must succeed, and returns what it printed.
func do(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := smartvmCommand(t, "", args...)
	if code != 0 {
		t.Fatalf("smartvm %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return strings.TrimSpace(out)
}

// killAfter starts `smartvm run` and kills it when it has printed a line, which is returned. Its VM has something of all
// that can be left behind.
func killAfter(t *testing.T, args ...string) (line string) {
	t.Helper()
	cmd := runToBeKilled(t, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err = bufio.NewReader(out).ReadString('\n')
	if killErr := cmd.Process.Kill(); err != nil || killErr != nil {
		t.Errorf("%v, %v: %s", err, killErr, errs.String())
	}
	wantKilled(t, cmd)
	return strings.TrimSpace(line)
}

func runToBeKilled(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	memory := "400M"
	flags := vmmFlags(t)
	if len(flags) > 0 {
		memory = "600M"
	}
	flags = append(append([]string{"run", "-m", "256M", "--disk", "16MiB", "--limit", "memory=" + memory}, flags...), args...)
	return exec.CommandContext(t.Context(), proof.Command(t), flags...)
}

func wantKilled(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	_ = cmd.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("the command ended by itself: %v", cmd.ProcessState)
	}
}

// supervisorsEnd waits for the supervisors that have seen their command's end.
func supervisorsEnd(t *testing.T) {
	t.Helper()
	for pid, line := range labProcesses(t) {
		if strings.Contains(line, "smartvm supervise") {
			awaitEnd(t, pid)
		}
	}
	for pid := range labProcesses(t) { // what they have begun
		awaitEnd(t, pid)
	}
}

func TestAKilledRunTakesItsVMAlongInTheLab(t *testing.T) {
	proof.LabLong(t)
	const command = "mount /dev/vda /mnt && cat /mnt/kept 2>/dev/null; echo kept >/mnt/kept; sync; echo up; sleep 1000"
	killAfter(t, "--", "sh", "-c", command)
	supervisorsEnd(t)
	if out := do(t, "ps", "-a", "-q"); out != "" {
		t.Errorf("a VM without a name is there still: %s", out)
	}
	if out := do(t, "gc"); out != "" {
		t.Errorf("there was something left: %s", out)
	}
	nothingLeft(t)

	killAfter(t, "--name", "job", "--", "sh", "-c", command)
	supervisorsEnd(t)
	if out := do(t, "ps", "-a", "--format", "{{.Name}} {{.Phase}} {{.Detail}}"); out != "job failed the process that the VM was bound to is gone" {
		t.Errorf("ps says %q", out)
	}
	if out := do(t, "gc"); out != "" {
		t.Errorf("there was something left: %s", out)
	}
	do(t, "start", "job") // with its disk, and its command
	if out := do(t, "exec", "job", "--", "sh", "-c", "until cat /mnt/kept 2>/dev/null; do :; done"); out != "kept" {
		t.Errorf("on its disk is %q", out)
	}
	do(t, "rm", "-f", "job")
	nothingLeft(t)
}

func TestADetachedVMOutlivesItsKilledStarterAndSupervisorInTheLab(t *testing.T) {
	proof.LabLong(t)
	id := killAfter(t, "-d", "--name", "web") // while it waits for the guest
	if out := do(t, "ps", "--no-trunc", "--format", "{{.ID}} {{.State}} {{.Monitor}}"); out != id+" running alive" {
		t.Errorf("without its starter ps says %q", out)
	}
	if out := do(t, "exec", "web", "--", "sh", "-c", "echo kept | tee /run/kept"); out != "kept" {
		t.Errorf("the guest says %q", out)
	}
	if out := do(t, "gc"); out != "" {
		t.Errorf("gc did something to a VM that runs: %s", out)
	}

	var vmm int
	for pid, line := range labProcesses(t) {
		if strings.Contains(line, "smartvm supervise") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, pid)
		} else if !strings.HasPrefix(line, "qemu") {
			vmm = pid
		}
	}
	if out := do(t, "exec", "web", "--", "cat", "/run/kept"); out != "kept" {
		t.Errorf("without its supervisor the guest says %q", out)
	}
	if out := do(t, "ps", "--no-trunc"); !strings.Contains(out, "(no monitor)") || !strings.Contains(out, id) {
		t.Errorf("without its supervisor ps says %q", out)
	}
	if out := do(t, "gc"); out != "" {
		t.Errorf("gc did something to a VM that runs: %s", out)
	}

	if err := syscall.Kill(vmm, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, vmm)
	if out := do(t, "ps", "-a", "--format", "{{.Phase}}"); out != "lost" {
		t.Errorf("of a VMM whose end nobody saw ps says %q", out)
	}
	do(t, "gc")
	if out := do(t, "ps", "-a", "--format", "{{.Name}} {{.Phase}}"); out != "web lost" {
		t.Errorf("after gc ps says %q", out)
	}
	do(t, "start", "web")
	if out := do(t, "ps", "--format", "{{.Phase}} {{.Monitor}}"); out != "ready alive" {
		t.Errorf("after the next start ps says %q", out)
	}
	do(t, "rm", "-f", "web")
	nothingLeft(t)
}

// A run that is killed at no particular moment of its start: each time one change later in the folder where its VM appears.
func TestARunThatIsKilledWhileItStartsLeavesNothingForGCToMissInTheLab(t *testing.T) {
	proof.LabLong(t)
	for _, detached := range []bool{false, true} {
		for _, changes := range []int{0, 1, 2, 3, 4, 6, 8} {
			t.Run(fmt.Sprintf("detached %t, after %d changes", detached, changes), func(t *testing.T) {
				var args []string
				if detached {
					args = []string{"-d", "--name", "web"}
				} else {
					args = []string{"--", "true"}
				}
				killWhileItStarts(t, changes, args...)
				if !detached || do(t, "ps", "-q") == "" { // else it was let go of, and lives on
					supervisorsEnd(t)
				}
				state := do(t, "ps", "-a", "--format", "{{.Phase}}")
				do(t, "gc")
				after := do(t, "ps", "-a", "--format", "{{.Phase}}")
				t.Logf("ps -a says %q, and after gc %q", state, after)
				if !detached && after != "" {
					t.Errorf("after gc there is a VM that is %s", after)
				}
				if after != "" {
					do(t, "rm", "-f", "web")
				}
				nothingLeft(t)
			})
		}
	}
}

// killWhileItStarts kills the run after so many changes among the runtime folders, or in its VM's.
func killWhileItStarts(t *testing.T, changes int, args ...string) {
	t.Helper()
	if err := os.MkdirAll(labRuntime, 0o700); err != nil {
		t.Fatal(err)
	}
	among, err := filewatch.New(labRuntime)
	if err != nil {
		t.Fatal(err)
	}
	defer among.Close()
	cmd := runToBeKilled(t, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.After(time.Minute)
	var inside *filewatch.Watch
	for inside == nil {
		select {
		case <-among.Changed():
		case <-limit:
			t.Fatal("no runtime folder appears")
		}
		folders, _ := filepath.Glob(labRuntime + "/*")
		for _, folder := range folders {
			if inside, err = filewatch.New(folder); err == nil {
				defer inside.Close()
				break
			}
		}
	}
	for range changes {
		select {
		case <-inside.Changed():
		case <-limit:
			t.Fatal("nothing changes in the runtime folder")
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	wantKilled(t, cmd)
}
