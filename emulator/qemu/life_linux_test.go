package qemu

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"smartvm/emulator/machine"
	"smartvm/internal/proof"
)

// TestAGuestThroughItsWholeLife is one test of many checks, as each boot costs seconds of CPU.
func TestAGuestThroughItsWholeLife(t *testing.T) {
	proof.Host(t)
	c := newConsole()
	spec := guestSpec(t, c)
	spec.VCPUs, spec.Entropy = 2, true
	spec.Balloon = &machine.Balloon{AmountMiB: 16, StatsInterval: 1}
	spec.Drives = []machine.Drive{drive(t, "root", 1<<20, true), drive(t, "b", 2<<20, false), drive(t, "c", 3<<20+100, false)}
	spec.Interfaces = []machine.Interface{{ID: "eth0", TAP: newNamespace(t).tap(t, "tap0"), Device: "tap0", MAC: "06:00:ac:10:00:02", MTU: 1400}}
	m := start(t, spec)
	c.expect(t, "the shell is up")

	t.Run("devices come in order", func(t *testing.T) { checkDevices(t, c, spec) })
	t.Run("the network works", func(t *testing.T) {
		got := c.run(t, "ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0; ping -c 1 -w 30 10.9.0.1 >/dev/null && echo pong")
		if got != "pong" {
			t.Errorf("the ping says %q", got)
		}
	})
	other, rest := drive(t, "new", 5<<20, false), drive(t, "rest", 1<<20, true)
	t.Run("a drive gets another file", func(t *testing.T) { checkSetDrive(t, m, c, other, rest) })
	t.Run("the balloon moves and reports", func(t *testing.T) { checkBalloon(t, m, 32) })
	t.Run("a paused guest stands still", func(t *testing.T) {
		do(t, "Pause", m.Pause(t.Context()))
		before := readMemoryOf(t, m)
		fmt.Fprintln(c.input, "echo while paused")
		if after := readMemoryOf(t, m); !bytes.Equal(before, after) {
			t.Error("a paused guest's memory changes")
		}
		do(t, "Resume", m.Resume(t.Context()))
		c.expect(t, "while paused")
	})

	c.run(t, "echo kept > /kept; (while :; do sleep 1; done) & ") // something that runs
	do(t, "Pause", m.Pause(t.Context()))
	state, memory := save(t, m)
	again, memoryAgain := save(t, m)
	if !bytes.Equal(readFile(t, memory), readFile(t, memoryAgain)) || len(state) == 0 || len(again) == 0 {
		t.Error("two snapshots of a paused guest differ")
	}
	var disk unix.Stat_t
	do(t, "stat", unix.Stat(memory, &disk))
	t.Logf("state: %d bytes, memory: %d MiB on disk of %d", len(state), disk.Blocks*512>>20, disk.Size>>20)
	do(t, "Resume", m.Resume(t.Context()))
	if got := c.run(t, "cat /kept"); got != "kept" {
		t.Errorf("after a snapshot the guest says %q", got)
	}
	digest := readFile(t, memory)

	one, oneConsole := loadClone(t, m, newNamespace(t).tap(t, "tap0"), state, memory) // from the same files, while the first runs
	two, _ := loadClone(t, m, newNamespace(t).tap(t, "tap0"), state, memory)
	t.Run("a clone works, and can be cloned", func(t *testing.T) { checkReload(t, one, oneConsole) })
	t.Run("Ctrl-Alt-Del reaches a clone", func(t *testing.T) {
		do(t, "CtrlAltDel", two.CtrlAltDel(t.Context()))
		if end := ended(t, two); !end.Rebooted {
			t.Errorf("the end is %+v", end)
		}
	})
	if !bytes.Equal(digest, readFile(t, memory)) {
		t.Error("the snapshot's memory was changed by its clones")
	}
	fmt.Fprintln(c.input, "echo c > /proc/sysrq-trigger")
	if end := ended(t, m); !end.Rebooted {
		t.Errorf("after a panic the end is %+v", end)
	}
	c.expect(t, "Kernel panic")
}

func checkDevices(t *testing.T, c *console, spec machine.Spec) {
	got := c.run(t, "nproc; for d in vda vdb vdc; do cat /sys/block/$d/size /sys/block/$d/ro; head -c 1 /dev/$d; echo; done; "+
		"cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu /sys/class/misc/hw_random/rng_available")
	want := "2\n2048\n1\nr\n4096\n0\nb\n6144\n0\nc\n06:00:ac:10:00:02\n1400\nvirtio_rng.0"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	var stat unix.Stat_t
	do(t, "stat", unix.Stat(spec.Drives[1].Path, &stat))
	serial := fmt.Sprintf("%d%d%d", stat.Dev, stat.Rdev, stat.Ino)
	if got := c.run(t, "cat /sys/block/vdb/serial"); got != serial[:min(20, len(serial))] {
		t.Errorf("the serial number is %q, want that of device and inode, %q", got, serial)
	}
}

