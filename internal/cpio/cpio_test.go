package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnArchiveReadsBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	want := []member{
		{Header{Name: "bin", Mode: TypeDir | 0o755}, "", 1, 2},
		{Header{Name: "bin/sh", Mode: TypeSymlink | 0o777, Size: 7}, "busybox", 2, 1},
		{Header{Name: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1}, "", 3, 1},
		{Header{Name: "init", Mode: TypeRegular | 0o755, Size: 5}, "\x7fELF\x00", 4, 1},
		{Header{Name: "empty", Mode: TypeRegular | 0o644}, "", 5, 1},
		{Header{Name: "TRAILER!!!"}, "", 0, 1},
	}
	var archive bytes.Buffer
	w := NewWriter(&archive, 1234)
	for _, m := range want[:len(want)-1] {
		if err := w.WriteHeader(m.Header); err != nil {
			t.Fatal(err)
		}
		for i := range m.data { // in small pieces
			if _, err := w.Write([]byte(m.data[i : i+1])); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, read(t, archive.Bytes(), 1234), cmp.AllowUnexported(member{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAWriterRefusesWhatWouldBreakTheArchive(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]Header{
		"no name":       {Mode: TypeDir},
		"absolute":      {Name: "/init", Mode: TypeRegular},
		"zero byte":     {Name: "a\x00b", Mode: TypeRegular},
		"long name":     {Name: strings.Repeat("a", 4096), Mode: TypeRegular},
		"no type":       {Name: "a", Mode: 0o644},
		"folder's data": {Name: "a", Mode: TypeDir, Size: 1},
		"4 GiB":         {Name: "a", Mode: TypeRegular, Size: 1 << 32},
		"negative":      {Name: "a", Mode: TypeRegular, Size: -1},
	} {
		w := NewWriter(&bytes.Buffer{}, 0)
		if err := w.WriteHeader(h); err == nil {
			t.Errorf("%s: no error", name)
		}
		if w.Close() == nil {
			t.Errorf("%s: the archive could be closed after an error", name)
		}
	}
}

func TestAMemberHasExactlyItsData(t *testing.T) {
	t.Parallel()
	w := NewWriter(&bytes.Buffer{}, 0)
	if err := w.WriteHeader(Header{Name: "a", Mode: TypeRegular, Size: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("abc")); err == nil {
		t.Error("too much data: no error")
	}
	w = NewWriter(&bytes.Buffer{}, 0)
	if err := w.WriteHeader(Header{Name: "a", Mode: TypeRegular, Size: 2}); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteHeader(Header{Name: "b", Mode: TypeRegular}); err == nil {
		t.Error("too little data: no error at the next member")
	}
	w = NewWriter(&bytes.Buffer{}, 0)
	if err := w.WriteHeader(Header{Name: "a", Mode: TypeRegular, Size: 2}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil {
		t.Error("too little data: no error at the end")
	}
}

func TestAFailedWriteIsReportedAndStays(t *testing.T) {
	t.Parallel()
	for room := range 300 {
		w := NewWriter(&smallDisk{room}, 0)
		err := w.WriteHeader(Header{Name: "a", Mode: TypeRegular, Size: 2})
		if err == nil {
			_, err = w.Write([]byte("ab"))
		}
		if closed := w.Close(); err == nil {
			err = closed
		} else if !errors.Is(closed, err) {
			t.Fatalf("room for %d bytes: %v, and at the end %v", room, err, closed)
		}
		const whole = 116 + 124 // both headers with names and padding, and the data
		if (err == nil) != (room >= whole) || err != nil && !errors.Is(err, errFull) {
			t.Fatalf("room for %d bytes: %v", room, err)
		}
	}
}

var errFull = errors.New("full")

type smallDisk struct{ left int }

func (d *smallDisk) Write(p []byte) (int, error) {
	if len(p) > d.left {
		return 0, errFull
	}
	d.left -= len(p)
	return len(p), nil
}

type member struct {
	Header
	data         string
	inode, links int
}

// read reads an archive by the format's description.
func read(t *testing.T, archive []byte, mtime int) []member {
	t.Helper()
	var all []member
	for at := 0; at < len(archive); {
		if at%4 != 0 {
			t.Fatalf("a header at %d, not at a multiple of 4", at)
		}
		var f [13]int
		header := archive[at : at+110]
		if string(header[:6]) != "070701" {
			t.Fatalf("magic %q", header[:6])
		}
		for i := range f {
			if _, err := fmt.Sscanf(string(header[6+8*i:14+8*i]), "%x", &f[i]); err != nil {
				t.Fatal(err)
			}
		}
		name := string(archive[at+110 : at+110+f[11]-1])
		data := (at + 110 + f[11] + 3) &^ 3
		all = append(all, member{
			Header: Header{Name: name, Mode: uint32(f[1]), Size: int64(f[6]), Major: uint32(f[9]), Minor: uint32(f[10])},
			data:   string(archive[data : data+f[6]]), inode: f[0], links: f[4],
		})
		if f[2] != 0 || f[3] != 0 {
			t.Errorf("%s: owner %d:%d, want root", name, f[2], f[3])
		}
		if name == "TRAILER!!!" {
			mtime = 0
		}
		if f[5] != mtime {
			t.Errorf("%s: mtime %d", name, f[5])
		}
		at = (data + f[6] + 3) &^ 3
	}
	return all
}
