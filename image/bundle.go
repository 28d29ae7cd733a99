package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Bundle is a base image on disk: a folder with a manifest and the files that it names.
type Bundle struct {
	Dir      string // absolute
	Manifest Manifest

	Kernel string // absolute path
	Initrd string // absolute path, "" for none
	Rootfs string // absolute path, "" for none
}

// BundleError says that a folder holds no usable bundle. It matches fs.ErrNotExist when there is none at all.
type BundleError struct {
	Dir string
	Err error
}

func (e *BundleError) Error() string {
	return fmt.Sprintf("bundle %s: %v (make it again: smartvm image build)", e.Dir, e.Err)
}

// Unwrap gives the cause.
func (e *BundleError) Unwrap() error { return e.Err }

// Open reads the bundle in the folder dir and holds its files against the manifest: paths inside the folder, sizes, and
// SHA-256. Sums are computed once; a note in the folder remembers size, time and inode of what was found good, and only
// a file that differs from it is read again. Where the folder cannot be written, all are read each time. An error is a
// *BundleError.
func Open(ctx context.Context, dir string) (Bundle, error) {
	b, list, err := openBundle(dir)
	if err != nil {
		return Bundle{}, err
	}
	known := readStamp(b.Dir)
	now := stamp{}
	fresh := true
	for _, a := range list {
		mark, err := markOf(a.path)
		if err != nil {
			return Bundle{}, &BundleError{b.Dir, err}
		}
		mark.SHA256 = a.sha256
		if mark.Size != a.size {
			return Bundle{}, &BundleError{b.Dir, fmt.Errorf("the %s has %d bytes, the manifest says %d", a.name, mark.Size, a.size)}
		}
		if known[a.name] != mark {
			fresh = false
			if err := a.verify(ctx); err != nil {
				return Bundle{}, &BundleError{b.Dir, err}
			}
		}
		now[a.name] = mark
	}
	if !fresh {
		now.write(b.Dir)
	}
	return b, nil
}

// Verify reads all files of the bundle again and holds them against the manifest. An error is a *BundleError.
func (b Bundle) Verify(ctx context.Context) error {
	list, err := b.Manifest.artifacts(b.Dir)
	if err != nil {
		return &BundleError{b.Dir, err}
	}
	for _, a := range list {
		if err := a.verify(ctx); err != nil {
			return &BundleError{b.Dir, err}
		}
	}
	return nil
}

// FitsKernel reports why the modules in the bundle's initrd do not fit the kernel at path, or nil. A kernel that has all
// its drivers built in works all the same; any other finds no devices.
func (b Bundle) FitsKernel(path string) error {
	if b.Manifest.KernelRelease == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	release, err := KernelRelease(f, info.Size())
	if err != nil {
		return fmt.Errorf("kernel %s: %w", path, err)
	}
	if release != b.Manifest.KernelRelease {
		return fmt.Errorf("the modules in %s are for kernel %s, and %s is %q: a kernel that needs modules finds no devices with them", b.Initrd, b.Manifest.KernelRelease, path, release)
	}
	return nil
}

// openBundle reads the manifest and finds the files that it names.
func openBundle(dir string) (Bundle, []artifact, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Bundle{}, nil, &BundleError{dir, err}
	}
	m, err := readManifest(abs)
	if err != nil {
		return Bundle{}, nil, &BundleError{abs, err}
	}
	list, err := m.artifacts(abs)
	if err != nil {
		return Bundle{}, nil, &BundleError{abs, err}
	}
	b := Bundle{Dir: abs, Manifest: m}
	for _, a := range list {
		switch a.name {
		case "kernel":
			b.Kernel = a.path
		case "initrd":
			b.Initrd = a.path
		case "rootfs":
			b.Rootfs = a.path
		}
	}
	return b, list, nil
}

// verify reads the file and compares its sum.
func (a artifact) verify(ctx context.Context) error {
	sum, err := hashFile(ctx, a.path)
	if err != nil {
		return err
	}
	if sum != a.sha256 {
		return fmt.Errorf("the %s is damaged: SHA-256 %s, the manifest says %s", a.name, sum, a.sha256)
	}
	return nil
}

// stamp remembers by artifact what was found good. It speeds up, it does not protect: who can write it can as well
// write the manifest.
type stamp map[string]mark

// mark is what changes when a file does.
type mark struct {
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtimeNs"`
	Inode  uint64 `json:"inode"` // 0 where the system has none
	SHA256 string `json:"sha256"`
}

// markOf looks at a file: a regular one, not a link.
func markOf(path string) (mark, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return mark{}, err
	}
	if !info.Mode().IsRegular() {
		return mark{}, fmt.Errorf("%s is not a regular file", path)
	}
	return mark{Size: info.Size(), MTime: info.ModTime().UnixNano(), Inode: inodeOf(info)}, nil
}

// readStamp reads the note; without a readable one nothing is known.
func readStamp(dir string) stamp {
	f, err := os.Open(filepath.Join(dir, stampName))
	if err != nil {
		return nil
	}
	defer f.Close()
	var s stamp
	if json.NewDecoder(bounded(f, maxManifest)).Decode(&s) != nil {
		return nil
	}
	return s
}

// write replaces the note, whole or not at all. A failure costs only time at the next Open, so it is no error.
func (s stamp) write(dir string) {
	data, err := json.Marshal(s)
	if err != nil {
		return
	}
	f, err := os.CreateTemp(dir, stampName+".*")
	if err != nil {
		return
	}
	_, err = f.Write(data)
	// Other users open the bundle, too.
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, stampName))
	}
	if err != nil {
		os.Remove(f.Name())
	}
}

// hashFile returns a file's SHA-256 in hex.
func hashFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := copyContext(ctx, h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// hashBytes returns data's SHA-256 in hex.
func hashBytes(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

var _ io.Writer = (*hashedFile)(nil)

// hashedFile is a new file whose sum is known when it is written.
type hashedFile struct {
	*os.File
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
	size int64
}

// createHashed makes a new file.
func createHashed(path string) (*hashedFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	return &hashedFile{File: f, sum: sha256.New()}, nil
}

// Write implements io.Writer.
func (h *hashedFile) Write(p []byte) (int, error) {
	n, err := h.File.Write(p)
	h.sum.Write(p[:n])
	h.size += int64(n)
	return n, err
}

// finish writes the file through to the disk, closes it and returns its sum in hex.
func (h *hashedFile) finish() (string, error) {
	if err := errors.Join(h.Sync(), h.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.sum.Sum(nil)), nil
}