func checkSetDrive(t *testing.T, m machine.Machine, c *console, other, rest machine.Drive) {
	do(t, "SetDrive", m.SetDrive(t.Context(), "b", other.Path))
	// The guest learns of it by an interrupt.
	got := c.run(t, "until [ $(cat /sys/block/vdb/size) = 10240 ]; do :; done; head -c 3 /dev/vdb; echo; printf written | dd of=/dev/vdb conv=fsync 2>/dev/null")
	if got != "new" {
		t.Errorf("the drive begins with %q", got)
	}
	if got := readFile(t, other.Path)[:7]; string(got) != "written" {
		t.Errorf("the file begins with %q", got)
	}
	if err := m.SetDrive(t.Context(), "b", "/nowhere/at/all"); err == nil {
		t.Error("a drive takes a file that is not there")
	}
	if err := m.SetDrive(t.Context(), "x", other.Path); err == nil {
		t.Error("a drive that is not there takes a file")
	}
	do(t, "SetDrive of a read-only drive", m.SetDrive(t.Context(), "root", rest.Path))
	if got := c.run(t, "head -c 4 /dev/vda"); got != "rest" {
		t.Errorf("the read-only drive begins with %q", got)
	}
}

// checkBalloon sets the balloon and waits until it has that size and the guest has reported. QEMU tells neither.
func checkBalloon(t *testing.T, m machine.Machine, mib int) {
	do(t, "SetBalloon", m.SetBalloon(t.Context(), mib))
	do(t, "SetBalloonInterval", m.SetBalloonInterval(t.Context(), 1))
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(guestTimeout)
	for {
		stats, err := m.BalloonStats(t.Context())
		do(t, "BalloonStats", err)
		if stats.ActualMiB == mib && stats.TotalMemory != nil && *stats.TotalMemory > 0 && stats.FreeMemory != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("the balloon is at %+v", stats)
		}
	}
}

// loadClone loads a snapshot of m into a machine of its own, with copies of the drives.
func loadClone(t *testing.T, m machine.Machine, tap *os.File, state []byte, memory string) (machine.Machine, *console) {
	t.Helper()
	spec := m.(*qemuMachine).vm.spec
	c := newConsole()
	spec.Kernel, spec.Initrd, spec.Args = "", "", "" // as in Firecracker, nobody knows them any more
	spec.SerialIn, spec.SerialOut = c.stdin(t), c
	spec.Drives = append([]machine.Drive(nil), spec.Drives...)
	for i := range spec.Drives {
		copied := filepath.Join(t.TempDir(), "copy")
		do(t, "copy", os.WriteFile(copied, readFile(t, spec.Drives[i].Path), 0o600))
		spec.Drives[i].Path = copied
	}
	spec.Interfaces = []machine.Interface{spec.Interfaces[0]}
	spec.Interfaces[0].TAP = tap
	clone := New(Options{Warn: t.Logf})
	t.Cleanup(func() { clone.Close() })
	began := time.Now()
	do(t, "Load", clone.Load(t.Context(), spec, bytes.NewReader(state), memory))
	t.Logf("loaded in %v", time.Since(began))
	if !bytes.Equal(readFile(t, memory), readMemoryOf(t, clone)) {
		t.Error("a loaded guest runs, or has another memory")
	}
	do(t, "Resume", clone.Resume(t.Context()))
	return clone, c
}

// checkReload uses the devices of a loaded machine, and takes and loads another snapshot of it.
func checkReload(t *testing.T, m machine.Machine, c *console) {
	if got := c.run(t, "cat /kept; head -c 7 /dev/vdb; echo; printf clone | dd of=/dev/vdc conv=fsync 2>/dev/null; ping -c 1 -w 30 10.9.0.1 >/dev/null && echo pong"); got != "kept\nwritten\npong" {
		t.Errorf("the clone says %q", got)
	}
	checkBalloon(t, m, 8)
	do(t, "Pause", m.Pause(t.Context()))
	state, memory := save(t, m)
	do(t, "Close", m.Close())
	third, c3 := loadClone(t, m, newNamespace(t).tap(t, "tap0"), state, memory)
	if got := c3.run(t, "cat /kept; head -c 5 /dev/vdc"); got != "kept\nclone" {
		t.Errorf("the clone's clone says %q", got)
	}
	do(t, "Close", third.Close())
}

func save(t *testing.T, m machine.Machine) (state []byte, memory string) {
	t.Helper()
	var b bytes.Buffer
	memory = filepath.Join(t.TempDir(), "memory")
	began := time.Now()
	do(t, "Save", m.Save(t.Context(), &b, memory))
	t.Logf("saved in %v", time.Since(began))
	return b.Bytes(), memory
}

func readMemoryOf(t *testing.T, m machine.Machine) []byte {
	t.Helper()
	v := m.(*qemuMachine).vm
	text, err := io.ReadAll(io.NewSectionReader(v.memory, 0, int64(v.spec.MemoryMiB)<<20))
	do(t, "read the guest's memory", err)
	return text
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	do(t, "read", err)
	return text
}
