package drive

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Both ways of copying give the same bytes and the same holes for any mix of data and holes.
func TestCopiesAreEqualAndKeepTheirHoles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.Int64Range(1, 4<<20).Draw(rt, "size")
		path := filepath.Join(dir, "image")
		f, err := os.Create(path)
		if err != nil {
			rt.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			rt.Fatal(err)
		}
		for range rapid.IntRange(0, 6).Draw(rt, "extents") {
			start := rapid.Int64Range(0, size-1).Draw(rt, "start")
			length := rapid.Int64Range(1, 200_000).Draw(rt, "length")
			if _, err := f.WriteAt(pattern(int(min(length, size-start)), byte(start)), start); err != nil {
				rt.Fatal(err)
			}
		}
		want, src := read(t, path), open(t, path)

		for _, inKernel := range []bool{true, false} {
			out, err := os.Create(filepath.Join(dir, "copy"))
			if err != nil {
				rt.Fatal(err)
			}
			defer out.Close()
			if err := out.Truncate(size); err != nil {
				rt.Fatal(err)
			}
			c := copier{dst: out, src: src, inKernel: inKernel}
			for extent, err := range src.extents() {
				if err == nil {
					err = c.copy(t.Context(), extent)
				}
				if err != nil {
					rt.Fatal(err)
				}
			}
			if !bytes.Equal(read(t, out.Name()), want) {
				rt.Fatalf("copy differs, in the kernel: %v", inKernel)
			}
			if got, limit := onDisk(t, out.Name()), onDisk(t, path)+64<<10; got > limit {
				rt.Fatalf("copy takes %d bytes, its source %d, in the kernel: %v", got, limit, inKernel)
			}
		}
	})
}

func TestCopySaysThatTheSourceBecameShorter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, pattern(64<<10, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c := copier{dst: out, src: open(t, path), inKernel: true}
	err = c.copy(t.Context(), extent{0, 128 << 10})
	if err == nil || !strings.Contains(err.Error(), "it became shorter while it was copied") {
		t.Errorf("got %v", err)
	}
}
