// Package cpio writes the archive that the Linux kernel unpacks into its first root filesystem: "newc", as described
// in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
//
// An archive depends on what is written and on nothing else: every owner is root, every time is the one given, and
// inode numbers count from 1. So equal contents give equal bytes.
package cpio

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// The types of a file, as in stat(2).
const (
	TypeFIFO    = 0o010000
	TypeChar    = 0o020000
	TypeDir     = 0o040000
	TypeBlock   = 0o060000
	TypeRegular = 0o100000
	TypeSymlink = 0o120000
)

// maxName bounds a member's name: the kernel ignores members whose name is longer than PATH_MAX (init/initramfs.c).
const maxName = 4096

// Header describes one member.
type Header struct {
	Name  string // relative, slashes, without "./"
	Mode  uint32 // one Type with the permission bits
	Size  int64  // bytes of data: a regular file's content, a link's target
	Major uint32 // device numbers, for TypeChar and TypeBlock
	Minor uint32
}

// Writer writes an archive. The kernel makes no missing folders: write a folder before what is in it.
type Writer struct {
	w       io.Writer
	mtime   uint32
	inode   uint32
	written int64 // bytes so far, for the padding
	left    int64 // bytes of data that the present member still lacks
	err     error
}

// NewWriter returns a Writer to w. Every member gets mtime, in seconds since 1970.
func NewWriter(w io.Writer, mtime uint32) *Writer { return &Writer{w: w, mtime: mtime} }

// WriteHeader begins a member; its data follows by Write.
func (w *Writer) WriteHeader(h Header) error {
	if w.err != nil {
		return w.err
	}
	if w.left > 0 {
		return w.fail(fmt.Errorf("cpio: the member before %q lacks %d bytes", h.Name, w.left))
	}
	if err := check(h); err != nil {
		return w.fail(err)
	}
	w.inode++
	links := 1
	if h.Mode&0o170000 == TypeDir {
		links = 2
	}
	return w.header(h, w.inode, links)
}

// Write writes data of the present member.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.left {
		return 0, w.fail(errors.New("cpio: more data than the header says"))
	}
	n, err := w.w.Write(p)
	w.written += int64(n)
	w.left -= int64(n)
	if err != nil {
		return n, w.fail(err)
	}
	if w.left == 0 {
		return n, w.pad()
	}
	return n, nil
}

// Close ends the archive. It does not close the underlying writer.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.left > 0 {
		return w.fail(fmt.Errorf("cpio: the last member lacks %d bytes", w.left))
	}
	if err := w.header(Header{Name: "TRAILER!!!"}, 0, 1); err != nil {
		return err
	}
	w.err = errors.New("cpio: the archive is closed")
	return nil
}

// header writes the fixed part, 13 numbers of 8 hex digits after the magic, and the name, padded to 4 bytes.
func (w *Writer) header(h Header, inode uint32, links int) error {
	mtime := w.mtime
	if inode == 0 { // the trailer is all zeros
		mtime = 0
	}
	n, err := fmt.Fprintf(w.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		inode, h.Mode, 0, 0, links, mtime, h.Size, 0, 0, h.Major, h.Minor, len(h.Name)+1, 0, h.Name)
	w.written += int64(n)
	if err != nil {
		return w.fail(err)
	}
	w.left = h.Size
	return w.pad()
}

// pad fills up to the next multiple of 4.
func (w *Writer) pad() error {
	var zeros [3]byte
	n, err := w.w.Write(zeros[:-w.written&3])
	w.written += int64(n)
	if err != nil {
		return w.fail(err)
	}
	return nil
}

func (w *Writer) fail(err error) error {
	w.err = err
	return err
}

func check(h Header) error {
	switch {
	case h.Name == "" || len(h.Name) >= maxName || strings.HasPrefix(h.Name, "/") || strings.ContainsRune(h.Name, 0):
		return fmt.Errorf("cpio: %q is no name for a member", h.Name)
	case h.Size < 0 || h.Size > math.MaxUint32:
		return fmt.Errorf("cpio: %s: %d bytes do not fit: a member holds less than 4 GiB", h.Name, h.Size)
	}
	switch h.Mode & 0o170000 {
	case TypeRegular, TypeSymlink:
		return nil
	case TypeFIFO, TypeChar, TypeDir, TypeBlock:
		if h.Size > 0 {
			return fmt.Errorf("cpio: %s: only a regular file and a link have data", h.Name)
		}
		return nil
	}
	return fmt.Errorf("cpio: %s: mode %#o has no type", h.Name, h.Mode)
}
