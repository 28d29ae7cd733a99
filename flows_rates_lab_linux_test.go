package smartvm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"smartvm/guest"
	"smartvm/internal/proof"
)

// timed runs a line in the guest and returns how long it took by the guest's clock since boot.
func timed(t *testing.T, agent *guest.Agent, line string) time.Duration {
	t.Helper()
	const now = "cut -d' ' -f1 /proc/uptime"
	out := sh(t, agent, fmt.Sprintf("a=$(%s); { %s; } >/dev/null 2>&1 || exit 1; b=$(%s); echo $a $b", now, line, now))
	var from, to float64
	if _, err := fmt.Sscan(out, &from, &to); err != nil {
		t.Fatalf("%s: %q: %v", line, out, err)
	}
	return time.Duration((to - from) * float64(time.Second))
}

// slack is what two clocks may be apart in a measurement: the guest's, and the VMM's that fills the buckets.
const slack = 0.9

// atLeast is the shortest time in which a limiter lets so many bytes through. It cannot be faster, and the machine may be
// as slow as it likes. A bucket is full at first, and what the guest reads by itself only empties it.
func atLeast(bytes int64, b TokenBucket) time.Duration {
	over := float64(bytes - b.Size - b.OneTimeBurst)
	return time.Duration(slack * over / float64(b.Size) * float64(b.RefillTime) * float64(time.Millisecond))
}

// slowed is a bucket that makes so many bytes take at least four times as long as they took without: a
// limiter that does nothing is found out, if the machine is not as much slower the second time.
func slowed(bytes int64, unlimited time.Duration) TokenBucket {
	b := TokenBucket{Size: 128 << 10}
	b.RefillTime = max(1, (4*unlimited).Milliseconds()*b.Size/(bytes-b.Size))
	return b
}

// throttled is how often a drive's limiter has held something back since the last time.
func throttled(t *testing.T, vm *VM, metrics, drive string) int {
	t.Helper()
	if err := vm.FlushMetrics(t.Context()); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var last string
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		last = lines.Text()
	}
	var devices map[string]json.RawMessage
	var counts struct {
		Throttled *int `json:"rate_limiter_throttled_events"`
	}
	if err := json.Unmarshal([]byte(last), &devices); err != nil {
		t.Fatalf("metrics: %v: %.200s", err, last)
	}
	if err := json.Unmarshal(devices["block_"+drive], &counts); err != nil || counts.Throttled == nil {
		t.Fatalf("metrics of the drive %s: %v: %.300s", drive, err, devices["block_"+drive])
	}
	return *counts.Throttled
}

