package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"smartvm/internal/cpuarch"
)

func TestADebIsReadInAllItsCompressions(t *testing.T) {
	t.Parallel()
	files := map[string][]byte{
		"./boot/vmlinuz-1":             []byte("kernel"),
		"./usr/lib/modules/1/kernel/a": []byte("module"),
		"./usr/share/doc/x":            []byte("not wanted"),
		"./bin/busybox":                nil,
	}
	for _, c := range []codec{"", gzipped, zstded} {
		deb := debFile(t, c, "linux-image-1", files)
		info, got, err := readDeb(t.Context(), bytes.NewReader(deb), int64(len(deb)), newFile(t))
		if err != nil {
			t.Errorf("%q: %v", c, err)
			continue
		}
		if diff := cmp.Diff(packageInfo{Name: "linux-image-1", Version: "1:6.1-2", Arch: "amd64"}, info); diff != "" {
			t.Errorf("%q: -want +got:\n%s", c, diff)
		}
		texts := map[string]string{}
		for name := range got {
			data, err := got.readAll(name, 100)
			if err != nil {
				t.Fatal(err)
			}
			texts[name] = string(data)
		}
		if diff := cmp.Diff(map[string]string{"boot/vmlinuz-1": "kernel", "lib/modules/1/kernel/a": "module", "bin/busybox": ""}, texts); diff != "" {
			t.Errorf("%q: -want +got:\n%s", c, diff)
		}
	}
}

func TestADebThatIsDamagedOrHostileIsRefused(t *testing.T) {
	t.Parallel()
	good := debFile(t, "", "p", map[string][]byte{"./boot/vmlinuz-1": []byte("kernel")})
	member := arEntry{"debian-binary", []byte("2.0\n")}
	many := make([]arEntry, maxDebMembers+1)
	for i := range many {
		many[i] = member
	}
	for name, c := range map[string]struct {
		deb  []byte
		want string
	}{
		"empty":          {nil, "no Debian package"},
		"another file":   {[]byte("#!/bin/sh\necho\n"), "no Debian package"},
		"cut in header":  {good[:len(arMagic)+20], "cut off"},
		"cut in data":    {good[:len(good)-600], "cut off"},
		"no members":     {[]byte(arMagic), "no Debian package"},
		"another ar":     {arFile(arEntry{"main.o", nil}), "debian-binary"},
		"many members":   {arFile(many...), "more than"},
		"no data":        {arFile(member, arEntry{"control.tar", tarFile(t, map[string][]byte{"control": []byte("Package: p\n")})}), "lacks"},
		"no control":     {arFile(member, arEntry{"data.tar", tarFile(t, nil)}), "lacks"},
		"empty control":  {arFile(member, arEntry{"control.tar", tarFile(t, map[string][]byte{"control": nil})}), "no package"},
		"size negative":  {[]byte(strings.Replace(string(good), "4         `\n", "-4        `\n", 1)), "damaged"},
		"size enormous":  {[]byte(strings.Replace(string(good), "4         `\n", "9999999999`\n", 1)), "cut off"},
		"end of header":  {[]byte(strings.Replace(string(good), "`\n", "!\n", 1)), "damaged"},
		"leads out":      {debFile(t, gzipped, "p", map[string][]byte{"../../etc/boot/vmlinuz": nil}), "leads out"},
		"leads out late": {debFile(t, "", "p", map[string][]byte{"./boot/../../vmlinuz": nil}), "leads out"},
		"absolute":       {debFile(t, "", "p", map[string][]byte{"/boot/vmlinuz": nil}), "leads out"},
		"twice":          {debFile(t, "", "p", map[string][]byte{"./bin/busybox": nil, "./usr/bin/busybox": nil}), "twice"},
		"bzip2":          {arFile(member, arEntry{"data.tar.bz2", []byte("BZh91AY&SY")}), "bzip2"},
		"damaged gzip":   {arFile(member, arEntry{"data.tar.gz", []byte("\x1f\x8b\x08garbage-garbage")}), "data.tar.gz"},
	} {
		_, _, err := readDeb(t.Context(), bytes.NewReader(c.deb), int64(len(c.deb)), newFile(t))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, c.want)
		}
	}
}

