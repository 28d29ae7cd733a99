package copytree

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Options are how an archive is unpacked.
type Options struct {
	// Base is the top-level name that the archive must have: every entry is it or below it. "." is a folder's contents,
	// "" an archive of any names.
	Base string
	// Archive keeps numeric owners, where this process is root, and the set-user-id and set-group-id bits. Without it
	// everything belongs to this process's user.
	Archive bool
}

// maxTrailer is what may follow an archive's end, in bytes: tar fills up to a record's length.
const maxTrailer = 1 << 20

// Unpack unpacks an archive at dst (see place for where that is) and reads it to its end. What was unpacked before an
// error stays, but never a part of a file. Errors wrap ErrName, ErrArchive, ErrInTheWay or the system's own.
//
// Folders get their mode and time when the archive leaves them. The time of a link itself is not kept.
func Unpack(r io.Reader, dst string, o Options) (Report, error) {
	counted := &counter{r: r}
	u := &unpacker{Options: o, from: counted, tar: tar.NewReader(counted)}
	err := u.run(dst)
	if err == nil {
		var n int64
		if n, err = io.Copy(io.Discard, io.LimitReader(r, maxTrailer+1)); err == nil && n > maxTrailer {
			err = fmt.Errorf("%w: it goes on after its end", ErrArchive)
		}
	}
	return u.done(), err
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// unpacker is an archive that is being unpacked.
type unpacker struct {
	tally
	Options
	from   *counter
	tar    *tar.Reader
	prefix []string
	open   []folder // the target folder, and those below it that lead to the last entry
}

// folder is an open folder. No link led to it.
type folder struct {
	*os.Root
	name  string
	entry *tar.Header // what the archive says of it; nil for nothing
}

func (u *unpacker) run(dst string) (err error) {
	h, err := u.next()
	if err == io.EOF && u.Base != "" {
		return fmt.Errorf("%w: it is empty", ErrArchive)
	}
	if err != nil && err != io.EOF {
		return err
	}
	dir, prefix, placeErr := place(dst, u.Base, h != nil && h.Typeflag == tar.TypeDir)
	if placeErr != nil {
		return placeErr
	}
	root, rootErr := os.OpenRoot(dir)
	if rootErr != nil {
		return rootErr
	}
	u.prefix, u.open = prefix, []folder{{Root: root}}
	defer func() {
		err = errors.Join(err, u.leave(0))
	}()
	for ; err == nil; h, err = u.next() {
		if err := u.entry(h); err != nil {
			return err
		}
	}
	if err == io.EOF {
		err = nil
	}
	return err
}

// next returns the next entry. Sparse files are refused: they would be longer than what was sent.
func (u *unpacker) next() (*tar.Header, error) {
	for {
		h, err := u.tar.Next()
		if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: %w", ErrArchive, err)
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		sparse := h.Typeflag == tar.TypeGNUSparse
		for key := range h.PAXRecords {
			sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
		}
		if sparse {
			return nil, fmt.Errorf("%q: %w: a sparse file", short(h.Name), ErrArchive)
		}
		return h, nil
	}
}

// entry unpacks one entry.
func (u *unpacker) entry(h *tar.Header) error {
	parts, err := u.locate(h.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("%q: %w", h.Name, ErrName)
		}
		return nil // the target folder itself stays as it is
	}
	dir, err := u.enter(parts[:len(parts)-1])
	if err != nil {
		return fmt.Errorf("%q: %w", short(h.Name), err)
	}
	leaf := parts[len(parts)-1]
	switch h.Typeflag {
	case tar.TypeDir:
		err = u.folder(parts, h)
	case tar.TypeReg:
		err = u.file(dir, leaf, h)
	case tar.TypeSymlink:
		err = u.symlink(dir, leaf, h)
	case tar.TypeLink:
		err = u.link(dir, leaf, h)
	default:
		u.skip(h.Name)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", short(h.Name), bare(err))
	}
	return nil
}

// locate turns an archive's name into the names from the target folder on.
func (u *unpacker) locate(name string) ([]string, error) {
	parts, err := components(name)
	if err != nil {
		return nil, err
	}
	if u.Base != "" && u.Base != "." {
		if len(parts) == 0 || parts[0] != u.Base {
			return nil, fmt.Errorf("%q: %w: the archive is one of %q", short(name), ErrName, u.Base)
		}
		parts = parts[1:]
	}
	return slices.Concat(u.prefix, parts), nil
}

// enter makes the folder with these names from the target folder on the innermost open one and returns it. Folders that
// are missing are made; a symbolic link in the place of one is an error.
func (u *unpacker) enter(parts []string) (*os.Root, error) {
	same := 0
	for same < len(parts) && same+1 < len(u.open) && u.open[same+1].name == parts[same] {
		same++
	}
	if err := u.leave(same + 1); err != nil {
		return nil, err
	}
	for i, part := range parts[same:] {
		err := u.step(part, 0o755)
		if err != nil {
			return nil, fmt.Errorf("folder %q: %w", short(strings.Join(parts[:same+i+1], "/")), bare(err))
		}
	}
	return u.open[len(u.open)-1].Root, nil
}

// step opens a folder in the innermost one, or makes it there.
func (u *unpacker) step(name string, mode fs.FileMode) error {
	dir := u.open[len(u.open)-1]
	child, err := openFolder(dir.Root, name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = dir.Mkdir(name, mode); err == nil {
			child, err = openFolder(dir.Root, name)
		}
	}
	if err == nil {
		u.open = append(u.open, folder{Root: child, name: name})
	}
	return err
}

// openFolder opens a folder and nothing else: neither a file nor a link.
func openFolder(dir *os.Root, name string) (*os.Root, error) {
	info, err := dir.Lstat(name)
	switch {
	case err != nil:
		return nil, err
	case info.Mode().Type() == fs.ModeSymlink:
		return nil, fmt.Errorf("%w: a symbolic link leads elsewhere", ErrName)
	case !info.IsDir():
		return nil, fmt.Errorf("%w: it is no folder", ErrInTheWay)
	}
	child, err := dir.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	if open, err := child.Lstat("."); err != nil || !os.SameFile(info, open) {
		child.Close()
		return nil, errChanged
	}
	return child, nil
}

// leave closes all open folders but the first so many, innermost first, and gives them what the archive says of them.
func (u *unpacker) leave(keep int) error {
	var failed error
	for i := len(u.open) - 1; i >= keep; i-- {
		f := u.open[i]
		if f.entry != nil {
			if err := u.dress(f.Root, ".", f.entry); err != nil && failed == nil {
				failed = fmt.Errorf("%q: %w", short(f.entry.Name), bare(err))
			}
		}
		f.Close()
	}
	u.open = u.open[:min(keep, len(u.open))]
	return failed
}