func TestAJailedGuestsDriveIsNoFasterThanItsLimit(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	first := TokenBucket{Size: 1 << 20, RefillTime: 250, OneTimeBurst: 4 << 20}
	metrics := filepath.Join(t.TempDir(), "metrics")
	config.Metrics = &Metrics{MetricsPath: metrics}
	config.Drives = []Drive{{DriveID: "limited", BlankMiB: 32, RateLimiter: &RateLimiter{Bandwidth: &first}}, {DriveID: "free", BlankMiB: 32}}
	vm, agent := boot(t, m, config)
	const much = 12 << 20
	dd := func(drive string, read bool, blocks int) string {
		if read {
			return fmt.Sprintf("dd if=/dev/%s of=/dev/null bs=64k count=%d iflag=direct", drive, blocks)
		}
		return fmt.Sprintf("dd if=/dev/zero of=/dev/%s bs=64k count=%d oflag=direct", drive, blocks)
	}
	const blocks = much / (64 << 10)

	// What the kernel has read of the drive by itself, looking for partitions, is far below a MiB.
	timed(t, agent, dd("vda", true, 3<<20/(64<<10)))
	if n := throttled(t, vm, metrics, "limited"); n != 0 {
		t.Errorf("within its burst the drive was held back %d times", n)
	}
	const rest = much - 3<<20
	took := timed(t, agent, dd("vda", true, rest/(64<<10)))
	least := atLeast(much, first)
	t.Logf("%d MiB behind the first 3 took %v, and %v is the least", rest>>20, took, least)
	if took < least { // the burst is spent first, so the first 3 MiB left the bucket full
		t.Errorf("a limit of 4 MiB a second and a burst of as much let %d MiB through in %v", rest>>20, took)
	}
	if n := throttled(t, vm, metrics, "limited"); n == 0 {
		t.Error("the drive was never held back")
	}

	limit := func(drive string, b TokenBucket) {
		t.Helper()
		if err := vm.LimitDrive(t.Context(), drive, RateLimiter{Bandwidth: &b}); err != nil {
			t.Fatal(err)
		}
	}
	for _, read := range []bool{true, false} {
		free := timed(t, agent, dd("vdb", read, blocks))
		bucket := slowed(much, free)
		limit("limited", bucket)
		took, least := timed(t, agent, dd("vda", read, blocks)), atLeast(much, bucket)
		t.Logf("read %t: %d MiB took %v without a limit and %v with one; %v is the least", read, much>>20, free, took, least)
		if took < least {
			t.Errorf("read %t: %v is less than %v", read, took, least)
		}
	}
	limit("limited", TokenBucket{})
	throttled(t, vm, metrics, "limited")
	took = timed(t, agent, dd("vda", true, blocks))
	t.Logf("%d MiB took %v when the limit was lifted", much>>20, took)
	if n := throttled(t, vm, metrics, "limited"); n != 0 {
		t.Errorf("without a limit the drive was held back %d times", n)
	}
}

func TestAJailedGuestsInterfaceIsNoFasterThanItsLimit(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	config.NetworkInterfaces = []NetworkInterface{{IfaceID: "net", HostDevName: tap(t, "rate0", "172.31.0.1/24"), GuestMAC: "06:00:00:00:00:01"}}
	vm, agent := boot(t, m, config)
	sh(t, agent, "ip link set eth0 up && ip addr add 172.31.0.2/24 dev eth0")
	const much = 1 << 20
	listener, err := net.Listen("tcp", "172.31.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	port := listener.Addr().(*net.TCPAddr).Port
	go func() { // what comes first from the guest says which way the bytes go
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				which := make([]byte, 1)
				if _, err := io.ReadFull(conn, which); err != nil {
					return
				}
				if which[0] == 's' {
					_, _ = io.CopyN(io.Discard, conn, much)
					return
				}
				_, _ = io.CopyN(conn, zeros{}, much)
			}()
		}
	}()
	send := fmt.Sprintf("{ printf s; head -c %d /dev/zero; } | nc 172.31.0.1 %d", much, port)
	receive := fmt.Sprintf("test $(printf r | nc 172.31.0.1 %d | wc -c) = %d", port, much)
	for _, way := range []struct {
		name, line string
		limit      func(b TokenBucket) error
	}{
		{"send", send, func(b TokenBucket) error {
			return vm.UpdateInterface(t.Context(), "net", nil, &RateLimiter{Bandwidth: &b})
		}},
		{"receive", receive, func(b TokenBucket) error {
			return vm.UpdateInterface(t.Context(), "net", &RateLimiter{Bandwidth: &b}, nil)
		}},
	} {
		free := timed(t, agent, way.line)
		bucket := slowed(much, free)
		if err := way.limit(bucket); err != nil {
			t.Fatal(err)
		}
		took, least := timed(t, agent, way.line), atLeast(much, bucket)
		t.Logf("%s: %d MiB took %v without a limit and %v with one; %v is the least", way.name, much>>20, free, took, least)
		if took < least {
			t.Errorf("%s: %v is less than %v", way.name, took, least)
		}
		if err := way.limit(TokenBucket{}); err != nil {
			t.Fatal(err)
		}
	}
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
