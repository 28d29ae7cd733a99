package smartvm

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"smartvm/internal/proof"
)

func TestTwoJailedVMsGoOnAtOnceFromASnapshotOfAVMThatIsGone(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	logs := t.TempDir()
	config.Drives = []Drive{{DriveID: "data", BlankMiB: 16}}
	config.Logger = &Logger{LogPath: filepath.Join(logs, "vmm.log")}
	config.Metrics = &Metrics{MetricsPath: filepath.Join(logs, "metrics")}
	vm, agent := boot(t, m, config)
	sh(t, agent, "echo kept >/run/kept && mount -t ext4 /dev/vda /mnt && echo on the drive >/mnt/kept && sync && date -s 2001-01-01")
	if _, err := vm.TakeSnapshot(t.Context(), "base", SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, agentOf(t, vm), "cat /run/kept"); got != "kept" {
		t.Errorf("after the snapshot the VM says %q", got)
	}
	if err := vm.Remove(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	dir, err := m.SnapshotDir("base")
	if err != nil {
		t.Fatal(err)
	}

	clones := []*VM{create(t, m, Config{ID: "clone-0"}), create(t, m, Config{ID: "clone-1"})}
	var both sync.WaitGroup
	for _, clone := range clones {
		both.Go(func() {
			if err := clone.Restore(t.Context(), dir, RestoreOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if t.Failed() {
		t.FailNow()
	}
	random, uids := map[string]bool{}, map[uint32]bool{}
	for i, clone := range clones {
		lines := strings.Split(sh(t, agentOf(t, clone), fmt.Sprintf(
			"cat /run/kept /mnt/kept; date +%%s; head -c 16 /dev/urandom | od -An -tx1; echo %d | tee /run/own >/mnt/own; sync", i)), "\n")
		if len(lines) != 4 || lines[0] != "kept" || lines[1] != "on the drive" {
			t.Fatalf("the restored guest says %q", lines)
		}
		seconds, err := strconv.ParseInt(lines[2], 10, 64)
		if off := time.Since(time.Unix(seconds, 0)); err != nil || off.Abs() > time.Minute {
			t.Errorf("the guest's clock is off by %v (%v)", off, err)
		}
		random[lines[3]] = true
		info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(clone.PID())))
		if err != nil {
			t.Fatal(err)
		}
		uids[info.Sys().(*syscall.Stat_t).Uid] = true
	}
	if len(random) != 2 {
		t.Error("two guests of one snapshot draw the same random numbers")
	}
	if len(uids) != 2 || uids[0] {
		t.Errorf("two VMs run as %v", uids)
	}
	for i, clone := range clones { // when both have written
		if got := sh(t, agentOf(t, clone), "cat /run/own /mnt/own"); got != fmt.Sprintf("%d\n%d", i, i) {
			t.Errorf("clone %d has in its memory and on its drive %q", i, got)
		}
	}
	wantCode(t, m.RemoveSnapshot(t.Context(), "base"), InvalidState)
	for _, clone := range clones {
		if err := clone.Remove(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.RemoveSnapshot(t.Context(), "base"); err != nil {
		t.Error(err)
	}
}
