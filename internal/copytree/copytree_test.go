package copytree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var then = time.Date(2021, 2, 3, 4, 5, 6, 789, time.UTC)

// tree makes a folder with one of each kind.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for _, d := range []string{"", "sub", "sub/empty", "closed"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("contents"), 0o640))
	must(t, os.WriteFile(filepath.Join(dir, "sub", strings.Repeat("ü", 120)), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "closed", "run"), bytes.Repeat([]byte("x"), 100_000), 0o755))
	must(t, os.Symlink("sub/file", filepath.Join(dir, "inner")))
	must(t, os.Symlink("/no/such", filepath.Join(dir, "outer")))
	must(t, os.Chtimes(filepath.Join(dir, "sub", "file"), then, then))
	must(t, os.Chtimes(filepath.Join(dir, "sub"), then, then))
	must(t, os.Chmod(filepath.Join(dir, "closed"), 0o555))
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "closed"), 0o755) })
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// list says what is in a folder, a line each.
func list(t *testing.T, dir string) (lines []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		line := fmt.Sprint(name, " ", info.Mode())
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x %v", len(b), b[:min(len(b), 20)], info.ModTime().UnixNano())
		case info.IsDir():
			line += fmt.Sprintf(" %v", info.ModTime().UnixNano())
		default:
			target, _ := os.Readlink(p)
			line += " " + target
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

// copyTree packs and unpacks.
func copyTree(t *testing.T, src, dst string, o Options) (packed, unpacked Report, err error) {
	t.Helper()
	base, err := Base(src)
	must(t, err)
	o.Base = base
	var archive bytes.Buffer
	if packed, err = Pack(&archive, src); err != nil {
		return
	}
	unpacked, err = Unpack(&archive, dst, o)
	return
}

func TestATreeComesOutAsItWentIn(t *testing.T) {
	src, dst := tree(t), filepath.Join(t.TempDir(), "copy")
	packed, unpacked, err := copyTree(t, src, dst, Options{})
	must(t, err)
	if diff := cmp.Diff(list(t, src), list(t, dst)); diff != "" {
		t.Error(diff)
	}
	want := Report{Files: 3, Dirs: 4, Links: 2, Bytes: 100_008}
	if diff := cmp.Diff([]Report{want, want}, []Report{packed, unpacked}); diff != "" {
		t.Error(diff)
	}
	must(t, os.Chmod(filepath.Join(dst, "closed"), 0o755))
}

func TestNamesMeanWhatTheyDoToDockerCp(t *testing.T) {
	for _, c := range []struct {
		what, src, dst string
		want           string // what is there then, or "" for an error
	}{
		{"file to a new name", "file", "new", "new"},
		{"file to a new name in a folder that is not there", "file", "none/new", ""},
		{"file to a folder that is not there", "file", "none/", ""},
		{"file onto a file", "file", "taken", "taken"},
		{"file onto a link to a file", "file", "link", "taken"},
		{"file onto a link that leads nowhere", "file", "dangling", ""},
		{"file onto a file as if it were a folder", "file", "taken/", ""},
		{"file into a folder", "file", "folder", "folder/file"},
		{"file into a folder, said with a slash", "file", "folder/", "folder/file"},
		{"file into a link to a folder", "file", "folderlink", "folder/file"},
		{"file as a folder", "file/", "new", ""},
		{"file as a folder's contents", "file/.", "new", ""},
		{"folder to a new name", "dir", "new", "new/in"},
		{"folder to a new name with a slash", "dir", "new/", "new/in"},
		{"folder to a new name in a folder that is not there", "dir", "none/new", ""},
		{"folder onto a file", "dir", "taken", ""},
		{"folder into a folder", "dir", "folder", "folder/dir/in"},
		{"folder with a slash into a folder", "dir/", "folder", "folder/dir/in"},
		{"contents to a new name", "dir/.", "new", "new/in"},
		{"contents into a folder", "dir/.", "folder", "folder/in"},
		{"contents onto a file", "dir/.", "taken", ""},
		{"link", "ln", "new", "new -> file"},
		{"link to a folder with a slash", "lndir/", "folder", "folder/lndir/in"},
		{"nothing", "none", "new", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			src, dst := t.TempDir(), t.TempDir()
			must(t, os.WriteFile(filepath.Join(src, "file"), []byte("new"), 0o644))
			must(t, os.Mkdir(filepath.Join(src, "dir"), 0o755))
			must(t, os.WriteFile(filepath.Join(src, "dir", "in"), []byte("new"), 0o644))
			must(t, os.Symlink("file", filepath.Join(src, "ln")))
			must(t, os.Symlink("dir", filepath.Join(src, "lndir")))
			must(t, os.WriteFile(filepath.Join(dst, "taken"), []byte("old"), 0o644))
			must(t, os.Mkdir(filepath.Join(dst, "folder"), 0o755))
			must(t, os.Symlink("taken", filepath.Join(dst, "link")))
			must(t, os.Symlink("folder", filepath.Join(dst, "folderlink")))
			must(t, os.Symlink("nowhere", filepath.Join(dst, "dangling")))
			before := list(t, dst)
			_, _, err := copyTree(t, src+"/"+c.src, dst+"/"+c.dst, Options{})
			if c.want == "" {
				if diff := cmp.Diff(before, list(t, dst)); err == nil || diff != "" {
					t.Errorf("no error, or something was written: %v %s", err, diff)
				}
				return
			}
			must(t, err)
			name, target, isLink := strings.Cut(c.want, " -> ")
			if isLink {
				if got, err := os.Readlink(filepath.Join(dst, name)); err != nil || got != target {
					t.Errorf("%q, %v", got, err)
				}
			} else if got, err := os.ReadFile(filepath.Join(dst, name)); err != nil || string(got) != "new" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestGuestBaseIsWhatPackCallsIt(t *testing.T) {
	for src, want := range map[string]string{"/": ".", "/.": ".", ".": ".", "a": "a", "/a/b/": "b", "/a/.": ".", "/a/b/..": "a", "//": ".", "..": "."} {
		got := GuestBase(src)
		packs, err := Base(InGuest(src))
		if got != want || err != nil || packs != want {
			t.Errorf("%q: %q, %q, %v", src, got, packs, err)
		}
	}
}

type entry struct {
	tar.Header
	body string
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if e.Mode == 0 {
			e.Mode = 0o755
		}
		must(t, w.WriteHeader(&e.Header))
		_, err := io.WriteString(w, e.body)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func dir(name string) entry { return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name}} }
func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name}, body}
}
func link(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}}
}
func hard(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}

