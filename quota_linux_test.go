package smartvm

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAStartThatWouldExceedTheQuotaForDrivesIsRefusedBeforeItWrites(t *testing.T) {
	t.Parallel()
	options := vmms()[0].options(t)
	options.DriveQuota = 3 << 20
	m := newTestManager(t, options)
	config := smallConfig(t)
	config.Drives = []Drive{{DriveID: "big", PathOnHost: filled(t, "big.img", 2<<20)}}
	start(t, m, config)
	second := create(t, m, config)
	err := second.Start(t.Context())
	wantCode(t, err, DriveStageFailed)
	var quota *QuotaError
	if !errors.As(err, &quota) || !errors.Is(err, unix.EDQUOT) || !strings.Contains(err.Error(), "3MiB") {
		t.Errorf("%v does not name the quota", err)
	}
	wantState(t, second, Failed)
	entries, err := os.ReadDir(second.Folder())
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !lasts(entry.Name()) {
			t.Errorf("left behind: %s", entry.Name())
		}
	}
}

func TestASnapshotThatWouldExceedTheQuotaIsRefusedBeforeItIsWritten(t *testing.T) {
	t.Parallel()
	options := vmms()[0].options(t)
	options.SnapshotQuota = 100 << 20 // the VM has 128 MiB of memory
	m := newTestManager(t, options)
	vm := start(t, m, smallConfig(t))
	_, err := vm.TakeSnapshot(t.Context(), "one", SnapshotOptions{})
	wantCode(t, err, SnapshotFailed)
	if !errors.Is(err, unix.EDQUOT) {
		t.Errorf("%v does not name the quota", err)
	}
	wantState(t, vm, Running)
	if left, err := os.ReadDir(m.snapshotsDir()); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
