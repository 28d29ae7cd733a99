package drive

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

func TestStageGivesTheVMADriveOfItsOwn(t *testing.T) {
	t.Parallel()
	source, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	sparse(t, source, 64<<20, 0, 5<<20, 64<<20-4096)
	before := read(t, source)

	staged, err := Stage(t.Context(), Request{Source: source, Dir: dir, Name: "root-image"})
	if err != nil {
		t.Fatal(err)
	}
	if staged.Path != filepath.Join(dir, "root-image") || staged.Size != 64<<20 || staged.Upper != "" {
		t.Errorf("%+v", staged)
	}
	if !bytes.Equal(read(t, staged.Path), before) {
		t.Error("the copy differs from its source")
	}
	if info, err := os.Stat(staged.Path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	write(t, staged.Path, "guest")
	if !bytes.Equal(read(t, source), before) {
		t.Error("what the guest wrote is in the source")
	}

	for range 2 {
		if err := staged.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, dir)
	if !bytes.Equal(read(t, source), before) {
		t.Error("removing the drive changed its source")
	}
}

func TestStageReflinksWhereTheFilesystemCan(t *testing.T) {
	proof.Host(t)
	privateMounts(t)
	dir := mountXFS(t)
	source := filepath.Join(dir, "image")
	if err := os.WriteFile(source, pattern(64<<20, 3), 0o600); err != nil {
		t.Fatal(err)
	}
	free := freeBytes(t, dir)
	// An overlay is allowed and yet not needed.
	staged, err := Stage(t.Context(), Request{Source: source, Dir: dir, Name: "root", AllowOverlay: true})
	if err != nil {
		t.Fatal(err)
	}
	want := Staged{Method: Reflink, Path: filepath.Join(dir, "root"), Size: 64 << 20}
	if diff := cmp.Diff(want, staged); diff != "" {
		t.Error(diff)
	}
	if cost := free - freeBytes(t, dir); cost > 1<<20 {
		t.Errorf("the reflink took %d bytes of the disk", cost)
	}
	if !bytes.Equal(read(t, staged.Path), read(t, source)) {
		t.Error("the copy differs from its source")
	}
	write(t, staged.Path, "guest")
	if bytes.HasPrefix(read(t, source), []byte("guest")) {
		t.Error("what the guest wrote is in the source")
	}
}

func TestStageAddsADriveForTheOverlayInsteadOfCopying(t *testing.T) {
	proof.Host(t)
	privateMounts(t)
	dir := mountTmpfs(t, "1m")
	source := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(source, pattern(2<<20, 3), 0o400); err != nil {
		t.Fatal(err)
	}
	staged, err := Stage(t.Context(), Request{Source: source, Dir: dir, Name: "root", AllowOverlay: true})
	if err != nil {
		t.Fatal(err)
	}
	if staged.Method != Overlay || staged.Path != source || staged.Size != 2<<20 || staged.Upper != filepath.Join(dir, "root.upper.ext4") {
		t.Errorf("%+v", staged)
	}
	holds(t, dir, "root.upper.ext4")
	if info, err := os.Stat(staged.Upper); err != nil || info.Size() != DefaultOverlaySize {
		t.Errorf("%v, %v", info, err)
	}
	if staged.Written > 64<<10 || onDisk(t, staged.Upper) > 64<<10 {
		t.Errorf("wrote %d bytes, %d on disk", staged.Written, onDisk(t, staged.Upper))
	}
	run(t, "e2fsck", "-fn", staged.Upper)

	if err := staged.Remove(); err != nil {
		t.Fatal(err)
	}
	holds(t, dir)
	if _, err := os.Stat(source); err != nil {
		t.Error("the source was removed")
	}
}

func TestStageRefusesBeforeItWritesWhenTheDataCannotFit(t *testing.T) {
	proof.Host(t)
	privateMounts(t)
	dir := mountTmpfs(t, "1m")
	source := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(source, pattern(2<<20, 3), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Stage(t.Context(), Request{Source: source, Dir: dir, Name: "root"})
	var space *SpaceError
	if !errors.As(err, &space) || space.Need != 2<<20 || space.Free != 1<<20 || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(err.Error(), "the copy needs 2MiB and 1MiB are free: free some") {
		t.Errorf("unclear: %v", err)
	}
	holds(t, dir)
}

func TestStageCountsDataNotHoles(t *testing.T) {
	proof.Host(t)
	privateMounts(t)
	dir := mountTmpfs(t, "1m")
	source := filepath.Join(t.TempDir(), "image")
	sparse(t, source, 10<<30, 0, 5<<30, 10<<30-4096)
	staged, err := Stage(t.Context(), Request{Source: source, Dir: dir, Name: "root"})
	if err != nil {
		t.Fatal(err)
	}
	if staged.Method != Copy || staged.Size != 10<<30 || staged.Written != 3*4096 {
		t.Errorf("%+v", staged)
	}
	if got := onDisk(t, staged.Path); got != 3*4096 {
		t.Errorf("takes %d bytes", got)
	}
}

func TestStageLeavesNothingWhenTheDiskRunsFullMidway(t *testing.T) {
	proof.Host(t)
	privateMounts(t)
	dir := mountTmpfs(t, "8m")
	source := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(source, pattern(6<<20, 3), 0o600); err != nil {
		t.Fatal(err)
	}
	// Somebody else takes the space after it was checked.
	ctx := &hookContext{Context: t.Context(), hook: func(call int) error {
		if call == 3 {
			return os.WriteFile(filepath.Join(dir, "other"), pattern(4<<20, 5), 0o600)
		}
		return nil
	}}
	_, err := Stage(ctx, Request{Source: source, Dir: dir, Name: "root"})
	var space *SpaceError
	if !errors.As(err, &space) || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "no space left on device: free some") {
		t.Errorf("got %v", err)
	}
	holds(t, dir, "other")
}

func TestStageLeavesNothingWhenThereIsNoRoomForTheOverlay(t *testing.T) {
	proof.Host(t)
	privateMounts(t)
	dir := mountTmpfs(t, "16k")
	source := filepath.Join(t.TempDir(), "image")
	sparse(t, source, 1<<20, 0)
	_, err := Stage(t.Context(), Request{Source: source, Dir: dir, Name: "root", AllowOverlay: true})
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	holds(t, dir)
}

func TestStageLeavesNothingWhenItIsCancelled(t *testing.T) {
	proof.Host(t)
	privateMounts(t)
	dir := mountTmpfs(t, "8m")
	source := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(source, pattern(6<<20, 3), 0o600); err != nil {
		t.Fatal(err)
	}
	for when := 1; when <= 6; when++ {
		midway := false
		ctx := &hookContext{Context: t.Context(), hook: func(call int) error {
			if call < when {
				return nil
			}
			_, err := os.Stat(filepath.Join(dir, "root"))
			midway = err == nil
			return context.Canceled
		}}
		if _, err := Stage(ctx, Request{Source: source, Dir: dir, Name: "root"}); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at call %d: %v", when, err)
		}
		if midway != (when > 1) {
			t.Errorf("cancelled at call %d: the file was there: %v", when, midway)
		}
		holds(t, dir)
	}
}

