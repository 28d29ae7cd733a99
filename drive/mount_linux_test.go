package drive

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// privateMounts moves the test's thread to a mount namespace of its own, which dies with the test: the thread is not
// given back. The test must do all that concerns its mounts in its own goroutine, and not be parallel.
func privateMounts(tb testing.TB) {
	tb.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		tb.Fatalf("unshare: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		tb.Fatalf("make mounts private: %v", err)
	}
}

// mountTmpfs returns a folder in memory with room for size bytes ("64k").
func mountTmpfs(tb testing.TB, size string) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		tb.Fatalf("mount tmpfs: %v", err)
	}
	tb.Cleanup(func() { unmount(tb, dir) })
	return dir
}

// mountImage mounts a file with a filesystem by a loop device that goes with the mount.
func mountImage(tb testing.TB, image string) string {
	tb.Helper()
	dir := tb.TempDir()
	run(tb, "mount", "-o", "loop", image, dir)
	tb.Cleanup(func() { unmount(tb, dir) })
	return dir
}

// mountXFS returns a folder on a filesystem with reflinks.
func mountXFS(tb testing.TB) string {
	tb.Helper()
	image := filepath.Join(tb.TempDir(), "xfs.img")
	sparse(tb, image, 4<<30)
	run(tb, "mkfs.xfs", "-q", "-m", "reflink=1", image)
	return mountImage(tb, image)
}

func unmount(tb testing.TB, dir string) {
	if err := unix.Unmount(dir, 0); err != nil {
		tb.Errorf("unmount %s: %v", dir, err)
	}
}

// run runs a program that `make deps` installs; a missing one is a failure, as nothing may skip quietly.
func run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("%v: run make deps", err)
	}
	out, err := exec.CommandContext(tb.Context(), path, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// sparse makes a file of size bytes with data at the given offsets, 4 KiB each, and nothing else.
func sparse(tb testing.TB, path string, size int64, offsets ...int64) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		tb.Fatal(err)
	}
	for _, offset := range offsets {
		if _, err := f.WriteAt(pattern(4096, byte(offset>>12)), offset); err != nil {
			tb.Fatal(err)
		}
	}
}

// pattern is data without a zero byte.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed%199 + byte(i)%50 + 1
	}
	return b
}

// onDisk returns how many bytes of the disk a file takes.
func onDisk(tb testing.TB, path string) int64 {
	tb.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		tb.Fatal(err)
	}
	return st.Blocks * 512
}
