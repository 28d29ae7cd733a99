package image

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"smartvm/internal/cpuarch"
	"smartvm/internal/proof"
)

func TestWhatADeadMakerLeftIsSweptAndALivingOnesStays(t *testing.T) {
	t.Parallel()
	parent := folder(t, map[string][]byte{
		".bundle.unfinished-1/vmlinux": []byte("dead"), ".bundle.unfinished-2/vmlinux": []byte("alive"),
		".other.unfinished-3/vmlinux": []byte("another bundle's"), "letter.txt": []byte("mine"),
	})
	alive, err := os.Open(filepath.Join(parent, ".bundle.unfinished-2"))
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	if err := lockFolder(alive); err != nil {
		t.Fatal(err)
	}
	build(t, cpuarch.X8664, filepath.Join(parent, "bundle"))
	want := []string{".bundle.unfinished-2", ".other.unfinished-3", "bundle", "letter.txt"}
	if diff := cmp.Diff(want, list(t, parent)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestBuildsAtTheSameTimeDoNotHarmEachOther(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bundle")
	pkg := folder(t, testPackage(t, cpuarch.X8664))
	const builders = 8
	done := make(chan error, builders)
	for range builders {
		go func() {
			_, err := BuildDebian(t.Context(), DebianOptions{Arch: cpuarch.X8664, Dir: dir, Package: pkg, Init: testProgram(cpuarch.X8664, "init")})
			done <- err
		}()
	}
	for range builders {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	b, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if left := list(t, filepath.Dir(dir)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// A disk that fills up, in steps: a tmpfs of few pages, in a mount namespace of the test's own thread, which ends with it.
func TestAFullDiskIsSaidAndLeavesTheBundleAsItWas(t *testing.T) {
	proof.Host(t)
	pkg, init := folder(t, testPackage(t, cpuarch.X8664)), testProgram(cpuarch.X8664, "init")
	disk := t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and its namespace with the thread
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", disk, "tmpfs", 0, "size=4M")); err != nil {
			t.Error(err)
			return
		}
		o := DebianOptions{Arch: cpuarch.X8664, Dir: filepath.Join(disk, "bundle"), Package: pkg, Init: init}
		good, err := BuildDebian(t.Context(), o)
		if err != nil {
			t.Error(err)
			return
		}
		for kib := 0; kib < 4096; kib += 64 {
			// All but so much of the disk is taken.
			if err := fill(disk, int64(kib)<<10); err != nil {
				t.Error(err)
				return
			}
			_, err := BuildDebian(t.Context(), o)
			os.Remove(filepath.Join(disk, "ballast"))
			if err == nil {
				if kib == 0 {
					t.Error("a build on a full disk")
				}
				return
			}
			if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), disk) {
				t.Errorf("%d KiB left: %v", kib, err)
			}
			if left := list(t, disk); !cmp.Equal(left, []string{"bundle"}) {
				t.Errorf("%d KiB left: left %v", kib, left)
			}
			if opened, err := Open(t.Context(), good.Dir); err != nil || !cmp.Equal(good, opened) {
				t.Errorf("%d KiB left: the bundle is not what it was: %v", kib, err)
			}
		}
		t.Error("no build was done, however much of the disk was free")
	}()
	<-done
}

// fill takes all of a disk but spare bytes.
func fill(disk string, spare int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(disk, "ballast"))
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), 0, 0, max(int64(st.Bavail)*st.Bsize-spare, 4096))
}
