package record

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

// wantWhole reads a record of the write role, which must be one that it wrote.
func wantWhole(t *testing.T, path string) {
	t.Helper()
	r, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	n := len(r.Resources)
	if len(r.Writer) != 1+100*n || n > 0 && r.Resources[n-1].Identity != strconv.Itoa(n) {
		t.Fatalf("two records in one: %+v", r)
	}
}

func TestAReaderSeesWholeRecordsOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "record.json")
	begin(t, "write", path, "false").says("writes")
	for range 3000 {
		wantWhole(t, path)
	}
}

func TestAWriterThatIsKilledLeavesAWholeRecord(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "record.json")
	for i := range 60 {
		writer := begin(t, "write", path, strconv.FormatBool(i%2 == 0))
		writer.says("writes")
		// Nothing is waited for: the point is to strike at any moment of the loop.
		<-time.After(time.Duration(rand.IntN(5000)) * time.Microsecond)
		writer.kill()
		wantWhole(t, path)
	}
}

func TestAFullDiskLeavesTheOldRecord(t *testing.T) {
	proof.Host(t)
	t.Parallel()
	inside := exec.Command(os.Args[0], as, "full-disk", t.TempDir())
	inside.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if out, err := inside.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// fillDisk runs in a mount namespace of its own: what it mounts ends with it.
func fillDisk(args []string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", args[0], "tmpfs", 0, "size=64k"); err != nil {
		return err
	}
	path, lock := filepath.Join(args[0], "record.json"), filepath.Join(args[0], "lock")
	if err := errors.Join(Write(path, recordOfSize(1), true), Ensure(lock)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(args[0], "big"), make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk is not full: %w", err)
	}
	for _, durable := range []bool{false, true} {
		err := Write(path, recordOfSize(50), durable)
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), path) {
			return fmt.Errorf("the error is %w", err)
		}
		if r, err := Read(path); err != nil || len(r.Resources) != 1 {
			return fmt.Errorf("the old record is %+v, %w", r, err)
		}
	}
	// To make room needs the lock.
	l, err := Try(lock, "remove")
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(args[0])
	if err != nil || len(entries) != 3 {
		return fmt.Errorf("left behind: %v, %w", entries, err)
	}
	return l.Release()
}
