package smartvm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/drive"
	"smartvm/internal/proof"
)

// usedBytes is what a filesystem has given away, all that is to be written included.
func usedBytes(t *testing.T, dir string) int64 {
	t.Helper()
	file, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Syncfs(int(file.Fd())); err != nil {
		t.Fatal(err)
	}
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	return int64(stat.Blocks-stat.Bfree) * stat.Bsize
}

// solidFile is a file without a hole, which everybody may read.
func solidFile(t *testing.T, name string, mib int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, bytes.Repeat([]byte("solid as a rock!"), mib<<20/16), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// The jailer copies the VMM's binary into each jail. Of the VM's own files nothing is copied: with reflinks (XFS) not even of
// a drive that the guest writes to; by hard links nothing that it only reads. What counts is what the filesystem has lost.
func TestAJailedVMCostsItsFilesystemTheVMMsBinaryAndNoCopies(t *testing.T) {
	options := Options{FirecrackerBinary: proof.LabFirecracker(t), JailerBinary: proof.LabJailer(t)}
	binary, err := os.Stat(options.FirecrackerBinary)
	if err != nil {
		t.Fatal(err)
	}
	const most = 1 << 20 // for records, logs and the filesystem's own books
	for _, reflinks := range []bool{true, false} {
		name := map[bool]string{true: "XFS", false: "hard links in memory"}[reflinks]
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if !reflinks {
				if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=768m,mode=0755"); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := unix.Unmount(dir, 0); err != nil {
						t.Error(err)
					}
				})
			}
			if drive.CanReflink(dir) != reflinks {
				t.Fatalf("%s: reflinks: %t", dir, !reflinks)
			}
			// Below it, with the files: a test of its own has a folder of its own, which goes before the mount does.
			t.Setenv("TMPDIR", dir)
			t.Run("VM", func(t *testing.T) {
				config := smallConfig(t)
				if err := os.Chmod(config.BootSource.KernelImagePath, 0o644); err != nil {
					t.Fatal(err)
				}
				config.BootSource.InitrdPath = solidFile(t, "initrd", 16)
				config.Drives = []Drive{{DriveID: "tools", PathOnHost: solidFile(t, "tools.img", 32), IsReadOnly: true}}
				if reflinks {
					config.Drives = append(config.Drives, Drive{DriveID: "data", PathOnHost: solidFile(t, "data.img", 32)})
				}
				m := newTestManager(t, options)
				snapshot := filepath.Join(t.TempDir(), "snapshot")
				costs := func(what string, begin func() *VM) *VM {
					before := usedBytes(t, dir)
					vm := begin()
					cost, written := usedBytes(t, dir)-before, int64(0)
					for _, d := range vm.look().rec.Home.Drives {
						written += d.Written
					}
					t.Logf("%s: %d bytes, of which %d are the VMM's binary; staging says that it wrote %d", what, cost, binary.Size(), written)
					if beyond := cost - binary.Size(); beyond < -most || beyond > most || written != 0 {
						t.Errorf("%s copied %d bytes; staging says %d", what, beyond, written)
					}
					return vm
				}
				vm := costs("a start", func() *VM { return start(t, m, config) })
				if err := vm.Pause(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, err := vm.Snapshot(t.Context(), snapshot, SnapshotOptions{}); err != nil {
					t.Fatal(err)
				}
				costs("a restore", func() *VM {
					vm := create(t, m, Config{})
					if err := vm.Restore(t.Context(), snapshot, RestoreOptions{}); err != nil {
						t.Fatal(err)
					}
					return vm
				})
			})
		})
	}
}
