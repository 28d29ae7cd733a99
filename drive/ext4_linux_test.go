package drive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

// The sizes around which the layout changes: less than a group, exactly one, a last group too small to be worth it,
// one that is just worth it, many.
var driveSizes = []int64{
	minDriveSize, minDriveSize + 1, 5<<20 + 4097, 64 << 20, 128 << 20, 129 << 20, 130<<20 + 1<<18, 131 << 20, 200 << 20,
	1 << 30, 10 << 30, 1 << 40,
}

func TestCreatedDrivesPassE2fsck(t *testing.T) {
	proof.Host(t)
	t.Parallel()
	for _, size := range driveSizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "disk.img")
			if err := CreateSparse(t.Context(), path, size); err != nil {
				t.Fatal(err)
			}
			run(t, "e2fsck", "-fn", path)
			if info, err := os.Stat(path); err != nil || info.Size() != size || info.Mode() != 0o600 {
				t.Errorf("%v, %v", info, err)
			}
			// One block of group descriptors for every 16 GiB, and a handful of others.
			if limit := 40<<10 + size/(16<<30)*4096; onDisk(t, path) > limit {
				t.Errorf("takes %d bytes of the disk, want at most %d", onDisk(t, path), limit)
			}
		})
	}
}

func TestTheKernelWritesToACreatedDrive(t *testing.T) {
	proof.Host(t)
	privateMounts(t)
	// Two groups and a bit: the files below reach into groups whose bitmaps the kernel has to make itself.
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := CreateSparse(t.Context(), path, 300<<20); err != nil {
		t.Fatal(err)
	}
	t.Run("write", func(t *testing.T) {
		privateMounts(t)
		dir := mountImage(t, path)
		for i := range 3 {
			sub := filepath.Join(dir, fmt.Sprint("folder", i))
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			for j := range 200 {
				if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("file", j)), pattern(5000, byte(j)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			// An overlay keeps what it knows about a file in trusted.overlay.*.
			if err := unix.Setxattr(sub, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
				t.Fatal(err)
			}
		}
		fill(t, filepath.Join(dir, "big"))
	})
	run(t, "e2fsck", "-fn", path)
}

// fill writes to a new file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, total := pattern(1<<20, 7), 0
	for {
		n, err := f.Write(data)
		total += n
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if total < 250<<20 {
		t.Errorf("full after %d bytes", total)
	}
}

func TestCreateSparseRefuses(t *testing.T) {
	t.Parallel()
	there := filepath.Join(t.TempDir(), "there.img")
	if err := os.WriteFile(there, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		size int64
		want string
	}{
		{filepath.Join(t.TempDir(), "small.img"), minDriveSize - 1, "a drive must have 1MiB to 16TiB, not 1024KiB"},
		{filepath.Join(t.TempDir(), "large.img"), maxDriveSize + 1, "a drive must have 1MiB to 16TiB"},
		{filepath.Join(t.TempDir(), "negative.img"), -1, "a drive must have 1MiB to 16TiB, not -1B"},
		{there, minDriveSize, "file exists"},
		{filepath.Join(t.TempDir(), "missing", "disk.img"), minDriveSize, "no such file or directory"},
	} {
		err := CreateSparse(t.Context(), c.path, c.size)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %d bytes: got %v, want %q", c.path, c.size, err, c.want)
		}
		if _, err := os.Lstat(c.path); err == nil && c.path != there {
			t.Errorf("%s was left behind", c.path)
		}
	}
	if got, _ := os.ReadFile(there); string(got) != "precious" {
		t.Errorf("an existing file now holds %q", got)
	}
}
