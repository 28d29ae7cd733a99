package smartvm

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The files in testdata/records were written by earlier versions, and are kept for ever; /HOUSE stands for the house.

// oldVM puts a VM into the house that an earlier version has left.
func (h house) oldVM(t *testing.T, name string) (id string) {
	t.Helper()
	id = "old-" + name
	for file, dir := range map[string]string{recordName: h.vmFolder(id), exitName: h.vmFolder(id), journalName: h.runtime(id)} {
		text, err := os.ReadFile(filepath.Join("testdata", "records", "v1-"+name+"."+file))
		if err != nil {
			continue // there was none
		}
		h.write(t, filepath.Join(dir, file), string(bytes.ReplaceAll(text, []byte("/HOUSE"), []byte(h.Dir))))
	}
	h.write(t, filepath.Join(h.vmFolder(id), lockName), "")
	return id
}

func (h house) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVMsOfEarlierVersionsAreUnderstood(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	// Their host was rebooted long ago: what ran is lost.
	for name, want := range map[string]Phase{
		"created": PhaseCreated, "running": PhaseLost, "paused": PhaseLost, "stopped": PhaseExited, "restored": PhaseLost,
	} {
		id := h.oldVM(t, name)
		if phase := h.list(t)[id]; phase != want {
			t.Errorf("the VM that was %s is %q, and must be %q", name, phase, want)
		}
		vm, err := h.manager(t).VM(id)
		if err != nil {
			t.Fatal(err)
		}
		config := vm.look().rec.Config
		if config.MachineConfig.MemSizeMiB == 0 && name == "restored" || len(config.Drives) != 1 || config.Vsock == nil {
			t.Errorf("of the configuration of the VM that was %s there is %+v", name, config)
		}
		h.do(t, deed{Op: "gc"})
		if name == "created" {
			h.do(t, deed{Op: "start", VM: id})
		}
		h.do(t, deed{Op: "force", VM: id})
		if _, there := h.list(t)[id]; there {
			t.Errorf("the VM that was %s is not removed", name)
		}
	}
	h.await(t)
	h.wantEmpty(t)
}

func TestARecordThatCannotBeUsedIsReportedAndLeftAlone(t *testing.T) {
	t.Parallel()
	good, err := os.ReadFile(filepath.Join("testdata", "records", "v1-stopped.record.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, of := range map[string]struct {
		text string
		want Phase
	}{
		"empty":   {"", PhaseDamaged},
		"torn":    {string(good[:len(good)/2]), PhaseDamaged},
		"foreign": {"dear diary", PhaseDamaged},
		"other":   {string(good), PhaseDamaged}, // of another VM
		"newer":   {`{"schemaVersion": 2, "writer": "smartvm of tomorrow", "data": {}}`, PhaseForeign},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			b := settleIn(t, h, false)
			h.write(t, filepath.Join(h.vmFolder(name), recordName), of.text)
			h.write(t, filepath.Join(h.vmFolder(name), lockName), "")
			h.write(t, filepath.Join(h.vmFolder(name), workDir, "drives", "data-disk"), "dear")
			if err := os.Symlink(name, h.path("data/names/label")); err != nil {
				t.Fatal(err)
			}
			touched := func() string {
				return strings.Join(slices.DeleteFunc(h.files(t), func(file string) bool { return strings.Contains(file, keyOf(bystanderID)) }), "\n")
			}
			before := touched()
			if phase := h.list(t)[name]; phase != of.want {
				t.Errorf("the VM is %q, and must be %q", phase, of.want)
			}
			for _, options := range []SweepOptions{{}, {Ended: true}} {
				actions, err := h.manager(t).Sweep(t.Context(), options)
				if err != nil || len(actions) != 1 || !actions[0].Kept || actions[0].VM != name {
					t.Errorf("gc: %+v, %v", actions, err)
				}
			}
			for _, op := range []string{"start", "stop", "pause", "remove", "settle"} {
				err := (deed{Op: op, VM: name}).perform(t.Context(), h.manager(t), h)
				if err == nil || CodeOf(err) == "" {
					t.Errorf("%s: %v", op, err)
				}
			}
			if after := touched(); after != before {
				t.Errorf("it was touched: there is\n%s\nand there was\n%s", after, before)
			}
			h.do(t, deed{Op: "force", VM: name})
			b.wantAlone(t)
		})
	}
}
