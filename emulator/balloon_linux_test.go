package emulator_test

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"smartvm/emulator"
	"smartvm/emulator/machine"
	"smartvm/emulator/null"
	"smartvm/internal/proof"
)

// balloonMachine is a null machine with a balloon driver, which reports what it is given.
type balloonMachine struct {
	machine.Machine
	stats atomic.Pointer[machine.BalloonStats]
	ended chan struct{}
}

func (m *balloonMachine) SetBalloon(context.Context, int) error { return nil }
func (m *balloonMachine) BalloonStats(context.Context) (machine.BalloonStats, error) {
	return *m.stats.Load(), nil
}
func (m *balloonMachine) CtrlAltDel(context.Context) error { close(m.ended); return nil }
func (m *balloonMachine) Ended() <-chan struct{}           { return m.ended }
func (m *balloonMachine) End() machine.End                 { return machine.End{Rebooted: true} }

func newBalloonMachine(stats machine.BalloonStats) *balloonMachine {
	m := &balloonMachine{Machine: null.New(), ended: make(chan struct{})}
	m.stats.Store(&stats)
	return m
}

// runHere runs the emulator in this process, on a machine, until it is told to end.
func runHere(t *testing.T, dir, name string, m *balloonMachine) *vmm {
	t.Helper()
	v := &vmm{socket: filepath.Join(dir, name)}
	listening, over := make(chan struct{}), make(chan struct{})
	out := &lineWriter{text: "Listening on API socket", seen: listening}
	go func() {
		defer close(over)
		emulator.Run(emulator.Process{
			Args: []string{"--machine", "null", "--api-sock", v.socket}, Stdout: out, Stderr: io.Discard,
			Machines: map[string]emulator.NewMachine{"null": func(machine.Warner) machine.Machine { return m }},
		})
	}()
	select {
	case <-listening:
	case <-over:
		t.Fatalf("the emulator ended: %s", out.all.String())
	}
	t.Cleanup(func() {
		_, _ = v.call("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`, 1)
		select {
		case <-over:
		case <-time.After(stepTimeout):
			t.Error("the emulator does not end")
		}
	})
	return v
}

// lineWriter closes a channel when a text was written.
type lineWriter struct {
	text string
	seen chan struct{}

	mu   sync.Mutex
	once sync.Once
	all  bytes.Buffer
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.Write(p)
	if strings.Contains(w.all.String(), w.text) {
		w.once.Do(func() { close(w.seen) })
	}
	return len(p), nil
}

// As a real Firecracker, whose snapshot has the device's whole state in it.
func TestALoadedBalloonRemembersWhatItsGuestReportedAndTheLastHint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	proof.WriteKernel(t, filepath.Join(dir, "kernel"))
	free, later := int64(4711), int64(42)
	do := func(v *vmm, method, path, body string, status int) string {
		t.Helper()
		a, err := v.call(method, path, strings.ReplaceAll(body, "{dir}", dir), 1)
		if err != nil || a.Status != status {
			t.Fatalf("%s %s: %+v, %v", method, path, a, err)
		}
		return a.Body
	}
	first := runHere(t, dir, "first", newBalloonMachine(machine.BalloonStats{FreeMemory: &free}))
	do(first, "PUT", "/boot-source", `{"kernel_image_path":"{dir}/kernel"}`, 204)
	do(first, "PUT", "/balloon", `{"amount_mib":0,"deflate_on_oom":false,"stats_polling_interval_s":1,"free_page_hinting":true}`, 204)
	do(first, "PUT", "/actions", `{"action_type":"InstanceStart"}`, 204)
	do(first, "PATCH", "/balloon/hinting/start", "", 204)
	do(first, "PATCH", "/vm", `{"state":"Paused"}`, 204)
	do(first, "PUT", "/snapshot/create", `{"snapshot_path":"{dir}/state","mem_file_path":"{dir}/memory"}`, 204)

	silent := newBalloonMachine(machine.BalloonStats{ActualMiB: 3})
	second := runHere(t, dir, "second", silent)
	do(second, "PUT", "/snapshot/load", `{"snapshot_path":"{dir}/state","mem_backend":{"backend_path":"{dir}/memory","backend_type":"File"}}`, 204)
	if got := do(second, "GET", "/balloon/statistics", "", 200); !strings.Contains(got, `"free_memory":4711`) || !strings.Contains(got, `"actual_mib":3`) {
		t.Errorf("before its guest has reported the balloon says %s", got)
	}
	if got := do(second, "GET", "/balloon/hinting/status", "", 200); !strings.Contains(got, `"host_cmd":2`) {
		t.Errorf("the last hint is %s", got)
	}
	silent.stats.Store(&machine.BalloonStats{FreeMemory: &later})
	if got := do(second, "GET", "/balloon/statistics", "", 200); !strings.Contains(got, `"free_memory":42`) {
		t.Errorf("when its guest has reported the balloon says %s", got)
	}
}
