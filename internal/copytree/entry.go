package copytree

import (
	"archive/tar"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// folder makes a folder, or takes the one that is there, and leaves it open for what follows.
func (u *unpacker) folder(parts []string, h *tar.Header) error {
	if len(parts) < len(u.open) && u.open[len(parts)].name == parts[len(parts)-1] { // a second entry for an open one
		u.open[len(parts)].entry = h
		return nil
	}
	if err := u.step(parts[len(parts)-1], 0o700); err != nil {
		return err
	}
	u.open[len(u.open)-1].entry = h
	u.Dirs++
	return nil
}

// file writes a file aside and gives it its name when it is whole.
func (u *unpacker) file(dir *os.Root, leaf string, h *tar.Header) error {
	if err := replaceable(dir, leaf); err != nil {
		return err
	}
	temp := aside()
	f, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, u.tar)
	u.Bytes += n
	if errors.Is(err, io.ErrUnexpectedEOF) || err == nil && u.Bytes > u.from.n {
		err = fmt.Errorf("%w: %d bytes of %d came", ErrArchive, n, h.Size)
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = u.dress(dir, temp, h)
	}
	return u.settle(dir, temp, leaf, err, &u.Files)
}

// symlink makes a link, whatever it leads to.
func (u *unpacker) symlink(dir *os.Root, leaf string, h *tar.Header) error {
	if h.Linkname == "" || len(h.Linkname) > maxName {
		return fmt.Errorf("%w: a link of %d bytes", ErrArchive, len(h.Linkname))
	}
	if err := replaceable(dir, leaf); err != nil {
		return err
	}
	temp := aside()
	err := dir.Symlink(h.Linkname, temp)
	if err == nil && u.keepsOwners() {
		err = dir.Lchown(temp, h.Uid, h.Gid)
	}
	return u.settle(dir, temp, leaf, err, &u.Links)
}

// link gives a file that is there another name. Archives of ours have none; those of others do.
func (u *unpacker) link(dir *os.Root, leaf string, h *tar.Header) error {
	old, err := u.locate(h.Linkname)
	if err != nil {
		return err
	}
	if len(old) == 0 {
		return fmt.Errorf("link to %q: %w", short(h.Linkname), ErrName)
	}
	root := u.open[0].Root
	for i := range old {
		info, err := root.Lstat(path.Join(old[:i+1]...))
		if err == nil && i < len(old)-1 && !info.IsDir() || err == nil && i == len(old)-1 && !info.Mode().IsRegular() {
			err = ErrName
		}
		if err != nil {
			return fmt.Errorf("link to %q: %w", short(h.Linkname), bare(err))
		}
	}
	if err := replaceable(dir, leaf); err != nil {
		return err
	}
	here := ""
	for _, f := range u.open[1:] {
		here = path.Join(here, f.name)
	}
	temp := aside()
	err = root.Link(path.Join(old...), path.Join(here, temp))
	if err == nil {
		// rename(2) does nothing, and leaves both, where both are names of one file already.
		if err = dir.Remove(leaf); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return u.settle(dir, temp, leaf, err, &u.Files)
}

// settle gives what was written aside its name, or takes it away.
func (u *unpacker) settle(dir *os.Root, temp, leaf string, err error, count *int) error {
	if err == nil {
		err = dir.Rename(temp, leaf)
	}
	if err != nil {
		dir.Remove(temp)
		return err
	}
	*count++
	return nil
}

// replaceable refuses to replace anything but files and links: neither a folder nor a device.
func replaceable(dir *os.Root, leaf string) error {
	info, err := dir.Lstat(leaf)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%w: a folder", ErrInTheWay)
	case info.Mode().IsRegular(), info.Mode().Type() == fs.ModeSymlink:
		return nil
	}
	return fmt.Errorf("%w: neither a file nor a link", ErrInTheWay)
}

// aside is a name that nobody else uses.
func aside() string { return ".smartvm-" + rand.Text() }

func (u *unpacker) keepsOwners() bool { return u.Archive && os.Geteuid() == 0 }

// dress gives a file or folder its owner, mode and time. The owner comes first: a change of it takes set-id bits away.
func (u *unpacker) dress(dir *os.Root, name string, h *tar.Header) error {
	if u.keepsOwners() {
		if err := dir.Lchown(name, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	keep := fs.ModePerm | fs.ModeSticky
	if u.Archive {
		keep |= fs.ModeSetuid | fs.ModeSetgid
	}
	if err := dir.Chmod(name, h.FileInfo().Mode()&keep); err != nil {
		return err
	}
	if !settable(h.ModTime) {
		return nil
	}
	return dir.Chtimes(name, h.ModTime, h.ModTime)
}
