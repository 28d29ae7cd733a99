package smartvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/firecracker"
	"smartvm/internal/proof"
)

// limitOf is a line of /proc/PID/limits: the soft limit and the hard one.
func limitOf(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range lines(text) {
		if rest, found := strings.CutPrefix(line, name); found {
			return strings.Join(strings.Fields(rest)[:2], " ")
		}
	}
	t.Fatalf("no %q in %s", name, text)
	return ""
}

func TestAJailedVMMHasTheLimitsOfItsProcessAndAlsoWhenItStartsAgain(t *testing.T) {
	t.Parallel()
	m := jailedManager(t)
	config := smallConfig(t)
	free := start(t, m, config)
	config.Limits = &Limits{OpenFiles: 99, FileSizeMiB: 3}
	config.Drives = []Drive{{DriveID: "fits", PathOnHost: diskImage(t, "fits.img", 3<<20)}}
	vm := start(t, m, config)
	for range 2 {
		if files, size := limitOf(t, vm.PID(), "Max open files"), limitOf(t, vm.PID(), "Max file size"); files != "99 99" || size != "3145728 3145728" {
			t.Errorf("open files %s, file size %s", files, size)
		}
		if err := vm.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := vm.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if files, size := limitOf(t, free.PID(), "Max open files"), limitOf(t, free.PID(), "Max file size"); files != "2048 2048" || size != "unlimited unlimited" {
		t.Errorf("without limits: open files %s, file size %s", files, size)
	}
}

func TestLimitsOfTheProcessAreRefusedWhereThereIsNoJail(t *testing.T) {
	t.Parallel()
	for _, vmm := range vmms() {
		if strings.Contains(vmm.name, "jail") {
			continue
		}
		m := newTestManager(t, vmm.options(t))
		for _, limits := range []Limits{{OpenFiles: 500}, {FileSizeMiB: 500}} {
			config := smallConfig(t)
			config.Limits = &limits
			vm := create(t, m, config)
			_, planErr := vm.Plan(t.Context())
			for _, err := range []error{vm.Start(t.Context()), planErr} {
				wantCode(t, err, InvalidConfig)
				if !strings.Contains(err.Error(), "limits: openFiles and fileSizeMib are set by the jailer") || !strings.Contains(err.Error(), "--no-jail") {
					t.Errorf("%v does not say what to do", err)
				}
			}
			wantState(t, vm, Created)
		}
	}
}

func TestMoreOpenFilesThanTheHostAllowsAreRefused(t *testing.T) {
	t.Parallel()
	m := jailedManager(t)
	config := smallConfig(t)
	config.Limits = &Limits{OpenFiles: 1 << 31}
	err := create(t, m, config).Start(t.Context())
	wantCode(t, err, InvalidConfig)
	if !strings.Contains(err.Error(), "fs.nr_open") {
		t.Errorf("%v does not say what to do", err)
	}
}

func TestADriveBeyondTheLimitOnFilesIsRefused(t *testing.T) {
	t.Parallel()
	m := jailedManager(t)
	config := smallConfig(t)
	config.Limits = &Limits{FileSizeMiB: 1}
	config.Drives = []Drive{
		{DriveID: "read", PathOnHost: diskImage(t, "read.img", 3<<20), IsReadOnly: true},
		{DriveID: "large", PathOnHost: diskImage(t, "large.img", 2<<20+512)},
		{DriveID: "blank", BlankMiB: 64},
	}
	vm := create(t, m, config)
	err := vm.Start(t.Context())
	wantCode(t, err, DriveStageFailed)
	for _, want := range []string{"drive large: limits.fileSizeMib is 1", "raise the limit to 3", "drive blank: limits.fileSizeMib is 1", "raise the limit to 64"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "drive read") {
		t.Errorf("a drive that is only read is refused: %v", err)
	}
	wantNothingLeft(t, m, vm)
}

func TestNoCallMakesAVMMWriteBeyondItsLimitOnFiles(t *testing.T) {
	t.Parallel()
	m := jailedManager(t)
	config := smallConfig(t)
	config.Limits = &Limits{FileSizeMiB: 1}
	config.Drives = []Drive{{DriveID: "d", PathOnHost: diskImage(t, "d.img", 1<<20)}}
	vm := start(t, m, config)
	large := diskImage(t, "large.img", 2<<20)
	if err := os.Chmod(large, 0o666); err != nil {
		t.Fatal(err)
	}
	err := vm.UpdateDrive(t.Context(), "d", large)
	wantCode(t, err, DriveStageFailed)
	if !strings.Contains(err.Error(), "raise the limit to 2") {
		t.Errorf("the drive: %v", err)
	}
	if err := vm.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = vm.Snapshot(t.Context(), filepath.Join(t.TempDir(), "snapshot"), SnapshotOptions{})
	wantCode(t, err, SnapshotFailed)
	if want := fmt.Sprintf("a limit of at least %d", vm.Config().MachineConfig.MemSizeMiB); !strings.Contains(err.Error(), want) {
		t.Errorf("the snapshot: %v, want %q", err, want)
	}
	wantState(t, vm, Paused)
}

// The null machine's guest writes nothing, and every call that would write too much is refused: so the VMM is asked past us.
func TestAVMMThatWroteTooMuchSaysWhyItEnded(t *testing.T) {
	t.Parallel()
	m := jailedManager(t)
	config := smallConfig(t)
	config.Limits = &Limits{FileSizeMiB: 1}
	vm := start(t, m, config)
	if err := vm.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	in, _, err := vm.running("test")
	if err != nil {
		t.Fatal(err)
	}
	if err := in.client.CreateSnapshot(t.Context(), firecracker.SnapshotCreate{SnapshotPath: "run/state", MemFilePath: "run/memory"}); err == nil {
		t.Error("the snapshot was written")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := vm.Wait(ctx); err != nil {
		t.Logf("wait: %v", err)
	}
	status, err := vm.Status(ctx)
	if err != nil || status.Exit == nil {
		t.Fatalf("no note: %+v, %v", status, err)
	}
	note := *status.Exit
	for _, want := range []string{"limits.fileSizeMib is 1", "raise the limit"} {
		if note.Code != 151 || !strings.Contains(note.LimitMet, want) || !strings.Contains(note.Meaning, want) {
			t.Errorf("the note lacks %q: %+v", want, note)
		}
	}
}

func TestAFileThatWouldStopTheVMMForEverIsRefusedWithALimitOnFiles(t *testing.T) {
	t.Parallel()
	m := jailedManager(t)
	config := smallConfig(t)
	config.Limits = &Limits{FileSizeMiB: 1}
	config.Logger, config.Metrics = &Logger{LogPath: filepath.Join(t.TempDir(), "log")}, &Metrics{MetricsPath: filepath.Join(t.TempDir(), "metrics")}
	err := create(t, m, config).Start(t.Context())
	wantCode(t, err, InvalidConfig)
	for _, key := range []string{"logger.logPath", "metrics.metricsPath"} {
		if !strings.Contains(err.Error(), "fileSizeMib and a file for "+key+" exclude each other") {
			t.Errorf("%v does not name %s", err, key)
		}
	}
	for _, path := range []string{config.Logger.LogPath, config.Metrics.MetricsPath} {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := config.checkOutputs(); err != nil {
		t.Errorf("FIFOs: %v", err)
	}
}

func TestOnlyTheVMsFullFilesAreNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	small := filepath.Join(dir, "small")
	if err := errors.Join(os.WriteFile(small, nil, 0o600), os.Truncate(small, 1<<20-1)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "full.img"), nil, 0o600), os.Truncate(filepath.Join(dir, "full.img"), 1<<20)); err != nil {
		t.Fatal(err)
	}
	stranger, jail := jailSpec{UID: os.Geteuid() + 1, FileSize: 1 << 20}, jailSpec{UID: os.Geteuid(), FileSize: 1 << 20}
	if got := stranger.fileSizeMet(dir); !strings.Contains(got, "one of its drives") || strings.Contains(got, "full.img") {
		t.Errorf("of another user's files it says %q", got)
	}
	if got := jail.fileSizeMet(dir); !strings.Contains(got, ": full.img; raise") {
		t.Errorf("it says %q", got)
	}
}

// TestTheDataFolderNeedsADiskForLimitsOnDisks runs on every machine: what is refused is a data folder in memory.
func TestTheDataFolderNeedsADiskForLimitsOnDisks(t *testing.T) {
	t.Parallel()
	proof.Host(t)
	limits := &Limits{WriteBps: 1 << 20}
	if _, err := limits.disks("/proc", nil); err == nil || !strings.Contains(err.Error(), "the data folder") || !strings.Contains(err.Error(), "ext4 or XFS") {
		t.Errorf("got %v", err)
	}
	if disks, err := (&Limits{CPUs: 1}).disks("/proc", nil); disks != nil || err != nil {
		t.Errorf("without limits on disks: %v, %v", disks, err)
	}
}
