package smartvm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

// newNetNS makes a network namespace, that of a process which sleeps, with a TAP in it, and returns its path.
func newNetNS(t *testing.T, tap string) string {
	t.Helper()
	sleeper := exec.Command("sleep", "1000")
	sleeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	})
	path := fmt.Sprintf("/proc/%d/ns/net", sleeper.Process.Pid)
	if err := inNetNS(path, func() error { return makeTAP(tap) }); err != nil {
		t.Fatal(err)
	}
	return path
}

func makeTAP(name string) error {
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer tun.Close()
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, tun.Fd(), unix.TUNSETIFF, uintptr(unsafe.Pointer(request))); errno != 0 {
		return errno
	}
	return unix.IoctlSetInt(int(tun.Fd()), unix.TUNSETPERSIST, 1)
}

func namespaceOf(t *testing.T, path string) string {
	t.Helper()
	name, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestAJailedVMMRunsInItsNetworkNamespaceAndAlsoWhenItStartsAgain(t *testing.T) {
	t.Parallel()
	m := jailedManager(t)
	const tap = "svmtestns0"
	config := smallConfig(t)
	config.NetNS = newNetNS(t, tap)
	config.NetworkInterfaces = []NetworkInterface{{IfaceID: "eth0", HostDevName: tap}}
	vm := start(t, m, config)
	again, err := m.VM(vm.ID()) // as the record has it
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, want := namespaceOf(t, fmt.Sprintf("/proc/%d/ns/net", again.PID())), namespaceOf(t, config.NetNS); got != want {
			t.Errorf("the VMM is in %s, not in %s", got, want)
		}
		if stats, err := again.Stats(t.Context()); err != nil || stats.Processes != 1 {
			t.Errorf("%+v, %v", stats, err)
		}
		if err := again.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := again.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkTAP(tap, ""); err == nil {
		t.Error("the TAP is on the host")
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, task := range tasks {
		if name, err := os.Readlink(task); err == nil && name != namespaceOf(t, "/proc/self/ns/net") { // one may have ended
			t.Errorf("a thread of ours, %s, is in %s", task, name)
		}
	}
}

func TestWhatIsNoNetworkNamespaceForAVMIsRefused(t *testing.T) {
	t.Parallel()
	m := jailedManager(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), unix.Mkfifo(file+".fifo", 0o600)); err != nil {
		t.Fatal(err)
	}
	here := newNetNS(t, "svmtestns1")
	for netns, want := range map[string]string{
		"svm-no-such-ns":      "netns: there is no network namespace /run/netns/svm-no-such-ns: make one (ip netns add svm-no-such-ns)",
		file:                  "netns: " + file + " is no network namespace",
		file + ".fifo":        "is no network namespace",
		"/proc/self/ns/mnt":   "netns: /proc/self/ns/mnt is no network namespace",
		here:                  "networkInterfaces[0].hostDevName: there is no TAP \"svmtestns2\" in the network namespace " + here,
		"/run/netns/with\x00": "netns must not hold a NUL byte",
	} {
		config := smallConfig(t)
		config.NetNS, config.NetworkInterfaces = netns, []NetworkInterface{{IfaceID: "eth0", HostDevName: "svmtestns2"}}
		vm := create(t, m, config)
		err := vm.Start(t.Context())
		wantCode(t, err, InvalidConfig)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		wantState(t, vm, Created)
	}
	config := smallConfig(t)
	config.NetNS = here
	for _, options := range []Options{
		{FirecrackerBinary: proof.Firecracker(t), NoJail: true},
		{Emulate: true, EmulatorBinary: proof.Emulator(t), VMMArgs: []string{"--machine", "null"}},
	} {
		err := create(t, newTestManager(t, options), config).Start(t.Context())
		wantCode(t, err, InvalidConfig)
		if !strings.Contains(err.Error(), "netns: the jailer joins the namespace") || !strings.Contains(err.Error(), "--no-jail") {
			t.Errorf("%v does not say what to do", err)
		}
	}
}

func TestOnlyATAPIsTakenForOne(t *testing.T) {
	t.Parallel()
	proof.Host(t)
	here := newNetNS(t, "svmtestns3")
	err := inNetNS(here, func() error {
		return errors.Join(checkTAP("svmtestns3", here), func() error {
			if err := checkTAP("lo", here); err == nil {
				return errors.New("lo is taken for a TAP")
			}
			return nil
		}())
	})
	if err != nil {
		t.Error(err)
	}
}
