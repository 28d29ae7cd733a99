package drive

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

func TestDataSizeCountsNoHoles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image")
	sparse(t, path, 10<<30, 0, 1<<30, 10<<30-4096)
	if size, err := DataSize(path); err != nil || size != 3*4096 {
		t.Errorf("%d, %v", size, err)
	}
	if _, err := DataSize(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("got %v", err)
	}
}

func TestCheckSpaceComparesWithWhatIsFree(t *testing.T) {
	proof.Host(t)
	privateMounts(t)
	dir := mountTmpfs(t, "1m")
	if err := CheckSpace(dir, 1<<20); err != nil {
		t.Error(err)
	}
	err := CheckSpace(dir, 1<<20+1)
	var space *SpaceError
	if !errors.As(err, &space) || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	if err := CheckSpace(filepath.Join(dir, "missing"), 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestCanReflinkTellsFilesystemsApart(t *testing.T) {
	proof.Host(t)
	privateMounts(t)
	can, cannot := mountXFS(t), mountTmpfs(t, "1m")
	if !CanReflink(can) {
		t.Error("XFS cannot")
	}
	if CanReflink(cannot) {
		t.Error("tmpfs can")
	}
	if CanReflink(filepath.Join(cannot, "missing")) {
		t.Error("a missing folder can")
	}
	holds(t, can)
	holds(t, cannot)
}
