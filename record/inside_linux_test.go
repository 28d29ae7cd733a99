package record

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

func TestProcessesInAFolderAreFoundAlsoAfterItIsGone(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir, sibling := filepath.Join(base, "vm"), filepath.Join(base, "vm-2")
	below := filepath.Join(dir, "drives")
	for _, d := range []string{dir, below, sibling} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(base, "link")
	if err := os.Symlink(base, link); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want := []Process{}
	for _, d := range []string{dir, below, sibling} {
		child := beginAt(t, self, d, "idle")
		child.says("here")
		if d != sibling {
			want = append(want, identified(t, child.pid()))
		}
	}
	wantFound := func(dir string, want []Process) {
		t.Helper()
		found, err := ProcessesIn(dir)
		byPID := func(a, b Process) int { return a.PID - b.PID }
		slices.SortFunc(found, byPID)
		slices.SortFunc(want, byPID)
		if err != nil || !slices.Equal(found, want) {
			t.Errorf("in %s: %v, %v, want %v", dir, found, err, want)
		}
	}
	wantFound(dir, want)
	wantFound(dir+"/", want)
	wantFound(filepath.Join(link, "vm"), want)
	wantFound(filepath.Join(base, "missing"), nil)

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	wantFound(dir, want)
	wantFound(filepath.Join(link, "vm"), want)
}

func TestOurselvesAreNotFound(t *testing.T) {
	t.Parallel()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	found, err := ProcessesIn(here)
	if err != nil || slices.ContainsFunc(found, func(p Process) bool { return p.PID == os.Getpid() }) {
		t.Errorf("got %v, %v", found, err)
	}
}

func TestAProcessInAJailIsFoundByItsRoot(t *testing.T) {
	proof.Host(t)
	t.Parallel()
	dir := t.TempDir()
	inside := begin(t, "jail", dir)
	inside.says("here")
	want := []Process{identified(t, inside.pid())}
	if path, err := os.Readlink(procPath(inside.pid(), "root")); path != "/" || err != nil {
		t.Errorf("the test is wrong: its root is %q, %v", path, err)
	}
	if found, err := ProcessesIn(dir); err != nil || !slices.Equal(found, want) {
		t.Errorf("got %v, %v, want %v", found, err, want)
	}
	inside.finish()
}

func TestAContainersFolderOfTheSamePathIsNotOurs(t *testing.T) {
	proof.Host(t)
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "vm")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	inside := begin(t, "container", dir)
	inside.says("here")
	if path, err := os.Readlink(procPath(inside.pid(), "cwd")); path != dir || err != nil {
		t.Errorf("the test is wrong: its working folder is %q, %v", path, err)
	}
	if found, err := ProcessesIn(dir); err != nil || len(found) > 0 {
		t.Errorf("got %v, %v", found, err)
	}
	inside.finish()
}

// jail locks itself up in a folder, as Firecracker's jailer does.
func jail(args []string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	err := errors.Join(
		unix.Mount(args[0], args[0], "", unix.MS_BIND, ""),
		unix.Chdir(args[0]),
		unix.PivotRoot(".", "."),
		unix.Unmount(".", unix.MNT_DETACH),
		unix.Chdir("/"))
	if err != nil {
		return err
	}
	fmt.Println("here")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// privateMounts keeps what this process mounts, in a mount namespace of its own, from showing outside.
func privateMounts() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }

// container works in a folder that has the path of another one outside.
func container(args []string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	err := errors.Join(
		unix.Mount("tmpfs", filepath.Dir(args[0]), "tmpfs", 0, ""),
		unix.Mkdir(args[0], 0o700),
		unix.Chdir(args[0]))
	if err != nil {
		return err
	}
	fmt.Println("here")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
