package proof

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// Pairs runs ours and the bare one in turns, in changing order, and reports both medians in milliseconds and their ratio,
// which is what counts: machines differ. What the functions return undoes them, untimed.
func Pairs(b *testing.B, ours, bare func() (undo func())) {
	timed := func(run func() func()) time.Duration {
		began := time.Now()
		undo := run()
		took := time.Since(began)
		undo()
		return took
	}
	timed(ours)
	timed(bare)
	var mine, theirs []time.Duration
	for b.Loop() {
		if len(mine)%2 == 0 {
			mine = append(mine, timed(ours))
			theirs = append(theirs, timed(bare))
		} else {
			theirs = append(theirs, timed(bare))
			mine = append(mine, timed(ours))
		}
	}
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2].Nanoseconds()) / 1e6
	}
	b.ReportMetric(0, "ns/op") // of a whole round, which says nothing
	b.ReportMetric(median(mine), "ours-ms")
	b.ReportMetric(median(theirs), "bare-ms")
	b.ReportMetric(median(mine)/median(theirs), "ratio")
}

// BareVMM is a VMM as one would run it with the standard library alone: what benchmarks compare with.
type BareVMM struct {
	command *exec.Cmd
	client  http.Client
	socket  string
}

// bareRetry is how often a bare loop tries the socket. One that tries without a pause takes a CPU from the VMM that it waits
// for, and what it is compared with looks better than it is: on two CPUs a jailed start took it half as long again.
const bareRetry = 100 * time.Microsecond

// StartBareVMM runs the binary in dir and waits for its API socket, a path relative to dir.
func StartBareVMM(b *testing.B, dir, socket, binary string, args ...string) *BareVMM {
	b.Helper()
	return startBare(b, dir, socket, exec.Command(binary, append([]string{"--api-sock", socket}, args...)...))
}

// StartJailedVMM is StartBareVMM for a VMM in the jail whose root is dir: args are the jailer's, up to its `--`.
func StartJailedVMM(b *testing.B, dir, socket, jailer string, args ...string) *BareVMM {
	b.Helper()
	return startBare(b, dir, socket, exec.Command(jailer, append(args, "--api-sock", socket)...))
}

func startBare(b *testing.B, dir, socket string, command *exec.Cmd) *BareVMM {
	b.Helper()
	vmm := &BareVMM{socket: filepath.Join(dir, socket), command: command}
	vmm.command.Dir = dir
	// The same spawn: a session of its own is a scheduling group of its own (autogroup, sched(7)), which on a busy machine
	// makes more of a difference than all else here.
	vmm.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := vmm.command.Start(); err != nil {
		b.Fatal(err)
	}
	var conn net.Conn
	for err := error(os.ErrNotExist); err != nil; {
		if conn, err = net.Dial("unix", vmm.socket); err != nil {
			_ = syscall.Nanosleep(&syscall.Timespec{Nsec: bareRetry.Nanoseconds()}, nil) // see bareRetry
		}
	}
	vmm.client.Transport = &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}
	return vmm
}

// Put sends a request that must succeed.
func (v *BareVMM) Put(b *testing.B, path string, body any) {
	b.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		b.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPut, "http://localhost"+path, bytes.NewReader(text))
	if err != nil {
		b.Fatal(err)
	}
	response, err := v.client.Do(request)
	if err != nil {
		b.Fatal(err)
	}
	said, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		b.Fatalf("PUT %s: %d %s", path, response.StatusCode, said)
	}
}

// Kill ends the VMM and removes its socket.
func (v *BareVMM) Kill() {
	v.command.Process.Kill()
	v.command.Wait()
	v.client.CloseIdleConnections()
	os.Remove(v.socket)
}
