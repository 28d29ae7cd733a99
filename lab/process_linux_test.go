package lab

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// starterEnv makes this test program one that starts a process and waits; its value is the folder to use.
const starterEnv = "SMARTVM_LAB_TEST_STARTER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(starterEnv); dir != "" {
		p, err := startSleep(dir, time.Hour)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.cmd.Process.Pid)
		<-p.done
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func startSleep(dir string, cpuTime time.Duration) (*process, error) {
	output, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	return startProcess("/bin/sleep", []string{"600"}, dir, output, nil, cpuTime)
}

func TestNothingOutlivesARunnerThatIsKilled(t *testing.T) {
	t.Parallel()
	starter := exec.Command(os.Args[0])
	starter.Env = append(os.Environ(), starterEnv+"="+t.TempDir())
	out, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(line)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	starter.Wait()
	for { // a signal may interrupt the wait; the pidfd becomes readable when the process has ended
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != 1 {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("the process lives on: %v", err)
		}
		return
	}
}

func TestAProcessHasItsBoundOnCPUTime(t *testing.T) {
	t.Parallel()
	p, err := startSleep(t.TempDir(), 90*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer p.kill()
	var limit unix.Rlimit
	if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_CPU, nil, &limit); err != nil || limit.Max != 91 {
		t.Errorf("limit %+v, %v", limit, err)
	}
}

func TestQEMUGetsItsDrivesInOrderAndNoNetwork(t *testing.T) {
	t.Parallel()
	m := machine{cpus: 2, memoryMiB: 3072, tscKHz: 7, kernel: "k", initrd: "i", console: "c,d", monitor: "m",
		drives: []labDrive{{path: "/a,b"}, {path: "/c", writable: true}}}
	line := strings.Join(m.qemuArgs(), " ")
	for _, part := range []string{
		"tsc_early_khz=7", "readonly=on,cache=unsafe,file=/a,,b -device virtio-blk-pci,drive=drive0",
		"readonly=off,cache=unsafe,file=/c -device virtio-blk-pci,drive=drive1", "-nic none", "path=c,,d",
	} {
		if !strings.Contains(line, part) {
			t.Errorf("no %q in %s", part, line)
		}
	}
	m.kvm, m.monitor = true, strings.Repeat("x", 200)
	if line := strings.Join(m.qemuArgs(), " "); strings.Contains(line, "tsc_early_khz") || !strings.Contains(line, "-cpu host") || strings.Contains(line, "monitor") {
		t.Errorf("with KVM: %s", line)
	}
}

func TestMembersOfPackagesLieInAMergedUsr(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"./bin/ip": "usr/bin/ip", "./lib/x86_64-linux-gnu/libc.so.6": "usr/lib/x86_64-linux-gnu/libc.so.6",
		"./usr/bin/nft": "usr/bin/nft", "./lib": "lib", "./": ".", "./libexec/x": "libexec/x", "./lib64/ld.so": "usr/lib64/ld.so",
	} {
		if got := mergedUsr(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	var archive strings.Builder
	w := tar.NewWriter(&archive)
	w.WriteHeader(&tar.Header{Name: "./bin/a", Typeflag: tar.TypeLink, Linkname: "./bin/b"})
	w.Close()
	err := eachMember(tar.NewReader(strings.NewReader(archive.String())), func(h *tar.Header, _ io.Reader) error {
		if h.Name != "usr/bin/a" || h.Linkname != "usr/bin/b" {
			t.Errorf("the hard link is %s to %s", h.Name, h.Linkname)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
