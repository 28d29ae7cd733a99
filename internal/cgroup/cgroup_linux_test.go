package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"smartvm/internal/proof"
)

// fake makes a folder with control files in it, as the kernel makes them.
func fake(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func wantFile(t *testing.T, want string, path ...string) {
	t.Helper()
	if text, err := os.ReadFile(filepath.Join(path...)); err != nil || string(text) != want {
		t.Errorf("%s has %q (%v), want %q", filepath.Join(path...), text, err, want)
	}
}

func TestTheHierarchyIsTheOneOfVersion2(t *testing.T) {
	t.Parallel()
	const v1 = "36 31 0:33 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
	for text, want := range map[string]string{
		v1 + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n":                   "/sys/fs/cgroup/unified",
		"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 none rw,nsdelegate\n":        "/sys/fs/cgroup",
		"30 23 0:26 / /a\\040b\\134c rw - cgroup2 none rw\n31 23 0:26 / /later rw - cgroup2 none rw\n":  "/a b\\c",
		"30 23 0:26 / /cgroup2 rw - tmpfs cgroup2 rw\n31 23 0:26 /\n\n - cgroup2\n32 1 2:3 / /x rw -\n": "",
		v1: "",
	} {
		got, err := mountedIn(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
}

func TestAHostWithoutTheControllerIsRefusedWithAdvice(t *testing.T) {
	t.Parallel()
	all := Limits{CPUs: 1, Memory: 1 << 20, PIDs: 10}
	for name, c := range map[string]struct {
		files map[string]string
		want  string // "" is no error
	}{
		"enabled already":    {map[string]string{"cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": "cpu memory pids\n"}, ""},
		"the real root":      {map[string]string{"cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": "\n", "cgroup.procs": "1\n"}, ""},
		"an empty container": {map[string]string{"cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": "\n", "cgroup.procs": "", "cgroup.type": "domain\n"}, ""},
		"a container":        {map[string]string{"cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": "cpu\n", "cgroup.procs": "1\n", "cgroup.type": "domain\n"}, "move them"},
		"bound to version 1": {map[string]string{"cgroup.controllers": "pids\n", "cgroup.subtree_control": "\n"}, "cgroup_no_v1=all"},
		"no hierarchy":       {nil, "cgroup.controllers"},
	} {
		err := Check(fake(t, filepath.Join(t.TempDir(), "v2"), c.files), all)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Check(fake(t, t.TempDir(), map[string]string{"cgroup.controllers": "", "cgroup.subtree_control": ""}), Limits{}); err != nil {
		t.Errorf("without limits: %v", err)
	}
}

func TestControllersAreHandedDownTheChainAndNoFurther(t *testing.T) {
	t.Parallel()
	root := fake(t, t.TempDir(), map[string]string{"cgroup.subtree_control": "."})
	fake(t, filepath.Join(root, "smartvm"), map[string]string{"cgroup.subtree_control": "."})
	fake(t, filepath.Join(root, "smartvm", "vm"), map[string]string{"cgroup.subtree_control": "."})
	if err := enable(root, "smartvm", Limits{CPUs: 1}); err != nil { // what is needed comes last
		t.Fatal(err)
	}
	wantFile(t, "+cpu", root, "cgroup.subtree_control")
	wantFile(t, "+cpu", root, "smartvm", "cgroup.subtree_control")
	wantFile(t, ".", root, "smartvm", "vm", "cgroup.subtree_control")
	// What only counts need not be there; what is to hold must.
	bare := fake(t, t.TempDir(), nil)
	if err := enable(bare, ".", Limits{}); err != nil {
		t.Errorf("without a limit: %v", err)
	}
	if err := enable(bare, ".", Limits{Memory: 1 << 20}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the controller: %v", err)
	}
}

func TestLimitsAreWrittenAsTheKernelReadsThem(t *testing.T) {
	t.Parallel()
	files := map[string]string{"cpu.max": "", "memory.max": "", "memory.oom.group": "", "pids.max": ""}
	dir := fake(t, t.TempDir(), files)
	if err := (Limits{CPUs: 1.5, Memory: 600 << 20, PIDs: 64}).write(dir); err != nil {
		t.Fatal(err)
	}
	wantFile(t, "150000 100000", dir, "cpu.max")
	wantFile(t, "629145600", dir, "memory.max")
	wantFile(t, "1", dir, "memory.oom.group")
	wantFile(t, "64", dir, "pids.max")
	only := fake(t, t.TempDir(), files)
	if err := (Limits{CPUs: MinCPUs}).write(only); err != nil {
		t.Fatal(err)
	}
	wantFile(t, "1000 100000", only, "cpu.max")
	wantFile(t, "", only, "memory.max")
	err := (Limits{PIDs: 1}).write(t.TempDir())
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "pids.max") {
		t.Errorf("a cgroup without the file: %v", err)
	}
}

func TestLimitsOnDisksAreALineForEachDisk(t *testing.T) {
	t.Parallel()
	limits := Limits{IO: IO{ReadBytes: 1 << 20, WriteOps: 7}, Devices: []string{"8:0"}}
	dir := fake(t, t.TempDir(), map[string]string{"io.max": ""})
	if err := limits.write(dir); err != nil {
		t.Fatal(err)
	}
	wantFile(t, "8:0 rbps=1048576 wiops=7", dir, "io.max")
	if err := BoundDisk(dir, "259:3", IO{WriteBytes: 5, ReadOps: 6}); err != nil {
		t.Fatal(err)
	}
	wantFile(t, "259:3 wbps=5 riops=6", dir, "io.max")
	if err := UnboundDisks(dir); err != nil {
		t.Fatal(err)
	}
	wantFile(t, "259:3 rbps=max wbps=max riops=max wiops=max", dir, "io.max")
	if err := UnboundDisks(t.TempDir()); err != nil {
		t.Errorf("without any: %v", err)
	}
	if err := limits.write(t.TempDir()); err == nil || !strings.Contains(err.Error(), "CONFIG_BLK_DEV_THROTTLING") {
		t.Errorf("a kernel without it: %v", err)
	}
	host := fake(t, t.TempDir(), map[string]string{"cgroup.controllers": "pids\n", "cgroup.subtree_control": ""})
	if err := Check(host, limits); err == nil || !strings.Contains(err.Error(), `no controller "io"`) {
		t.Errorf("a host without the controller: %v", err)
	}
	limits.Devices = nil
	if err := Check(host, limits); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("without a disk: %v", err)
	}
}

func TestTheDiskOfAPartitionIsTheWholeOne(t *testing.T) {
	t.Parallel()
	sys := t.TempDir()
	disk := fake(t, filepath.Join(sys, "devices", "sda"), map[string]string{"dev": "8:0\n"})
	fake(t, filepath.Join(disk, "sda2"), map[string]string{"dev": "8:2\n", "partition": "2\n"})
	if err := errors.Join(os.Symlink("devices/sda", filepath.Join(sys, "8:0")), os.Symlink("devices/sda/sda2", filepath.Join(sys, "8:2"))); err != nil {
		t.Fatal(err)
	}
	for _, minor := range []uint32{0, 2} {
		if got, err := diskOf(sys, "/data", 8, minor); got != "8:0" || err != nil {
			t.Errorf("of 8:%d: %q, %v", minor, got, err)
		}
	}
	var none *NoDiskError
	if _, err := diskOf(sys, "/data", 0, 40); !errors.As(err, &none) || !strings.Contains(err.Error(), "/data") {
		t.Errorf("of a filesystem without a disk: %v", err)
	}
	if _, err := DiskOf("/proc/self/status"); !errors.As(err, &none) {
		t.Errorf("of /proc: %v", err)
	}
	if _, err := DiskOf(filepath.Join(sys, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestEventsAreReadAndThoseOfAMissingControllerAreNone(t *testing.T) {
	t.Parallel()
	dir := fake(t, t.TempDir(), map[string]string{
		"memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n", "pids.events": "max 7\n",
	})
	if got := EventsOf(dir); got != (Events{OOMKills: 2, PIDs: 7}) {
		t.Errorf("got %+v", got)
	}
	if got := EventsOf(fake(t, t.TempDir(), map[string]string{"memory.events": "oom_kill"})); got != (Events{}) {
		t.Errorf("got %+v of nothing", got)
	}
}

func TestUsageIsReadAndWhatIsNotCountedIsZero(t *testing.T) {
	t.Parallel()
	dir := fake(t, t.TempDir(), map[string]string{
		"cpu.stat":       "usage_usec 2500000\nuser_usec 1\nsystem_usec 2\nnr_periods 10\nnr_throttled 4\nthrottled_usec 300\n",
		"memory.current": "1048576\n", "memory.peak": "2097152\n", "pids.current": "7\n",
		"io.stat": "254:0 rbytes=100 wbytes=30 rios=2 wios=1 dbytes=9 dios=1\n7:0 rbytes=5 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n8:0 \n",
	})
	want := Usage{
		CPUTime: 2500 * time.Millisecond, Periods: 10, Throttled: 4, ThrottledTime: 300 * time.Microsecond,
		Memory: 1 << 20, MemoryPeak: 2 << 20, PIDs: 7, DiskRead: 105, DiskWritten: 30,
	}
	if got, err := UsageOf(dir); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	bare := fake(t, t.TempDir(), map[string]string{"cpu.stat": "usage_usec 5\n"})
	if got, err := UsageOf(bare); err != nil || got != (Usage{CPUTime: 5 * time.Microsecond}) {
		t.Errorf("without controllers: %+v, %v", got, err)
	}
	if _, err := UsageOf(filepath.Join(dir, "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of none: %v", err)
	}
}

// hierarchy returns this host's, in which tests make cgroups without limits.
func hierarchy(t *testing.T) string {
	t.Helper()
	proof.Cgroups(t)
	dir, err := Mounted()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// busy makes a cgroup with a process in it, which is returned.
func busy(t *testing.T, path string) (dir, id string, inside *exec.Cmd) {
	t.Helper()
	root := hierarchy(t)
	id, err := Make(root, path, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(root, path)
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	inside = exec.Command("sleep", "1000")
	inside.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd()), Pdeathsig: syscall.SIGKILL}
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = inside.Process.Kill()
		_ = inside.Wait()
		if err := Remove(limit(t), dir, ""); err != nil {
			t.Error(err)
		}
		_ = os.Remove(filepath.Dir(dir))
	})
	return dir, id, inside
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestACgroupIsRemovedWithAllThatIsInIt(t *testing.T) {
	dir, id, inside := busy(t, "smartvm-test-remove/vm")
	if in, err := Has(dir, inside.Process.Pid); !in || err != nil {
		t.Errorf("the process is not in it: %v", err)
	}
	if in, err := Has(dir, os.Getpid()); in || err != nil {
		t.Errorf("we are in it: %v", err)
	}
	if err := Remove(limit(t), dir, id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if err := inside.Wait(); inside.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the process ended with %v", err)
	}
	if err := Remove(limit(t), dir, id); err != nil {
		t.Errorf("once more: %v", err)
	}
}

func TestACgroupOfSomebodyElseIsLeftAlone(t *testing.T) {
	dir, id, inside := busy(t, "smartvm-test-other/vm")
	for _, other := range []string{"", id + "0"} {
		if err := Remove(limit(t), dir, other); err != nil {
			t.Error(err)
		}
	}
	if in, err := Has(dir, inside.Process.Pid); !in || err != nil {
		t.Errorf("its process is gone: %v", err)
	}
	root := hierarchy(t)
	if _, err := Make(root, "smartvm-test-other/vm", Limits{}); !errors.Is(err, syscall.EBUSY) || !strings.Contains(err.Error(), "somebody else's") {
		t.Errorf("it was taken over: %v", err)
	}
}

func TestACgroupThatAKillLeftIsMadeAnewAndNotTakenForTheOldOne(t *testing.T) {
	root := hierarchy(t)
	const path = "smartvm-test-anew/vm"
	first, err := Make(root, path, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := Make(root, path, Limits{})
	if err != nil || second == first {
		t.Errorf("ids %q and %q, %v", first, second, err)
	}
	if err := Remove(limit(t), filepath.Join(root, path), ""); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(root, filepath.Dir(path))); err != nil {
		t.Error(err)
	}
}

func TestTheWaitForACgroupThatDoesNotBecomeEmptyEndsWithItsContext(t *testing.T) {
	dir, _, _ := busy(t, "smartvm-test-wait/vm")
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := awaitEmpty(ctx, events); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
