package image

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"smartvm/internal/cpuarch"
)

func TestOpenRefusesADamagedBundle(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(t *testing.T, b Bundle)
		want   string
	}{
		"no manifest":      {func(t *testing.T, b Bundle) { remove(t, b.Dir, manifestName) }, "no such file"},
		"broken manifest":  {func(t *testing.T, b Bundle) { overwrite(t, b.Dir, manifestName, "{") }, "no manifest"},
		"another manifest": {func(t *testing.T, b Bundle) { overwrite(t, b.Dir, manifestName, "{}") }, "lacks"},
		"huge manifest":    {func(t *testing.T, b Bundle) { overwrite(t, b.Dir, manifestName, strings.Repeat(" ", maxManifest+1)) }, "limit"},
		"no kernel":        {func(t *testing.T, b Bundle) { remove(t, b.Dir, kernelName) }, "no such file"},
		"short initrd":     {func(t *testing.T, b Bundle) { overwrite(t, b.Dir, initrdName, "x") }, "has 1 bytes"},
		"changed kernel":   {func(t *testing.T, b Bundle) { flip(t, b.Kernel); touch(t, b.Kernel) }, "kernel is damaged"},
		"a link":           {func(t *testing.T, b Bundle) { relink(t, b.Kernel) }, "not a regular file"},
		"a path that leads out": {func(t *testing.T, b Bundle) {
			rewrite(t, b, func(m *Manifest) { m.KernelImagePath = "../vmlinux" })
		}, "not in the bundle's folder"},
		"an absolute path outside": {func(t *testing.T, b Bundle) {
			rewrite(t, b, func(m *Manifest) { m.InitrdPath = "/etc/passwd" })
		}, "not in the bundle's folder"},
		"no checksum": {func(t *testing.T, b Bundle) {
			rewrite(t, b, func(m *Manifest) { m.Checksums.KernelSHA256 = "" })
		}, "no checksum"},
	} {
		b := build(t, cpuarch.X8664, t.TempDir())
		c.damage(t, b)
		_, err := Open(t.Context(), b.Dir)
		var damaged *BundleError
		if !errors.As(err, &damaged) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, c.want)
		}
	}
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: got %v, want one that is fs.ErrNotExist", err)
	}
}

func TestABundleMayBeMovedAndNameItsFilesAbsolutely(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	build(t, cpuarch.X8664, filepath.Join(parent, "a"))
	if err := os.Rename(filepath.Join(parent, "a"), filepath.Join(parent, "b")); err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), filepath.Join(parent, "b"))
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, b, func(m *Manifest) { m.BundleDir, m.KernelImagePath, m.InitrdPath = b.Dir, b.Kernel, b.Initrd })
	if again, err := Open(t.Context(), b.Dir); err != nil || again.Kernel != b.Kernel {
		t.Errorf("%+v, %v", again, err)
	}
}

// A file that has kept size, time and inode is not read again: shown by one that was changed without any of them
// showing it. Verify reads it all the same.
func TestOpenReadsAFileOnceAndAgainWhenItChanged(t *testing.T) {
	t.Parallel()
	b := build(t, cpuarch.X8664, t.TempDir())
	before, err := os.Stat(b.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, b.Kernel)
	if err := os.Chtimes(b.Kernel, time.Time{}, before.ModTime()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), b.Dir); err != nil {
		t.Errorf("the file was read again: %v", err)
	}
	if err := b.Verify(t.Context()); err == nil {
		t.Error("Verify found nothing")
	}
	remove(t, b.Dir, stampName)
	if _, err := Open(t.Context(), b.Dir); err == nil {
		t.Error("without the note the file was not read")
	}
	flip(t, b.Kernel)
	if _, err := Open(t.Context(), b.Dir); err != nil {
		t.Errorf("whole again: %v", err)
	}
	if _, err := os.Stat(filepath.Join(b.Dir, stampName)); err != nil {
		t.Errorf("the note was not written: %v", err)
	}
	overwrite(t, b.Dir, stampName, "garbage")
	if _, err := Open(t.Context(), b.Dir); err != nil {
		t.Errorf("with a broken note: %v", err)
	}
	flip(t, b.Initrd)
	touch(t, b.Initrd)
	if _, err := Open(t.Context(), b.Dir); err == nil {
		t.Error("a newer file was not read")
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := build(t, cpuarch.X8664, t.TempDir())
	remove(t, b.Dir, stampName)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, b.Dir); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestTimesAreWrittenInUTCWithMilliseconds(t *testing.T) {
	t.Parallel()
	at := Time{time.Date(2026, 11, 23, 21, 0, 0, 5_999_999, time.FixedZone("", 3600))}
	data, err := json.Marshal(at)
	if err != nil || string(data) != `"2026-11-23T20:00:00.005Z"` {
		t.Errorf("%s, %v", data, err)
	}
	var back Time
	if err := json.Unmarshal(data, &back); err != nil || !back.Equal(at.Truncate(time.Millisecond)) {
		t.Errorf("%v, %v", back, err)
	}
	if json.Unmarshal([]byte(`"yesterday"`), &back) == nil || json.Unmarshal([]byte(`1`), &back) == nil {
		t.Error("what is no time was taken")
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// flip turns a bit of a file's last byte round.
func flip(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], info.Size()-1); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], info.Size()-1); err != nil {
		t.Fatal(err)
	}
}

// touch gives a file another time: the system's clock may stand still between two writes.
func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
}

// relink puts a link to a file in its place.
func relink(t *testing.T, path string) {
	t.Helper()
	if err := os.Rename(path, path+"-2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path+"-2", path); err != nil {
		t.Fatal(err)
	}
}

// rewrite changes a bundle's manifest.
func rewrite(t *testing.T, b Bundle, change func(*Manifest)) {
	t.Helper()
	m := b.Manifest
	change(&m)
	remove(t, b.Dir, manifestName)
	if err := m.write(b.Dir); err != nil {
		t.Fatal(err)
	}
}

func TestModulesFitTheKernelThatTheyWereBuiltFor(t *testing.T) {
	t.Parallel()
	b := Bundle{Initrd: "initrd", Manifest: Manifest{KernelRelease: "6.1.0-1-cloud-amd64"}}
	for banner, fits := range map[string]bool{
		"Linux version 6.1.0-1-cloud-amd64 (debian)":  true,
		"Linux version 6.1.0-10-cloud-amd64 (debian)": false,
		"no banner": false,
	} {
		kernel := filepath.Join(t.TempDir(), "vmlinux")
		if err := os.WriteFile(kernel, []byte("\x7fELF…"+banner+"\x00"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := b.FitsKernel(kernel); (err == nil) != fits {
			t.Errorf("%q: %v", banner, err)
		}
	}
	if err := (Bundle{}).FitsKernel("/nowhere"); err != nil {
		t.Errorf("a bundle without modules: %v", err)
	}
	if err := b.FitsKernel("/nowhere"); err == nil {
		t.Error("a kernel that is not there fits")
	}
}
