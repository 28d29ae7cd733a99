package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// Bounds of a package. Debian's cloud kernel is 27 MB packed, 106 MB in 1121 files unpacked; its generic one four times
// as much.
const (
	maxDebMembers  = 16      // of the outer archive
	maxDebFiles    = 200_000 // of the inner one
	maxDebUnpacked = 2 << 30 // bytes
	maxControl     = 1 << 20 // bytes of control data, unpacked
)

// readDeb reads a .deb (deb(5): an ar archive with control.tar and data.tar in it). Of the files only those that
// wantedPath names are kept, in the file spool, which must live as long as the contents are used; they are appended, so
// several packages may share one. Links are not followed: they are not even kept.
func readDeb(ctx context.Context, deb io.ReaderAt, size int64, spool *os.File) (packageInfo, contents, error) {
	members, err := arMembers(deb, size)
	if err != nil {
		return packageInfo{}, nil, err
	}
	var info packageInfo
	var files contents
	for _, m := range members {
		base, _, _ := strings.Cut(m.name, ".tar")
		if base != "control" && base != "data" {
			continue
		}
		zr, err := openTar(m)
		if err != nil {
			return packageInfo{}, nil, fmt.Errorf("%s: %w", m.name, err)
		}
		if base == "control" {
			info, err = readControlTar(zr)
		} else {
			files, err = spoolDataTar(ctx, zr, spool)
		}
		zr.Close()
		if err != nil {
			return packageInfo{}, nil, fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if info.Name == "" || files == nil {
		return packageInfo{}, nil, errors.New("no Debian package: it lacks its control or its data archive")
	}
	return info, files, nil
}

// arMember is a member of an ar archive.
type arMember struct {
	name string
	data *io.SectionReader
}

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60 // name 16, mtime 12, uid 6, gid 6, mode 8, size 10, end 2
)

// arMembers lists the members of an ar archive in the form that deb(5) allows: short names only.
func arMembers(r io.ReaderAt, size int64) ([]arMember, error) {
	var magic [len(arMagic)]byte
	if _, err := r.ReadAt(magic[:], 0); err != nil || string(magic[:]) != arMagic {
		return nil, errors.New("no Debian package: it does not begin as one")
	}
	var members []arMember
	for offset := int64(len(arMagic)); offset < size; {
		var header [arHeaderSize]byte
		if _, err := r.ReadAt(header[:], offset); err != nil {
			return nil, fmt.Errorf("the package is cut off at byte %d", offset)
		}
		length, err := strconv.ParseUint(strings.TrimRight(string(header[48:58]), " "), 10, 40)
		if err != nil || string(header[58:]) != "`\n" {
			return nil, fmt.Errorf("the package is damaged at byte %d: no member begins there", offset)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
		offset += arHeaderSize
		if int64(length) > size-offset {
			return nil, fmt.Errorf("the package is cut off: its member %q ends behind the file's end", name)
		}
		if len(members) == maxDebMembers {
			return nil, fmt.Errorf("the package has more than %d members", maxDebMembers)
		}
		members = append(members, arMember{name, io.NewSectionReader(r, offset, int64(length))})
		offset += int64(length) + int64(length&1) // members begin at even offsets
	}
	if len(members) == 0 || members[0].name != "debian-binary" {
		return nil, errors.New("no Debian package: its first member is not debian-binary")
	}
	return members, nil
}

// openTar unpacks a member by its first bytes: the ending of its name says no more than they do.
func openTar(m arMember) (io.ReadCloser, error) {
	var head [8]byte
	n, _ := m.data.ReadAt(head[:], 0)
	c := codecOf(head[:n])
	if c == "" {
		return io.NopCloser(m.data), nil
	}
	return decompress(c, m.data)
}

// readControlTar reads the package's name, version and architecture.
func readControlTar(r io.Reader) (packageInfo, error) {
	tr := tar.NewReader(bounded(r, maxControl))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return packageInfo{}, errors.New("it has no file named control")
		}
		if err != nil {
			return packageInfo{}, err
		}
		if path.Clean(h.Name) == "control" && h.Typeflag == tar.TypeReg {
			return parseControl(tr)
		}
	}
}

// spoolDataTar copies the wanted files to the spool and says where they are.
func spoolDataTar(ctx context.Context, r io.Reader, spool *os.File) (contents, error) {
	offset, err := spool.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	files := contents{}
	tr := tar.NewReader(bounded(r, maxDebUnpacked))
	for count := 0; ; count++ {
		h, err := tr.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if count == maxDebFiles {
			return nil, fmt.Errorf("more than %d files", maxDebFiles)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		if !fs.ValidPath(name) {
			return nil, fmt.Errorf("it holds %q, which leads out of its folder", h.Name)
		}
		name, wanted := wantedPath(name)
		if !wanted || h.Typeflag != tar.TypeReg {
			if err := ctx.Err(); err != nil {
				return nil, ctx.Err()
			}
			continue
		}
		if _, twice := files[name]; twice {
			return nil, fmt.Errorf("it holds %s twice", name)
		}
		n, err := copyContext(ctx, spool, tr)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files[name] = spooled{io.NewSectionReader(spool, offset, n)}
		offset += n
	}
}

// spooled is a file in the spool.
type spooled struct{ section *io.SectionReader }

func (s spooled) size() int64 { return s.section.Size() }
func (s spooled) read(use func(io.ReaderAt) error) error {
	return use(s.section)
}

// packageInfo is what a package says about itself.
type packageInfo struct {
	Name, Version, Arch string
}

// parseControl reads the first paragraph of a control file (deb-control(5)).
func parseControl(r io.Reader) (packageInfo, error) {
	data, err := io.ReadAll(bounded(r, maxControl))
	if err != nil {
		return packageInfo{}, err
	}
	paragraphs, err := parseParagraphs(data)
	if err != nil {
		return packageInfo{}, err
	}
	if len(paragraphs) == 0 || paragraphs[0]["Package"] == "" {
		return packageInfo{}, errors.New("its control file names no package")
	}
	p := paragraphs[0]
	return packageInfo{Name: p["Package"], Version: p["Version"], Arch: p["Architecture"]}, nil
}

// parseParagraphs reads paragraphs of "Field: value" lines, parted by empty lines (deb822(5)). Of a value of several
// lines only the first is kept: none of those needed here has more.
func parseParagraphs(data []byte) ([]map[string]string, error) {
	var all []map[string]string
	var p map[string]string
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxControl)
	for lines.Scan() {
		line := lines.Text()
		if strings.TrimSpace(line) == "" {
			p = nil
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			continue
		}
		if p == nil {
			p = map[string]string{}
			all = append(all, p)
		}
		if key, value, ok := strings.Cut(line, ":"); ok {
			p[key] = strings.TrimSpace(value)
		}
	}
	return all, lines.Err()
}
