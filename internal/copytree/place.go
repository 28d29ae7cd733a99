package copytree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// place finds where an archive with the top-level name base goes: the folder that becomes the root, and the names in it
// that stand in place of base. The rules are docker cp's:
//
//	src is a file,   dst does not exist            it is written to dst, whose folder must exist
//	                 … and ends in a slash         an error
//	                 dst is a file                 it is replaced
//	                 dst is a folder               it is written into it, under its own name
//	src is a folder, dst does not exist            dst is made and gets what is in it
//	                 dst is a file                 an error
//	                 dst is a folder               it goes into it, under its own name
//	                 … and src ends in "/."        what is in it goes into dst
//
// A symbolic link at dst is followed. With base "" the archive may hold any names, and dst must be a folder.
func place(dst, base string, isFolder bool) (dir string, prefix []string, err error) {
	if dst == "" {
		return "", nil, errors.New("no target")
	}
	info, err := os.Stat(dst)
	switch {
	case err == nil && info.IsDir():
		if base != "" && base != "." {
			prefix = []string{base}
		}
		return dst, prefix, nil
	case err == nil && (isFolder || base == "" || base == "."):
		return "", nil, fmt.Errorf("%q: %w", dst, syscall.ENOTDIR)
	case err == nil:
		real, err := filepath.EvalSymlinks(dst)
		if err != nil {
			return "", nil, err
		}
		return filepath.Dir(real), []string{filepath.Base(real)}, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", nil, fmt.Errorf("%q: %w", dst, bare(err))
	case base == "", !isFolder && asFolder(dst):
		return "", nil, fmt.Errorf("folder %q: %w", dst, syscall.ENOENT)
	}
	abs, err := filepath.Abs(dst)
	if err != nil {
		return "", nil, err
	}
	if _, err := os.Lstat(abs); err == nil {
		return "", nil, fmt.Errorf("%q is a symbolic link that leads nowhere: %w", dst, syscall.ENOENT)
	}
	parent := filepath.Dir(abs)
	if info, err = os.Stat(parent); err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return "", nil, fmt.Errorf("folder %q: %w", parent, bare(err))
	}
	return parent, []string{filepath.Base(abs)}, nil
}
