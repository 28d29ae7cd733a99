// Package copytree packs a file or a folder into a tar archive and unpacks one. Host and guest agent share it: what one
// packs the other unpacks.
//
// An archive has one top-level name, that of the file or folder that was packed, or "." for a folder's contents. It holds
// files, folders and symbolic links, with modes, times to the nanosecond and numeric owners; a file with several names
// is packed several times. Device nodes, FIFOs and sockets are skipped and reported.
//
// Unpack trusts no archive. It writes through an os.Root, follows no symbolic link below it, and replaces a file only by
// one that is whole.
package copytree

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// Report is what was packed or unpacked.
type Report struct {
	Files, Dirs, Links int
	Bytes              int64    // of the files' contents
	Skipped            []string // names of what cannot be copied; after maxSkipped of them one entry says how many more
}

const (
	// maxSkipped bounds the names in a report.
	maxSkipped = 256
	// maxDepth is how many folders deep a tree may be: each open one costs a descriptor.
	maxDepth = 256
	// maxName bounds an entry's name and a link's target, in bytes: Linux's own limit.
	maxName = 4096
)

var (
	// ErrName says that an archive's entry would be written outside the target, or that its name is none.
	ErrName = errors.New("not a name in the target folder")
	// ErrArchive says that a stream is no archive, or one that holds what no archive of ours does.
	ErrArchive = errors.New("not a valid archive")
	// ErrInTheWay says that something is there already that is not replaced.
	ErrInTheWay = errors.New("something else is there")
)

// tally makes a report.
type tally struct {
	Report
	more int
}

func (t *tally) skip(name string) {
	if len(t.Skipped) < maxSkipped {
		t.Skipped = append(t.Skipped, name)
		return
	}
	t.more++
}

func (t *tally) done() Report {
	r := t.Report
	if t.more > 0 {
		r.Skipped = append(r.Skipped, fmt.Sprintf("and %d more", t.more))
	}
	return r
}

// Contents tells that a path means what is in a folder: it ends in "/.", or is "." or "/".
func Contents(p string) bool {
	p = filepath.ToSlash(p)
	return p == "." || strings.HasSuffix(p, "/.") || path.Clean(p) == "/"
}

// Base is the top-level name of the archive that Pack makes of a path of this machine.
func Base(src string) (string, error) {
	if Contents(src) {
		return ".", nil
	}
	abs, err := filepath.Abs(src)
	if err != nil {
		return "", err
	}
	if base := filepath.Base(abs); filepath.IsLocal(base) {
		return base, nil
	}
	return ".", nil // the root of a file system
}

// GuestBase is Base for a path in a guest, where a relative one begins at the root.
func GuestBase(src string) string {
	if base := path.Base(path.Clean(InGuest(src))); !Contents(src) && base != "/" {
		return base
	}
	return "."
}

// InGuest makes a path in a guest absolute. What its end says (a slash, or "/.") stays.
func InGuest(p string) string {
	if strings.HasPrefix(p, "/") {
		return p
	}
	return "/" + p
}

// asFolder tells that a path can only mean a folder, by its end.
func asFolder(p string) bool {
	p = filepath.ToSlash(p)
	return strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..") || p == "." || p == ".."
}

// components splits an entry's name. "./a//b/" is a, b; the name of the top folder itself is empty.
func components(name string) ([]string, error) {
	if name == "" || len(name) > maxName || strings.HasPrefix(name, "/") || strings.IndexByte(name, 0) >= 0 {
		return nil, fmt.Errorf("%q: %w", short(name), ErrName)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
			continue
		case "..":
			return nil, fmt.Errorf("%q: %w", name, ErrName)
		}
		// On Windows there is more that leads elsewhere: "C:", a backslash, "NUL".
		if !filepath.IsLocal(part) || strings.ContainsRune(part, filepath.Separator) {
			return nil, fmt.Errorf("%q: %w", name, ErrName)
		}
		parts = append(parts, part)
	}
	if len(parts) > maxDepth {
		return nil, fmt.Errorf("%q: %w: more than %d folders deep", short(name), ErrName, maxDepth)
	}
	return parts, nil
}

// short cuts a name that is too long to repeat.
func short(name string) string {
	if len(name) > 256 {
		return name[:256] + "…"
	}
	return name
}
