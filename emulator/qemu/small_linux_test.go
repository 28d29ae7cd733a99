package qemu

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"smartvm/emulator/machine"
)

func closeRights(t *testing.T, oob []byte) {
	t.Helper()
	messages, err := unix.ParseSocketControlMessage(oob)
	do(t, "parse", err)
	fds, err := unix.ParseUnixRights(&messages[0])
	do(t, "parse", err)
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func TestCommandNamesDevicesInOrderAndQuotesWhatIsTheClients(t *testing.T) {
	t.Parallel()
	spec := machine.Spec{
		VCPUs: 4, MemoryMiB: 256, SMT: true, Kernel: "a,b=c", Initrd: "-i", Args: "console=ttyS0 a=b,c", Entropy: true,
		Drives:     []machine.Drive{{ID: "_root", Path: `d,"1`, ReadOnly: true}, {ID: "2", Path: "d2", Writeback: true, Async: true}},
		Interfaces: []machine.Interface{{ID: "eth0", MTU: 1400}, {ID: "eth1"}},
		Vsock:      &machine.Vsock{}, Balloon: &machine.Balloon{DeflateOnOOM: true, FreePageRept: true},
	}
	c := command{spec: spec, tscKHz: 2500000, serials: []string{"s1", "s2"}, macs: []string{"02:00:00:00:00:01", "02:00:00:00:00:02"},
		nodes: []node{newNode("node1", spec.Drives[0], false, 4096), newNode("node2", spec.Drives[1], true, 1000)}}
	got := c.args()
	for _, want := range [][]string{
		{"-kernel", "a,b=c", "-append", "tsc_early_khz=2500000 console=ttyS0 a=b,c", "-initrd", "-i"},
		{"-smp", "cpus=4,sockets=1,cores=2,threads=2"},
		{"-accel", "tcg", "-cpu", "max"},
		{
			"-blockdev", `{"driver":"file","node-name":"node1","filename":"d,\"1","locking":"off","aio":"threads","read-only":true,"cache":{"no-flush":true}}`,
			"-device", `{"drive":"node1","driver":"virtio-blk-device","id":"drive-_root","rerror":"report","serial":"s1","werror":"report"}`,
			"-blockdev", `{"driver":"raw","node-name":"node2","read-only":false,"cache":{"no-flush":false},"size":512,"file":{"driver":"host_device","filename":"d2","locking":"off","aio":"io_uring","read-only":false,"cache":{"no-flush":false}}}`,
			"-device", `{"drive":"node2","driver":"virtio-blk-device","id":"drive-2","rerror":"report","serial":"s2","werror":"report"}`,
			"-netdev", "tap,id=net0,fd=7", "-device", `{"driver":"virtio-net-device","host_mtu":1400,"mac":"02:00:00:00:00:01","netdev":"net0"}`,
			"-netdev", "tap,id=net1,fd=8", "-device", `{"driver":"virtio-net-device","mac":"02:00:00:00:00:02","netdev":"net1"}`,
			"-device", `{"deflate-on-oom":true,"driver":"virtio-balloon-device","free-page-reporting":true,"id":"balloon"}`,
			"-chardev", "socket,id=agent,fd=6", "-device", "virtio-serial-device",
			"-device", "virtserialport,chardev=agent,name=smartvm.agent",
			"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng",
		},
	} {
		if at := slices.Index(got, want[0]); at < 0 || !contains(got, want) {
			t.Errorf("the command lacks %s", cmp.Diff(want, got))
		}
	}
}

func TestCommandForALoadBootsNothing(t *testing.T) {
	t.Parallel()
	c := command{spec: machine.Spec{VCPUs: 1, MemoryMiB: 64, Kernel: "vmlinux", Args: "console=ttyS0"}, load: true, kvm: true}
	got := strings.Join(c.args(), " ")
	for _, text := range []string{"-incoming defer", "-global migration.send-configuration=off", "-accel kvm -cpu host", "-smp cpus=1,"} {
		if !strings.Contains(got, text) {
			t.Errorf("the command lacks %q: %s", text, got)
		}
	}
	for _, text := range []string{"-kernel", "-append", "virtio", "tsc_early_khz"} {
		if strings.Contains(got, text) {
			t.Errorf("the command has %q: %s", text, got)
		}
	}
}

// contains tells whether want stands in list, in one piece.
func contains(list, want []string) bool {
	for i := 0; i+len(want) <= len(list); i++ {
		if slices.Equal(list[i:i+len(want)], want) {
			return true
		}
	}
	return false
}

func TestMemoryIsCopiedSparselyAndWhole(t *testing.T) {
	t.Parallel()
	const mib = 8
	memory, err := newMemory(mib)
	do(t, "newMemory", err)
	defer memory.Close()
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		text := make([]byte, random.IntN(3*pageSize))
		for i := range text {
			text[i] = byte(random.Uint32())
		}
		_, err := memory.WriteAt(text, random.Int64N(mib<<20-int64(len(text))))
		do(t, "write", err)
	}
	_, err = memory.WriteAt(make([]byte, 1<<20), 3<<20) // zeros that are no hole
	do(t, "write", err)
	path := filepath.Join(t.TempDir(), "memory")
	do(t, "write an older one", os.WriteFile(path, bytes.Repeat([]byte("old"), 4<<20), 0o600))
	do(t, "writeMemory", writeMemory(path, memory))
	again, err := newMemory(mib)
	do(t, "newMemory", err)
	defer again.Close()
	do(t, "readMemory", readMemory(again, path, mib))

	want := make([]byte, mib<<20)
	_, err = memory.ReadAt(want, 0)
	do(t, "read", err)
	got := make([]byte, mib<<20)
	_, err = again.ReadAt(got, 0)
	do(t, "read", err)
	if file := readFile(t, path); !bytes.Equal(file, want) || !bytes.Equal(got, want) {
		t.Error("the copy differs")
	}
	var stat unix.Stat_t
	do(t, "stat", unix.Stat(path, &stat))
	if stat.Blocks*512 > 1<<20 {
		t.Errorf("the file takes %d bytes for some 300 kB", stat.Blocks*512)
	}
	if err := readMemory(again, path, mib+1); err == nil || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("a memory of another size is taken: %v", err)
	}
}

