package smartvm

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"smartvm/firecracker"
	"smartvm/record"
)

// A bystander is a VM that runs in the same house while others are harmed. Nothing of it may change.
type bystander struct {
	house    house
	vm       *VM
	records  map[string]string // its files' contents
	files    []string          // all of the house, when nobody else is there
	mounts   []string          // as files
	monitor  record.Process
	vmm      record.Process
	snapshot bool
}

const bystanderID = "Bystander_1"

// settleIn has a bystander live in the house and, where that is wanted, leaves a snapshot of the name "base".
func settleIn(tb testing.TB, h house, snapshot bool) *bystander {
	tb.Helper()
	b := &bystander{house: h, snapshot: snapshot}
	h.Alone = false
	if snapshot {
		for _, d := range []deed{{Op: "create", VM: "source"}, {Op: "start", VM: "source"}} {
			h.do(tb, d)
		}
		h.mark(tb, "source")
		for _, d := range []deed{{Op: "snapshot", VM: "source", Name: "base"}, {Op: "force", VM: "source"}} {
			h.do(tb, d)
		}
	}
	h.do(tb, deed{Op: "create", VM: bystanderID, Name: "bystander"})
	h.do(tb, deed{Op: "start", VM: bystanderID})
	h.mark(tb, bystanderID)
	var err error
	if b.vm, err = h.manager(tb).VM(bystanderID); err != nil {
		tb.Fatal(err)
	}
	_, jour, err := readJournal(h.runtime(bystanderID))
	if err != nil {
		tb.Fatal(err)
	}
	b.monitor, b.vmm = jour.Monitor, jour.VMM
	b.records = b.read(tb)
	tb.Cleanup(func() {
		if err := (deed{Op: "force", VM: bystanderID}).perform(context.Background(), h.manager(tb), h); err != nil {
			tb.Errorf("the bystander could not be removed: %v", err)
		}
		for pid, line := range h.processes(tb) {
			if err := awaitProcess(pid); err != nil {
				tb.Errorf("%v: %s", err, line)
			}
		}
	})
	// What else there may be: folders that are made when they are needed first, and stay.
	for _, dir := range []string{"data/names", "data/snapshots"} {
		if err := secureDir(h.path(dir)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := record.Ensure(h.path("data/names/.lock")); err != nil {
		tb.Fatal(err)
	}
	for pid := range h.processes(tb) { // the source's supervisor may be on its way out
		if pid != b.monitor.PID && pid != b.vmm.PID {
			if err := awaitProcess(pid); err != nil {
				tb.Fatal(err)
			}
		}
	}
	b.files, b.mounts = h.files(tb), h.mounts(tb)
	return b
}

func (b *bystander) read(tb testing.TB) map[string]string {
	tb.Helper()
	texts := map[string]string{}
	for _, path := range []string{b.house.vmFolder(bystanderID), b.house.runtime(bystanderID)} {
		for _, name := range []string{recordName, journalName, b.house.work(bystanderID) + "/drives/data-disk"} {
			text, err := os.ReadFile(filepath.Join(path, name))
			if err == nil {
				texts[filepath.Join(path, name)] = string(text)
			}
		}
	}
	if len(texts) != 3 {
		tb.Fatalf("the bystander has no more than %v", slices.Sorted(maps.Keys(texts)))
	}
	return texts
}

// wantUntouched checks that the bystander runs as before.
func (b *bystander) wantUntouched(tb testing.TB) {
	tb.Helper()
	if !maps.Equal(b.read(tb), b.records) {
		tb.Error("the bystander's files were changed")
	}
	if !b.vmm.Alive() || !b.monitor.Alive() {
		tb.Error("the bystander's processes were ended")
	}
	if info, err := b.vm.Info(context.Background()); err != nil || info.State != firecracker.StateRunning {
		tb.Errorf("the bystander is %v, %v", info.State, err)
	}
}

// wantAlone checks that nothing is in the house but the bystander: no process, no file, no lock that is held, no mount.
// Processes of these numbers may be there, too.
func (b *bystander) wantAlone(tb testing.TB, but ...int) {
	tb.Helper()
	h := b.house
	for pid, line := range h.processes(tb) {
		if pid == b.vmm.PID || pid == b.monitor.PID || slices.Contains(but, pid) {
			continue
		}
		if err := awaitProcess(pid); err != nil {
			tb.Errorf("%v: %s", err, line)
		}
	}
	files := h.files(tb)
	for _, file := range files {
		if !slices.Contains(b.files, file) && filepath.Dir(h.path(file)) != h.vmFolder(bystanderID) { // its logs grow
			tb.Errorf("left behind: %s", file)
		}
	}
	for _, file := range b.files {
		if !slices.Contains(files, file) {
			tb.Errorf("taken away: %s", file)
		}
		if filepath.Base(file) != lockName && !strings.HasSuffix(file, "/.lock") {
			continue
		}
		if held, err := record.Held(h.path(file)); held || err != nil {
			tb.Errorf("the lock %s is held: %v", file, err)
		}
	}
	if mounts := h.mounts(tb); !slices.Equal(mounts, b.mounts) {
		tb.Errorf("mounted: %v, and before: %v", mounts, b.mounts)
	}
	b.wantUntouched(tb)
}