// hostile are archives that nobody may unpack, with a word that the error must hold.
func hostile(t testing.TB, outside string) map[string]struct {
	bytes []byte
	word  string
} {
	type bad = struct {
		bytes []byte
		word  string
	}
	whole := archive(t, dir("top/"), file("top/f", strings.Repeat("x", 4000)))
	return map[string]bad{
		"a name that climbs":             {archive(t, dir("top"), file("top/../../x", "x")), "top/../../x"},
		"a name that climbs and stays":   {archive(t, dir("top"), file("top/a/../b", "x")), "top/a/../b"},
		"an absolute name":               {archive(t, dir("top"), file(outside+"/x", "x")), outside + "/x"},
		"another top":                    {archive(t, dir("top"), file("bottom", "x")), "bottom"},
		"a link that leads out":          {archive(t, dir("top"), link("top/l", outside), file("top/l/x", "x")), "top/l/x"},
		"a link that leads up":           {archive(t, dir("top"), link("top/l", ".."), file("top/l/x", "x")), "top/l/x"},
		"a link that stays":              {archive(t, dir("top"), dir("top/d"), link("top/l", "d"), file("top/l/x", "x")), "top/l/x"},
		"a folder over a link":           {archive(t, dir("top"), link("top/l", outside), dir("top/l")), "top/l"},
		"the top as a link":              {archive(t, link("top", outside), file("top/x", "x")), "top/x"},
		"a file over a folder":           {archive(t, dir("top"), dir("top/d"), file("top/d", "x")), "top/d"},
		"a folder over a file":           {archive(t, dir("top"), file("top/d", "x"), dir("top/d")), "top/d"},
		"a hard link to what is outside": {archive(t, dir("top"), hard("top/h", "../x")), "../x"},
		"a hard link through a link":     {archive(t, dir("top"), link("top/l", outside), hard("top/h", "top/l/secret")), "top/l/secret"},
		"a hard link to a link":          {archive(t, dir("top"), link("top/l", outside+"/secret"), hard("top/h", "top/l")), "top/l"},
		"an endless depth":               {archive(t, dir("top"), file("top/"+strings.Repeat("d/", 300)+"x", "x")), "deep"},
		"a name without end":             {archive(t, dir("top"), file("top/"+strings.Repeat("n", 5000), "x")), "nnn"},
		"nothing":                        {nil, "empty"},
		"only an end":                    {make([]byte, 1024), "empty"},
		"no archive":                     {bytes.Repeat([]byte("HTTP/1.1 "), 200), "not a valid archive"},
		"half a file":                    {whole[:len(whole)-4096], "top/f"},
		"a file that promises much":      {promise(t), "top/f"},
		"more after its end than can be": {append(bytes.Clone(whole), make([]byte, maxTrailer+1)...), "after its end"},
		"a sparse file":                  {sparse(t), "sparse"},
	}
}

// promise is an archive whose file is said to be a terabyte long.
func promise(t testing.TB) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "top/", Mode: 0o755}))
	must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "top/f", Mode: 0o644, Size: 1 << 40}))
	w.Write([]byte("a little"))
	return b.Bytes()
}