func TestAMemoryFileThatCannotBeFilledIsRemoved(t *testing.T) {
	t.Parallel()
	memory, err := newMemory(1)
	do(t, "newMemory", err)
	memory.Close() // so that it cannot be read
	path := filepath.Join(t.TempDir(), "memory")
	if err := writeMemory(path, memory); err == nil {
		t.Error("a memory that is gone is written")
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the file stays: %v", err)
	}
}

func TestStatsLeaveOutWhatTheGuestDidNotReport(t *testing.T) {
	t.Parallel()
	got, err := parseStats([]byte(`{"last-update": 1, "stats": {"stat-free-memory": 5, "stat-swap-in": 18446744073709551615, "stat-swap-out": -1, "x": 1}}`))
	do(t, "parseStats", err)
	five := int64(5)
	if diff := cmp.Diff(machine.BalloonStats{FreeMemory: &five}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := parseStats([]byte(`{"stats": 1}`)); err == nil {
		t.Error("garbage is taken")
	}
}

func TestQEMUsLastWordsAreBoundedAndOneLine(t *testing.T) {
	t.Parallel()
	var output tail
	output.Write(bytes.Repeat([]byte("x"), 2*maxOutput))
	output.Write([]byte("\nqemu-system-x86_64: first\n\nqemu-system-x86_64: second\n"))
	got := output.String()
	if len(got) > maxOutput || !strings.HasSuffix(got, "x; first; second") {
		t.Errorf("%d bytes, ending in %q", len(got), got[len(got)-30:])
	}
}

func TestOnlyACPUThatVirtualizesIsTriedForKVM(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"processor\t: 0\nflags\t\t: fpu vmx sse\nflags: x\n": true,
		"processor\t: 0\nflags\t\t: fpu svm\n":               true,
		"processor\t: 0\nflags\t\t: fpu hypervisor\nx: svm":  false,
		"": false,
	} {
		if got := virtualizes(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
