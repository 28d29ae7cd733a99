package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// squashfs is a drive under way: a tar archive is written, mksquashfs makes a file system of it. So a drive has root's
// files, devices and modes without anybody being root. Nothing is packed: what TCG would save in reading it would spend in
// unpacking.
type squashfs struct {
	*tar.Writer
	target string
	aside  string
	cmd    *exec.Cmd
	pipe   io.WriteCloser
	said   bytes.Buffer
	dirs   map[string]bool
}

func newSquashfs(ctx context.Context, target string) (*squashfs, error) {
	s := &squashfs{target: target, aside: target + ".new", dirs: map[string]bool{}}
	os.Remove(s.aside)
	binary, err := findProgram("mksquashfs", "squashfs-tools")
	if err != nil {
		return nil, err
	}
	s.cmd = exec.CommandContext(ctx, binary, "-", s.aside, "-tar", "-noappend", "-no-progress", "-quiet",
		"-noI", "-noD", "-noF", "-noX", "-no-xattrs")
	s.cmd.WaitDelay = aptGrace
	s.cmd.Stdout, s.cmd.Stderr = &s.said, &s.said
	if s.pipe, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("mksquashfs: %w", err)
	}
	s.Writer = tar.NewWriter(s.pipe)
	return s, nil
}

// commit ends the archive and gives the drive its name. With an error, what was under way is removed.
func (s *squashfs) commit(err error) error {
	if err == nil {
		err = s.Writer.Close()
	}
	s.pipe.Close()
	waited := s.cmd.Wait()
	if waited != nil {
		// Then the writer's error is only that the pipe was closed.
		err = fmt.Errorf("mksquashfs: %w: %s", waited, strings.TrimSpace(s.said.String()))
	}
	if err == nil {
		err = os.Rename(s.aside, s.target)
	}
	if err != nil {
		os.Remove(s.aside)
		return fmt.Errorf("make %s: %w", filepath.Base(s.target), err)
	}
	return nil
}

// folder adds a folder and those above it; one that is there stays as it is.
func (s *squashfs) folder(name string, mode int64) error {
	name = strings.Trim(name, "/")
	if name == "" || name == "." || s.dirs[name] {
		return nil
	}
	if err := s.folder(path.Dir(name), 0o755); err != nil {
		return err
	}
	s.dirs[name] = true
	return s.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

func (s *squashfs) data(name string, mode int64, data []byte) error {
	if err := s.folder(path.Dir(name), 0o755); err != nil {
		return err
	}
	if err := s.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: time.Unix(1, 0)}); err != nil {
		return err
	}
	_, err := s.Write(data)
	return err
}

func (s *squashfs) link(name, target string) error {
	if err := s.folder(path.Dir(name), 0o755); err != nil {
		return err
	}
	return s.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
}

// file copies a regular file of this machine.
func (s *squashfs) file(name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", from)
	}
	if err := s.folder(path.Dir(name), 0o755); err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime()}
	if err := s.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(s, f)
	return err
}

// any copies a file or a folder of this machine; from nothing it makes an empty folder.
func (s *squashfs) any(name, from string) error {
	if from == "" {
		return s.folder(name, 0o755)
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return s.tree(name, from)
	}
	return s.file(name, from)
}

// tree copies a folder with the files and links in it.
func (s *squashfs) tree(name, from string) error {
	return filepath.WalkDir(from, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		to := path.Join(name, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			return s.folder(to, 0o755)
		case d.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return s.link(to, target)
		case d.Type().IsRegular():
			return s.file(to, p)
		}
		return nil
	})
}

// findProgram finds a program of a Debian package, also in the folders that are not in a plain user's PATH.
func findProgram(name, pkg string) (string, error) {
	found, err := exec.LookPath(name)
	if err == nil {
		return filepath.Abs(found)
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return found, nil
		}
	}
	return "", &UnavailableError{fmt.Errorf("%s is not installed: install Debian's package %s (make deps)", name, pkg)}
}
