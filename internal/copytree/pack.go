package copytree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxUnsized is how much is read of a file that says its size is 0, as those in /proc do.
const maxUnsized = 1 << 20

// Pack writes an archive of src to w. A symbolic link is packed as a link, unless src ends in a slash; "src/." packs what
// is in a folder. What is gone before it could be read is left out; below a folder, what Linux makes up (/proc, /sys and
// their like) is skipped and reported.
func Pack(w io.Writer, src string) (Report, error) {
	base, err := Base(src)
	if err != nil {
		return Report{}, err
	}
	info, err := os.Lstat(src)
	if err != nil {
		return Report{}, err
	}
	p := &packer{tar: tar.NewWriter(w)}
	if info.IsDir() {
		var root *os.Root
		if root, err = os.OpenRoot(src); err == nil {
			err = p.folder(root, info, base, 0)
			root.Close()
		}
	} else if base == "." {
		err = &os.PathError{Op: "open", Path: src, Err: syscall.ENOTDIR}
	} else {
		var root *os.Root
		parent, leaf := filepath.Split(src)
		if parent == "" {
			parent = "."
		}
		if root, err = os.OpenRoot(parent); err == nil {
			err = p.add(root, leaf, base, 0)
			root.Close()
		}
	}
	if err == nil {
		err = p.tar.Close()
	}
	return p.done(), err
}

// packer is an archive that is being made.
type packer struct {
	tally
	tar *tar.Writer
}

// add packs what is called leaf in a folder, under a name.
func (p *packer) add(dir *os.Root, leaf, name string, depth int) error {
	info, err := dir.Lstat(leaf)
	if err != nil {
		return p.vanished(name, err)
	}
	switch info.Mode().Type() {
	case 0:
		return p.file(dir, leaf, name, info)
	case fs.ModeDir:
		child, err := dir.OpenRoot(leaf)
		if err != nil {
			return p.vanished(name, err)
		}
		defer child.Close()
		return p.folder(child, info, name, depth)
	case fs.ModeSymlink:
		target, err := dir.Readlink(leaf)
		if err != nil {
			return p.vanished(name, err)
		}
		p.Links++
		h := header(info, name)
		h.Typeflag, h.Linkname = tar.TypeSymlink, filepath.ToSlash(target)
		return p.tar.WriteHeader(h)
	}
	p.skip(name)
	return nil
}

// vanished passes over what was listed and is gone.
func (p *packer) vanished(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) && strings.Contains(name, "/") {
		return nil
	}
	return fmt.Errorf("%q: %w", name, bare(err))
}

// folder packs a folder and what is in it. That it is what was looked at, and no other that took its name, is asked of
// the open one.
func (p *packer) folder(dir *os.Root, info fs.FileInfo, name string, depth int) error {
	if depth >= maxDepth {
		return fmt.Errorf("%q: more than %d folders deep", short(name), maxDepth)
	}
	f, err := dir.Open(".")
	if err != nil {
		return p.vanished(name, err)
	}
	open, err := f.Stat()
	if err == nil && !os.SameFile(info, open) {
		err = errChanged
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("%q: %w", name, bare(err))
	}
	if depth > 0 && madeUp(f) {
		f.Close()
		p.skip(name)
		return nil
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if err != nil {
		return fmt.Errorf("%q: %w", name, bare(err))
	}
	h := header(info, name+"/")
	h.Typeflag = tar.TypeDir
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	p.Dirs++
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if err := p.add(dir, e.Name(), path.Join(name, e.Name()), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// errChanged says that a name led to something else from one moment to the next.
var errChanged = errors.New("changed while it was copied")

// file packs a file with the length that it has now. It is opened without waiting, for the case that a FIFO has taken its
// name.
func (p *packer) file(dir *os.Root, leaf, name string, info fs.FileInfo) error {
	f, err := dir.OpenFile(leaf, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return p.vanished(name, err)
	}
	defer f.Close()
	open, err := f.Stat()
	if err == nil && !os.SameFile(info, open) {
		err = errChanged
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, bare(err))
	}
	h := header(open, name)
	h.Typeflag, h.Size = tar.TypeReg, open.Size()
	var from io.Reader = f
	if h.Size == 0 {
		b, err := io.ReadAll(io.LimitReader(f, maxUnsized))
		if err != nil {
			return fmt.Errorf("%q: %w", name, bare(err))
		}
		h.Size, from = int64(len(b)), bytes.NewReader(b)
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyN(p.tar, from, h.Size)
	p.Bytes += n
	if err == io.EOF {
		err = errChanged
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	p.Files++
	return nil
}

// header holds what all kinds of entries have. It is made here and not by tar.FileInfoHeader, which asks for the names of
// users.
func header(info fs.FileInfo, name string) *tar.Header {
	mode := int64(info.Mode().Perm())
	for bit, value := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if info.Mode()&bit != 0 {
			mode |= value
		}
	}
	h := &tar.Header{Name: name, Mode: mode, Format: tar.FormatPAX}
	if t := info.ModTime(); settable(t) {
		h.ModTime = t
	}
	h.Uid, h.Gid = owner(info)
	return h
}

// settable tells whether a time can be told in nanoseconds, which setting it takes.
func settable(t time.Time) bool { return t.Year() > 1700 && t.Year() < 2250 }

// bare is an error without the path around it, which is relative to a folder that nobody knows.
func bare(err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err
	}
	return err
}
