package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// contents is what packages hold of use here: regular files by path, relative to "/", slashes, without "usr/": since
// Debian merged /usr a file may be found under both names.
type contents map[string]packagedFile

// packagedFile is a regular file of a package.
type packagedFile interface {
	size() int64
	// read opens the file while use runs.
	read(use func(io.ReaderAt) error) error
}

// wantedPath gives the path under which contents has the file, and whether it is wanted at all.
func wantedPath(name string) (string, bool) {
	name = strings.TrimPrefix(name, "usr/")
	wanted := name == "bin/busybox" || strings.HasPrefix(name, "boot/vmlinu") || strings.HasPrefix(name, "lib/modules/")
	return name, wanted
}

// names returns the paths that match, sorted.
func (c contents) names(match func(string) bool) []string {
	var found []string
	for name := range c {
		if match(name) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// readAll returns a file's bytes; more than limit of them are an error.
func (c contents) readAll(name string, limit int64) ([]byte, error) {
	f, ok := c[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if f.size() > limit {
		return nil, fmt.Errorf("%s: %d bytes are %w (%d)", name, f.size(), errTooLarge, limit)
	}
	data := make([]byte, f.size())
	err := f.read(func(r io.ReaderAt) error {
		_, err := io.ReadFull(io.NewSectionReader(r, 0, f.size()), data)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// Package is a package that a bundle was made from.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"` // "" where an unpacked package does not tell
	SHA256  string `json:"sha256,omitempty"`  // of the .deb; "" for an unpacked package
}

// packages are the packages that an image is made from, read.
type packages struct {
	list  []Package
	files contents
	roots []*os.Root
}

// Close closes the folders of unpacked packages.
func (p *packages) Close() error {
	var errs []error
	for _, r := range p.roots {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}

// add reads what is at path: a .deb, an unpacked package, or a folder with several of both.
func (p *packages) add(ctx context.Context, path string, spool *os.File) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("package: %w", err)
	}
	if !info.IsDir() {
		return p.addDeb(ctx, path, spool)
	}
	if isUnpacked(path) {
		return p.addFolder(path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("package: %w", err)
	}
	found := false
	for _, e := range entries {
		inner := filepath.Join(path, e.Name())
		switch {
		case e.Type().IsRegular() && strings.HasSuffix(e.Name(), ".deb"):
			err = p.addDeb(ctx, inner, spool)
		case e.IsDir() && isUnpacked(inner):
			err = p.addFolder(inner)
		default:
			continue
		}
		if err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("package: %s holds neither a .deb nor an unpacked package (with boot/ and lib/modules/ in it)", path)
	}
	return nil
}

// addDeb reads a .deb.
func (p *packages) addDeb(ctx context.Context, path string, spool *os.File) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("package: %w", err)
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return fmt.Errorf("package: %w", err)
	}
	if !stat.Mode().IsRegular() {
		return fmt.Errorf("package: %s is neither a file nor a folder", path)
	}
	info, files, err := readDeb(ctx, f, stat.Size(), spool)
	if err != nil {
		return fmt.Errorf("package %s: %w", path, err)
	}
	sum, err := hashFile(ctx, path)
	if err != nil {
		return fmt.Errorf("package: %w", err)
	}
	return p.merge(Package{Name: info.Name, Version: info.Version, SHA256: sum}, files)
}

// addFolder indexes an unpacked package. Links are not followed, and the folder is not left.
func (p *packages) addFolder(path string) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return fmt.Errorf("package: %w", err)
	}
	p.roots = append(p.roots, root)
	files := contents{}
	for _, top := range []string{"boot", "bin", "lib/modules", "usr/bin", "usr/lib/modules"} {
		if !isRealFolder(root, top) {
			continue
		}
		err := fs.WalkDir(root.FS(), top, func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			key, wanted := wantedPath(name)
			if !wanted {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			files[key] = unpacked{root, name, info.Size()}
			return nil
		})
		if err != nil {
			return fmt.Errorf("package %s: %w", path, err)
		}
	}
	pkg := Package{Name: filepath.Base(path)}
	if control, err := root.Open("DEBIAN/control"); err == nil {
		info, err := parseControl(control)
		control.Close()
		if err != nil {
			return fmt.Errorf("package %s: DEBIAN/control: %w", path, err)
		}
		pkg = Package{Name: info.Name, Version: info.Version}
	} else if docs, err := fs.ReadDir(root.FS(), "usr/share/doc"); err == nil && len(docs) == 1 {
		pkg.Name = docs[0].Name() // a package's own folder, as Debian's policy 12.5 asks for
	}
	return p.merge(pkg, files)
}

// merge takes a package's files in; the same file in two packages is an error, as one could not tell which is meant.
func (p *packages) merge(pkg Package, files contents) error {
	if p.files == nil {
		p.files = contents{}
	}
	for name, f := range files {
		if _, twice := p.files[name]; twice {
			return fmt.Errorf("package %s: another package has %s, too: give only one of them", pkg.Name, name)
		}
		p.files[name] = f
	}
	p.list = append(p.list, pkg)
	return nil
}

// isRealFolder reports whether name is a folder that is reached over no link: with a merged /usr, lib is a link to usr/lib.
func isRealFolder(root *os.Root, name string) bool {
	for i := range len(name) + 1 {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if info, err := root.Lstat(name[:i]); err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}

// isUnpacked reports whether a folder looks like the root of an unpacked package.
func isUnpacked(path string) bool {
	for _, sign := range []string{"boot", "lib/modules", "usr/lib/modules", "bin/busybox", "usr/bin/busybox"} {
		if _, err := os.Lstat(filepath.Join(path, sign)); err == nil {
			return true
		}
	}
	return false
}

// unpacked is a file of an unpacked package.
type unpacked struct {
	root  *os.Root
	name  string
	bytes int64
}

func (u unpacked) size() int64 { return u.bytes }
func (u unpacked) read(use func(io.ReaderAt) error) error {
	f, err := u.root.Open(u.name)
	if err != nil {
		return err
	}
	defer f.Close()
	return use(f)
}