func TestLinksInADebAreNotFollowedNorKept(t *testing.T) {
	t.Parallel()
	outside := filepath.Join(t.TempDir(), "outside")
	deb := debFile(t, "", "p", map[string][]byte{"./boot/vmlinuz-1": []byte("kernel")},
		tar.Header{Name: "./boot/vmlinuz-2", Typeflag: tar.TypeSymlink, Linkname: outside},
		tar.Header{Name: "./bin/busybox", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"},
		tar.Header{Name: "./lib/modules", Typeflag: tar.TypeSymlink, Linkname: outside},
		tar.Header{Name: "./lib/modules/x", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3})
	_, files, err := readDeb(t.Context(), bytes.NewReader(deb), int64(len(deb)), newFile(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := files.names(func(string) bool { return true }); !cmp.Equal(got, []string{"boot/vmlinuz-1"}) {
		t.Errorf("kept %v", got)
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("something was written outside")
	}
}

func TestLinksInAnUnpackedPackageDoNotLeadOut(t *testing.T) {
	t.Parallel()
	outside := folder(t, map[string][]byte{"modules/1/kernel/secret": []byte("secret"), "vmlinuz": []byte("kernel")})
	dir := folder(t, map[string][]byte{"usr/lib/modules/1/kernel/a": []byte("module"), "boot/vmlinuz-1": []byte("kernel")})
	for name, target := range map[string]string{"boot/vmlinuz-2": outside + "/vmlinuz", "lib": "usr/lib", "bin": outside} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	var p packages
	defer p.Close()
	if err := p.add(t.Context(), dir, newFile(t)); err != nil {
		t.Fatal(err)
	}
	want := []string{"boot/vmlinuz-1", "lib/modules/1/kernel/a"}
	if got := p.files.names(func(string) bool { return true }); !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// A file that becomes a link after the folder was read is not followed either.
	link := filepath.Join(dir, "boot/vmlinuz-1")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside+"/vmlinuz", link); err != nil {
		t.Fatal(err)
	}
	if data, err := p.files.readAll("boot/vmlinuz-1", 100); err == nil {
		t.Errorf("read %q over a link", data)
	}
}

func TestAFolderMayHoldSeveralPackages(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string][]byte{
		"k.deb":          debFile(t, zstded, "linux-image-1", map[string][]byte{"./boot/vmlinuz-1": []byte("kernel")}),
		"b/bin/busybox":  []byte("busybox"),
		"b/DEBIAN/other": nil,
		"README":         nil,
	})
	if err := os.WriteFile(filepath.Join(dir, "b/DEBIAN/control"), []byte("Package: busybox-static\nVersion: 1.35\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var p packages
	defer p.Close()
	if err := p.add(t.Context(), dir, newFile(t)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, pkg := range p.list {
		got = append(got, fmt.Sprintf("%s %s %v", pkg.Name, pkg.Version, pkg.SHA256 != ""))
	}
	if diff := cmp.Diff([]string{"busybox-static 1.35 false", "linux-image-1 1:6.1-2 true"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := p.add(t.Context(), dir, newFile(t)); err == nil || !strings.Contains(err.Error(), "another package") {
		t.Errorf("the same packages again: %v", err)
	}
	if err := p.add(t.Context(), t.TempDir(), newFile(t)); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Errorf("an empty folder: %v", err)
	}
}

func FuzzReadDeb(f *testing.F) {
	for _, c := range []codec{"", gzipped, zstded} {
		f.Add(debFile(f, c, "p", map[string][]byte{"./boot/vmlinuz-1": []byte("kernel")}, tar.Header{Name: "./boot/vmlinuz", Typeflag: tar.TypeSymlink, Linkname: "/x"}))
	}
	f.Add(debFile(f, "", "p", map[string][]byte{"../boot/vmlinuz-1": []byte("kernel")}))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, deb []byte) {
		spool, err := os.CreateTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(spool.Name())
		defer spool.Close()
		_, files, err := readDeb(t.Context(), bytes.NewReader(deb), int64(len(deb)), spool)
		if err != nil {
			return
		}
		for name, file := range files {
			if !fs.ValidPath(name) {
				t.Errorf("path %q", name)
			}
			if _, err := files.readAll(name, file.size()); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzParseModule(f *testing.F) {
	f.Add(testModule(cpuarch.X8664, testRelease, "depends=a,b\x00softdep=pre: c post: d\x00alias=x"))
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseModule(data)
		if err != nil {
			return
		}
		for _, name := range append(m.depends, m.softPre...) {
			if name == "" || strings.Contains(name, "-") {
				t.Errorf("dependency %q", name)
			}
		}
	})
}
