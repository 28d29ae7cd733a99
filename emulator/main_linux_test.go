package emulator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"smartvm/emulator"
	"smartvm/emulator/machine"
	"smartvm/emulator/null"
	"smartvm/internal/proof"
)

// endingMachine is a machine whose guest ends as soon as it was started.
type endingMachine struct {
	machine.Machine
	end   machine.End
	ended chan struct{}
}

func (m *endingMachine) Start(context.Context, machine.Spec) error {
	close(m.ended)
	return nil
}

func (m *endingMachine) Ended() <-chan struct{} { return m.ended }
func (m *endingMachine) End() machine.End       { return m.end }

func TestTheExitCodeTellsHowTheGuestEnded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kernel, config := filepath.Join(dir, "kernel"), filepath.Join(dir, "config.json")
	content, err := json.Marshal(map[string]any{"drives": []any{}, "boot-source": map[string]any{"kernel_image_path": kernel}})
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{kernel: kernelELF(), config: content} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		end  machine.End
		code int
		log  string
	}{
		"reboot":    {machine.End{Rebooted: true}, 0, "exit_code=0"},
		"QEMU died": {machine.End{Err: errors.New("QEMU was killed by signal 9")}, 1, "QEMU was killed by signal 9"},
	} {
		for _, api := range [][]string{{"--no-api"}, {"--api-sock", filepath.Join(dir, strings.Fields(name)[0])}} {
			var out bytes.Buffer
			code := emulator.Run(emulator.Process{
				Args: append([]string{"--machine", "null", "--config-file", config}, api...), Stdout: &out, Stderr: &out,
				Machines: map[string]emulator.NewMachine{"null": func(machine.Warner) machine.Machine {
					return &endingMachine{null.New(), tc.end, make(chan struct{})}
				}},
			})
			if code != tc.code || !strings.Contains(out.String(), tc.log) {
				t.Errorf("%s with %s: exit code %d, want %d\n%s", name, api[0], code, tc.code, &out)
			}
		}
	}
}

func TestTheEleventhConnectionIsTurnedAway(t *testing.T) {
	proof.Host(t)
	t.Parallel()
	dir := newFolder(t)
	v := newLab(t).start(t, dir, emulatorBinary(t), "--machine", "null")
	for range 10 {
		defer v.dial(t).Close()
	}
	got, err := v.call("GET", "/version", "", 1)
	if err != nil || got.Status != 503 || got.Body != `{ "error": "Too many open connections" }` {
		t.Errorf("got %+v, %v", got, err)
	}
}

// BenchmarkStart measures the whole start path against the null machine: process, first answer, configuration, start.
func BenchmarkStart(b *testing.B) {
	proof.Host(b)
	binary, dir, l := emulatorBinary(b), newFolder(b), newLab(b)
	for b.Loop() {
		v := l.start(b, dir, binary, "--machine", "null")
		for _, c := range [][2]string{
			{"/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`},
			{"/boot-source", `{"kernel_image_path":"kernel"}`},
			{"/drives/rootfs", `{"drive_id":"rootfs","path_on_host":"disk.img","is_root_device":true}`},
			{"/actions", `{"action_type":"InstanceStart"}`},
		} {
			if a, err := v.call("PUT", c[0], c[1], 1); err != nil || a.Status != 204 {
				b.Fatalf("%s: %+v, %v", c[0], a, err)
			}
		}
		v.kill()
		_ = os.Remove(v.socket)
	}
}
