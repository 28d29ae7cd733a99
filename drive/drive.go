// Package drive gives a VM a writable drive of its own without touching the image that it starts from, and at a cost
// that does not grow with the image: [Stage] makes a reflink where the filesystem can, leaves the image alone and adds
// a sparse drive for a guest's overlay where the guest can do that, and copies the data, never the holes, where
// nothing better is left. It says which of these it was and what it cost.
//
// [CreateSparse] makes an empty drive, [Clone] a second copy of one. What a call made it takes away again when it
// fails or its context ends.
package drive

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"
)

// DefaultOverlaySize is the size in bytes of the sparse drive for a guest's overlay. It costs what the guest writes.
const DefaultOverlaySize = 10 << 30

// Method tells how a drive was staged.
type Method string

// The methods, the cheapest first.
const (
	Reflink Method = "reflink" // shares the image's blocks until one is written; no data was copied
	Overlay Method = "overlay" // the image itself, read-only, and an empty drive for the guest's overlay
	Copy    Method = "copy"    // a copy of the data, holes stay holes
)

// Request says what to stage where.
type Request struct {
	Source string // a regular file or a block device; it is only read
	Dir    string // an existing folder, which nobody else writes to
	Name   string // the file to make in Dir, see StagedName; it must not exist

	// AllowOverlay says that the guest can put an overlay over a read-only drive. Then nothing is ever copied.
	AllowOverlay bool
	// OverlaySize is the size in bytes of the overlay's drive. Default: DefaultOverlaySize.
	OverlaySize int64
}

// Staged is a staged drive.
type Staged struct {
	Method  Method
	Path    string // what the VM opens: the new file in Dir; with Overlay the source itself, to be opened read-only
	Upper   string // with Overlay: the new file in Dir, formatted ext4, which takes what the guest writes
	Size    int64  // of the drive at Path, in bytes
	Written int64  // bytes of data that staging wrote
}

// maxStagedName leaves room in the 255 bytes of a file name for what else is appended to it.
const maxStagedName = 200

// StagedName returns the file name for a drive: `<id>-<the source's base name>`, both made safe: what is not a letter,
// a digit, `.`, `_` or `-` becomes `_`. A source without a base name counts as drive.img. Different ids give different
// names as long as they are ids of drives (letters, digits, `_`); a name that would be too long is cut and gets a
// digest of the whole.
func StagedName(id, source string) string {
	base := ""
	if source != "" && !strings.HasSuffix(source, "/") {
		base = filepath.Base(source)
	}
	switch base {
	case "", ".", "..", "/":
		base = "drive.img"
	}
	name := makeSafe(id) + "-" + makeSafe(base)
	if len(name) > maxStagedName {
		digest := sha256.Sum256([]byte(name))
		name = name[:maxStagedName-11] + "-" + hex.EncodeToString(digest[:])[:10]
	}
	return name
}

// makeSafe never returns "", "." or "..", which name no file.
func makeSafe(s string) string {
	safe := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '_', r == '-':
			return r
		default:
			return '_'
		}
	}, s)
	switch safe {
	case "", ".", "..":
		return "item"
	}
	return safe
}