func TestNothingIsMadeWhenTheContextIsOver(t *testing.T) {
	t.Parallel()
	source, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	sparse(t, source, 1<<20, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := CreateSparse(ctx, filepath.Join(dir, "disk"), 1<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("CreateSparse: %v", err)
	}
	if _, err := Clone(ctx, filepath.Join(dir, "clone"), source); !errors.Is(err, context.Canceled) {
		t.Errorf("Clone: %v", err)
	}
	holds(t, dir)
}

func TestStageNeverTouchesWhatIsThereAlready(t *testing.T) {
	t.Parallel()
	source, dir, target := filepath.Join(t.TempDir(), "image"), t.TempDir(), filepath.Join(t.TempDir(), "target")
	sparse(t, source, 1<<20, 0)
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "file"), []byte("precious"), 0o600),
		os.WriteFile(target, []byte("precious"), 0o600),
		os.Symlink(target, filepath.Join(dir, "link")),
		os.Symlink(filepath.Join(dir, "new"), filepath.Join(dir, "dangling")),
	); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "link", "dangling"} {
		if _, err := Stage(t.Context(), Request{Source: source, Dir: dir, Name: name}); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if string(read(t, filepath.Join(dir, "file"))) != "precious" || string(read(t, target)) != "precious" {
		t.Error("an existing file was overwritten")
	}
	holds(t, dir, "dangling", "file", "link")
}

func TestStageRefusesNamesThatLeaveTheFolder(t *testing.T) {
	t.Parallel()
	source := filepath.Join(t.TempDir(), "image")
	sparse(t, source, 1<<20, 0)
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/x", "x\x00"} {
		if _, err := Stage(t.Context(), Request{Source: source, Dir: t.TempDir(), Name: name}); err == nil || !strings.Contains(err.Error(), "is no file name") {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

func TestStageSaysWhatAndWhere(t *testing.T) {
	t.Parallel()
	source := filepath.Join(t.TempDir(), "image")
	sparse(t, source, 1<<20, 0)
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := Stage(t.Context(), Request{Source: source, Dir: missing, Name: "root"})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), source) || !strings.Contains(err.Error(), missing) {
		t.Errorf("got %v", err)
	}
}

func TestStageCopiesABlockDevice(t *testing.T) {
	proof.Host(t)
	image := filepath.Join(t.TempDir(), "image")
	sparse(t, image, 64<<20, 0, 32<<20)
	device := strings.TrimSpace(run(t, "losetup", "--find", "--show", image))
	detached := false
	detach := func() {
		if !detached {
			detached = true
			run(t, "losetup", "--detach", device)
		}
	}
	defer detach()

	staged, err := Stage(t.Context(), Request{Source: device, Dir: t.TempDir(), Name: "root"})
	if err != nil {
		t.Fatal(err)
	}
	detach()
	// A device knows no holes, but blocks of zeros become some.
	if staged.Method != Copy || staged.Size != 64<<20 || staged.Written != 2*zeroBlock {
		t.Errorf("%+v", staged)
	}
	if !bytes.Equal(read(t, staged.Path), read(t, image)) {
		t.Error("the copy differs from the device")
	}
}

// hookContext calls hook with the number of each call of Err, and returns what hook returns.
type hookContext struct {
	context.Context
	calls int
	hook  func(call int) error
}

func (c *hookContext) Err() error {
	c.calls++
	return c.hook(c.calls)
}

func open(t *testing.T, path string) *source {
	t.Helper()
	src, err := openSource(path, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.file.Close() })
	return src
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// write overwrites the beginning of a file.
func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// holds checks that the folder holds these files, in order, and nothing else.
func holds(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the folder holds (-want +got):\n%s", diff)
	}
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Frsize
}