// sparse is an archive with a file of a terabyte that is one hole, in PAX format 1.0. The writer makes none, so its
// records are written as a file, whose header is then made that of records.
func sparse(t testing.TB) []byte {
	var records string
	for _, r := range []string{"major=1", "minor=0", "name=top/f", "realsize=1099511627776"} {
		records += fmt.Sprintf("%d GNU.sparse.%s\n", len("99 GNU.sparse.\n")+len(r), r)
	}
	b := archive(t, file("records", records), file("top/f", "1\n1099511627776\n0\n"+strings.Repeat("\x00", 494)))
	b[156] = tar.TypeXHeader
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func TestNoArchiveLeavesItsFolder(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	before := list(t, outside)
	for what, bad := range hostile(t, outside) {
		t.Run(what, func(t *testing.T) {
			parent := t.TempDir()
			_, err := Unpack(bytes.NewReader(bad.bytes), filepath.Join(parent, "dst"), Options{Base: "top"})
			if err == nil || !strings.Contains(err.Error(), bad.word) {
				t.Errorf("got %v, want %q in it", err, bad.word)
			}
			entries, err := os.ReadDir(parent)
			if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != "dst" {
				t.Errorf("%v, %v", entries, err)
			}
			filepath.WalkDir(parent, func(p string, d fs.DirEntry, _ error) error {
				if strings.HasPrefix(d.Name(), ".smartvm-") {
					t.Errorf("%s was left behind", p)
				}
				return nil
			})
			if diff := cmp.Diff(before, list(t, outside)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAnArchiveThatBreaksOffLeavesTheOldFileWhole(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(dst, []byte("old"), 0o600))
	whole := archive(t, file("f", strings.Repeat("x", 4000)))
	if _, err := Unpack(bytes.NewReader(whole[:2000]), dst, Options{Base: "f"}); !errors.Is(err, ErrArchive) {
		t.Fatal(err)
	}
	if got := list(t, filepath.Dir(dst)); len(got) != 2 || !strings.Contains(got[1], fmt.Sprintf("%x", "old")) {
		t.Errorf("%q", got)
	}
}

func TestSetIDBitsAreKeptOnlyWhenAskedFor(t *testing.T) {
	b := archive(t, entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o7755, Uid: os.Geteuid(), Gid: os.Getegid()}})
	for archive, want := range map[bool]fs.FileMode{false: fs.ModeSticky | 0o755, true: fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky | 0o755} {
		dst := filepath.Join(t.TempDir(), "f")
		_, err := Unpack(bytes.NewReader(b), dst, Options{Base: "f", Archive: archive})
		must(t, err)
		if info, err := os.Stat(dst); err != nil || info.Mode() != want {
			t.Errorf("archive %v: %v, %v", archive, info.Mode(), err)
		}
	}
}

func TestAnArchiveOfOthersMayHaveHardLinksAndNoFolders(t *testing.T) {
	dst := t.TempDir()
	b := archive(t, file("./a/b/f", "body"), hard("h", "a/b/f"), hard("h", "./h"), entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo"}})
	r, err := Unpack(bytes.NewReader(b), dst, Options{})
	must(t, err)
	if diff := cmp.Diff(Report{Files: 3, Bytes: 4, Skipped: []string{"fifo"}}, r); diff != "" {
		t.Error(diff)
	}
	if got, err := os.ReadFile(filepath.Join(dst, "h")); err != nil || string(got) != "body" {
		t.Errorf("%q, %v", got, err)
	}
	if entries, _ := os.ReadDir(dst); len(entries) != 2 {
		t.Errorf("%v", entries)
	}
}

func FuzzExtract(f *testing.F) {
	for _, bad := range hostile(f, "/tmp/smartvm-outside") {
		if len(bad.bytes) < 1<<16 {
			f.Add(bad.bytes)
		}
	}
	f.Add(archive(f, dir("top"), dir("top/d"), file("top/d/f", "body"), link("top/l", "d/f"), hard("top/h", "top/d/f"), file("top/l", "again")))
	f.Fuzz(func(t *testing.T, b []byte) {
		parent := t.TempDir()
		must(t, os.WriteFile(filepath.Join(parent, "witness"), []byte("untouched"), 0o600))
		before := list(t, parent)[1:] // but the folder's own time
		inner := filepath.Join(parent, "inner")
		must(t, os.Mkdir(inner, 0o700))
		r, _ := Unpack(bytes.NewReader(b), filepath.Join(inner, "dst"), Options{Base: "top"})
		if r.Bytes > int64(len(b)) {
			t.Fatalf("%d bytes of an archive of %d", r.Bytes, len(b))
		}
		entries, err := os.ReadDir(inner)
		if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != "dst" {
			t.Fatalf("%v, %v", entries, err)
		}
		must(t, os.Chmod(inner, 0o700))
		filepath.WalkDir(inner, func(p string, d fs.DirEntry, _ error) error {
			if d.IsDir() {
				os.Chmod(p, 0o700) // so that it can be removed
			}
			return nil
		})
		must(t, os.RemoveAll(inner))
		if diff := cmp.Diff(before, list(t, parent)[1:]); diff != "" {
			t.Fatal(diff)
		}
	})
}
