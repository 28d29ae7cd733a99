package drive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// UpperSuffix ends the name of an overlay's drive, behind the name that was asked for.
const UpperSuffix = ".upper.ext4"

// Stage makes a drive for one VM from the image in req. It tries the methods in the order of [Method]'s constants. On
// an error, or when ctx ends, it leaves nothing behind. The image is opened once and never written to.
func Stage(ctx context.Context, req Request) (Staged, error) {
	src, err := openSource(req.Source, unix.O_RDONLY)
	if err != nil {
		return Staged{}, err
	}
	defer src.file.Close()

	staged, err := stage(ctx, src, req)
	if err != nil {
		return Staged{}, fmt.Errorf("stage %s in %s: %w", req.Source, req.Dir, err)
	}
	return staged, nil
}

func stage(ctx context.Context, src *source, req Request) (Staged, error) {
	if err := ctx.Err(); err != nil {
		return Staged{}, err
	}
	dir, err := openFolder(req.Dir)
	if err != nil {
		return Staged{}, err
	}
	defer dir.Close()

	staged := Staged{Path: filepath.Join(req.Dir, req.Name), Size: src.size}
	dst, err := create(dir, req.Name)
	if err != nil {
		return Staged{}, err
	}
	defer dst.Close()
	switch err := reflink(dst, src); {
	case err == nil:
		staged.Method = Reflink
		return staged, nil
	case !errors.Is(err, errNoReflink):
		return Staged{}, errors.Join(err, discard(dir, req.Name))
	}

	if req.AllowOverlay {
		if err := discard(dir, req.Name); err != nil {
			return Staged{}, err
		}
		staged.Method, staged.Path = Overlay, req.Source
		staged.Upper = filepath.Join(req.Dir, req.Name+UpperSuffix)
		staged.Written, err = createSparse(ctx, dir, req.Name+UpperSuffix, overlaySize(req))
		if err != nil {
			return Staged{}, err
		}
		return staged, nil
	}

	staged.Method = Copy
	if staged.Written, err = copyData(ctx, dst, src); err != nil {
		return Staged{}, errors.Join(err, discard(dir, req.Name))
	}
	return staged, nil
}

func overlaySize(req Request) int64 {
	if req.OverlaySize != 0 {
		return req.OverlaySize
	}
	return DefaultOverlaySize
}

// Remove takes away what Stage made, never the source. What is gone already is no error.
func (s Staged) Remove() error {
	made := s.Path
	if s.Method == Overlay {
		made = s.Upper
	}
	if made == "" {
		return nil
	}
	if err := os.Remove(made); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove staged drive: %w", err)
	}
	return nil
}

// Clone makes dst, which must not exist, a copy of the drive src: a reflink where the filesystem can, else a copy that
// keeps holes. It does not wait until the copy is on disk. On an error, or when ctx ends, dst is not there.
func Clone(ctx context.Context, dst, src string) (Staged, error) {
	return Stage(ctx, Request{Source: src, Dir: filepath.Dir(dst), Name: filepath.Base(dst)})
}

// CreateSparse makes an empty drive of size bytes at path, which must not exist, formatted ext4 so that a guest can
// mount it. It costs a few blocks whatever its size.
func CreateSparse(ctx context.Context, path string, size int64) error {
	dir, err := openFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, err := createSparse(ctx, dir, filepath.Base(path), size); err != nil {
		return fmt.Errorf("create drive %s: %w", path, err)
	}
	return nil
}

func createSparse(ctx context.Context, dir *os.File, name string, size int64) (written int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	f, err := create(dir, name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if written, err = formatExt4(f, size); err != nil {
		return 0, errors.Join(explainFull(err), discard(dir, name))
	}
	return written, nil
}

// openFolder opens the folder in which something is made; from there on its descriptor is used, not its path.
func openFolder(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// create makes a file that only this user can open. O_EXCL: whatever is there already, a link too, is not ours.
func create(dir *os.File, name string) (*os.File, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("%q is no file name", name)
	}
	path := filepath.Join(dir.Name(), name)
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, explainFull(&fs.PathError{Op: "create", Path: path, Err: err})
	}
	return os.NewFile(uintptr(fd), path), nil
}

func discard(dir *os.File, name string) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	return nil
}
