package drive

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheckSourceSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(in("empty"), nil, 0o600),
		os.Mkdir(in("folder"), 0o700),
		os.Symlink("folder", in("link-to-folder")),
		os.Symlink("nowhere", in("dangling")),
		os.Symlink("loop", in("loop")),
		unix.Mkfifo(in("fifo"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	// An unbound socket file; a path in t.TempDir may be too long to bind to.
	if err := unix.Mknod(in("socket"), unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}

	for path, want := range map[string]string{
		in("empty"):          "is empty (0 bytes): a drive needs a filesystem image",
		in("folder"):         "is a folder: a drive needs a file",
		in("link-to-folder"): "is a folder",
		in("dangling"):       "no such file or directory: check the path",
		in("missing"):        "no such file or directory: check the path",
		in("loop"):           "too many levels of symbolic links",
		in("fifo"):           "is a FIFO",
		in("socket"):         "is a socket",
		"/dev/null":          "is a character device",
		"":                   "no such file or directory",
	} {
		err := CheckSource(path, false)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

func TestCheckSourceTakesAnImage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, link} {
		for _, writable := range []bool{false, true} {
			if err := CheckSource(p, writable); err != nil {
				t.Errorf("%s, writable %v: %v", p, writable, err)
			}
		}
	}
}

func TestCheckSourceNamesTheUserWhoMayNotReadOrWrite(t *testing.T) {
	t.Parallel()
	asNobody(t)
	dir := t.TempDir()
	unreadable, readOnly := filepath.Join(dir, "unreadable"), filepath.Join(dir, "read-only")
	if err := errors.Join(os.WriteFile(unreadable, []byte("x"), 0o000), os.WriteFile(readOnly, []byte("x"), 0o444)); err != nil {
		t.Fatal(err)
	}
	if err := CheckSource(readOnly, false); err != nil {
		t.Error(err)
	}
	for path, writable := range map[string]bool{unreadable: false, readOnly: true} {
		err := CheckSource(path, writable)
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "give the user with id") {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

// asNobody makes the kernel treat file accesses of this test as those of a user without rights, also when root runs it.
func asNobody(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	const nobody = 65534
	runtime.LockOSThread()
	dir := t.TempDir()
	if err := os.Chown(filepath.Dir(dir), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setfsuid(nobody); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setfsuid(0) }) // then the thread may end
}
