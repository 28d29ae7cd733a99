package smartvm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"smartvm/guest"
	"smartvm/internal/cgroup"
	"smartvm/internal/proof"
)

// ioStat is a counter of what a cgroup did on a disk.
func ioStat(t *testing.T, dir, disk, key string) int {
	t.Helper()
	for line := range strings.Lines(controlFile(t, dir, "io.stat")) {
		fields := strings.Fields(line)
		for _, field := range fields {
			if value, found := strings.CutPrefix(field, key+"="); found && fields[0] == disk {
				n, err := strconv.Atoi(value)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
	}
	return 0
}

func diskOf(t *testing.T, path string) string {
	t.Helper()
	disk, err := cgroup.DiskOf(path)
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

// loopDevice makes a disk of its own.
func loopDevice(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("losetup", "-f").CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	if out, err := exec.Command("losetup", device, diskImage(t, "disk.img", 1<<20)).CombinedOutput(); err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return device
}

// memoryStat is a line of a cgroup's memory.stat.
func memoryStat(t *testing.T, dir, key string) int {
	t.Helper()
	for line := range strings.Lines(controlFile(t, dir, "memory.stat")) {
		if value, found := strings.CutPrefix(line, key+" "); found {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s", key)
	return 0
}

// waitsInTheKernel tells whether a thread of the process cannot be interrupted: state D of proc_pid_stat(5).
func waitsInTheKernel(t *testing.T, pid int) bool {
	t.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(names) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, name := range names {
		text, _ := os.ReadFile(name)
		if _, rest, found := strings.Cut(string(text), ") "); found && strings.HasPrefix(rest, "D") {
			return true
		}
	}
	return false
}

// The limits on the VMM's process are the least that is allowed: a guest that writes its drive from end to end lives with them.
func TestAJailedVMIsHeldToItsLimitsOnTheDiskAndCanBeKilledMeanwhile(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	const bps, size = 256 << 10, 2 << 20
	config.Drives = []Drive{{DriveID: "data", BlankMiB: 16, CacheType: "Writeback"}}
	first, second := loopDevice(t), loopDevice(t)
	config.Drives = append(config.Drives, Drive{DriveID: "disk", PathOnHost: first, IsReadOnly: true})
	config.Limits = &Limits{MemoryMiB: 600, WriteBps: bps, ReadIOPS: 1000, OpenFiles: 64 + 3 + 2*8, FileSizeMiB: 16}
	vm, agent := boot(t, m, config)
	dir := cgroupDir(t, vm)
	disk := diskOf(t, m.options.DataDir)
	wantBounded := func(disks ...string) {
		t.Helper()
		var want []string
		for _, disk := range disks {
			want = append(want, fmt.Sprintf("%s rbps=max wbps=%d riops=1000 wiops=max", disk, bps))
		}
		got := strings.Split(controlFile(t, dir, "io.max"), "\n")
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("io.max is %q, want %q", got, want)
		}
	}
	wantBounded(disk, diskOf(t, first))
	if err := vm.UpdateDrive(t.Context(), "disk", second); err != nil {
		t.Fatal(err)
	}
	wantBounded(disk, diskOf(t, first), diskOf(t, second))
	if in, err := cgroup.Has(dir, vm.PID()); !in || err != nil {
		t.Errorf("the VMM is not in it: %v", err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// The jailer has copied the VMM's binary from within the cgroup, and that counts, too.
	binary, err := os.Open(vm.options.folderOf(vm.key).of(vm.look().rec).seen("firecracker"))
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	if err := binary.Sync(); err != nil {
		t.Fatal(err)
	}
	// We have made the drive, so the kernel takes its writeback for ours until it has seen some rounds of somebody else's.
	for rounds, own := 1, 0; own < 2; rounds++ {
		const some = 128 << 10
		before := ioStat(t, dir, disk, "wbytes")
		sh(t, agent, fmt.Sprintf("dd if=/dev/zero of=/dev/vda bs=%d seek=32 count=1 conv=fsync", some))
		if ioStat(t, dir, disk, "wbytes")-before >= some {
			t.Logf("the VM's writes are known as its own in round %d", rounds)
			own++
		} else {
			own = 0
		}
		if ctx.Err() != nil {
			t.Fatalf("after %d rounds the VM's writes do not count as its own: %s", rounds, controlFile(t, dir, "io.stat"))
		}
	}
	before, began := ioStat(t, dir, disk, "wbytes"), time.Now()
	sh(t, agent, fmt.Sprintf("dd if=/dev/zero of=/dev/vda bs=64k seek=%d count=%d conv=fsync", (16<<20-size)>>16, size>>16))
	took, wrote := time.Since(began), ioStat(t, dir, disk, "wbytes")-before
	if wrote < size {
		t.Errorf("%d bytes were counted, of %d", wrote, size)
	}
	// A slow host makes it last longer, never shorter.
	if least := (size/bps - 1) * time.Second; took < least {
		t.Errorf("%d bytes took %v, less than %v", size, took, least)
	}
	t.Logf("%d bytes in %v: %.0f a second of %d", wrote, took, float64(wrote)/took.Seconds(), bps)

	// What is written back now would take 32 s.
	if _, err := agent.Start(t.Context(), guest.Command{Args: []string{"dd", "if=/dev/zero", "of=/dev/vda", "bs=64k", "count=128", "conv=fsync"}}); err != nil {
		t.Fatal(err)
	}
	look := time.NewTicker(50 * time.Millisecond) // no event tells of a thread's state
	defer look.Stop()
	for memoryStat(t, dir, "file_writeback") < 4<<20 || !waitsInTheKernel(t, vm.PID()) {
		select {
		case <-ctx.Done():
			t.Fatalf("nothing waits: %s", controlFile(t, dir, "memory.stat"))
		case <-look.C:
		}
	}
	if err := vm.Kill(t.Context()); err != nil {
		t.Errorf("a VM that waits for its disk is not to be killed: %v", err)
	}
	wantNoCgroup(t, dir)
}
