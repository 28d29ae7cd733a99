//go:build linux

package agent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"smartvm/guest"
	"smartvm/internal/proof"
)

// folder makes one with a large file, a small one, a link and a FIFO.
func folder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "folder")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("0123456789abcdef"), 200_000), 0o644),
		os.WriteFile(filepath.Join(dir, "sub", "run"), []byte("#!/bin/sh\n"), 0o750),
		os.Symlink("sub/run", filepath.Join(dir, "link")),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// same compares two folders, but for FIFOs.
func same(t *testing.T, a, b string) {
	t.Helper()
	listing := func(dir string) string {
		cmd := exec.Command("find", ".", "!", "-type", "p", "-printf", `%p %m %s %l %T@\n`)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(out), "\n")
		for i, line := range lines { // a link's time is not kept, nor a folder's length
			if f := strings.Fields(line); strings.HasPrefix(line, "./link ") || len(f) > 1 && (f[0] == "." || f[0] == "./sub") {
				lines[i] = strings.Join(f[:2], " ")
			}
		}
		return strings.Join(lines, "\n")
	}
	if x, y := listing(a), listing(b); x != y {
		t.Errorf("one is\n%s\nthe other\n%s", x, y)
	}
	if out, err := exec.Command("cmp", a+"/large", b+"/large").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestAFolderIsCopiedIntoTheGuestAndBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	src, dst := folder(t), t.TempDir()
	want := guest.CopyReport{Files: 2, Dirs: 2, Links: 1, Bytes: 3_200_010}
	report, err := r.CopyTo(bounded(t), src, dst+"/in", guest.CopyOptions{})
	if err != nil || report.Files != want.Files || report.Dirs != want.Dirs || report.Links != want.Links || report.Bytes != want.Bytes ||
		len(report.Skipped) != 1 || report.Skipped[0] != "folder/fifo" {
		t.Fatalf("%+v, %v", report, err)
	}
	same(t, src, dst+"/in")
	report, err = r.CopyFrom(bounded(t), src, dst, guest.CopyOptions{})
	if err != nil || report.Files != want.Files || report.Bytes != want.Bytes || len(report.Skipped) != 1 || report.Skipped[0] != "folder/fifo" {
		t.Fatalf("%+v, %v", report, err)
	}
	same(t, src, dst+"/folder")
}

func TestWhatCannotBeCopiedSaysWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	src, dst := folder(t), t.TempDir()
	to := func(src, dst string) error { _, err := r.CopyTo(bounded(t), src, dst, guest.CopyOptions{}); return err }
	from := func(src, dst string) error {
		_, err := r.CopyFrom(bounded(t), src, dst, guest.CopyOptions{})
		return err
	}
	var theirs *guest.CopyError
	for what, c := range map[string]struct {
		err    error
		is     error
		theirs bool
	}{
		"from nowhere on the host":     {to(src+"/none", dst), fs.ErrNotExist, false},
		"to nowhere in the guest":      {to(src, dst+"/none/x"), fs.ErrNotExist, true},
		"a folder onto a guest's file": {to(src, src+"/large"), nil, true},
		"from nowhere in the guest":    {from(src+"/none", dst), fs.ErrNotExist, true},
		"to nowhere on the host":       {from(src+"/large", dst+"/none/"), fs.ErrNotExist, false},
		"a folder onto a host's file":  {from(src, src+"/large"), syscall.ENOTDIR, false},
		"no path":                      {to(src, ""), nil, false},
		"a NUL":                        {from("a\x00b", dst), nil, false},
	} {
		if c.err == nil || c.is != nil && !errors.Is(c.err, c.is) || errors.As(c.err, &theirs) != c.theirs {
			t.Errorf("%s: %v", what, c.err)
		}
	}
	if entries, err := os.ReadDir(dst); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestAFullDiskIsSaidAndLeavesNoPartOfAFile(t *testing.T) {
	proof.Host(t)
	r := newRig(t)
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(small, 0)
	src := folder(t) + "/large"
	_, err := r.CopyTo(bounded(t), src, small, guest.CopyOptions{})
	var theirs *guest.CopyError
	if !errors.As(err, &theirs) || theirs.Reason != guest.NoSpace || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), `"large"`) {
		t.Errorf("in the guest: %v", err)
	}
	_, err = r.CopyFrom(bounded(t), src, small, guest.CopyOptions{})
	if !errors.Is(err, syscall.ENOSPC) || errors.As(err, &theirs) || !strings.Contains(err.Error(), `"large"`) {
		t.Errorf("on the host: %v", err)
	}
	if entries, err := os.ReadDir(small); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestOwnersAreKeptOnlyWhenAskedFor(t *testing.T) {
	proof.Host(t)
	t.Parallel()
	r := newRig(t)
	src := folder(t) + "/sub"
	if err := os.Chown(src+"/run", 1234, 4321); err != nil {
		t.Fatal(err)
	}
	for archive, want := range map[bool]uint32{false: 0, true: 1234} {
		dst := t.TempDir()
		if _, err := r.CopyTo(bounded(t), src+"/.", dst, guest.CopyOptions{Archive: archive}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dst + "/run")
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != want {
			t.Errorf("archive %v: %+v, %v", archive, info, err)
		}
	}
}

func TestArchivesGoInAndComeOutAsStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	src, dst := folder(t), t.TempDir()
	var archive bytes.Buffer
	report, err := r.CopyFromTar(bounded(t), src, &archive)
	if err != nil || report.Files != 2 || len(report.Skipped) != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	if h, err := tar.NewReader(bytes.NewReader(archive.Bytes())).Next(); err != nil || h.Name != "folder/" {
		t.Errorf("%+v, %v", h, err)
	}
	whole := archive.Bytes()
	if report, err = r.CopyToTar(bounded(t), &archive, dst, guest.CopyOptions{}); err != nil || report.Files != 2 || report.Links != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	same(t, src, dst+"/folder")
	var theirs *guest.CopyError
	if _, err := r.CopyToTar(bounded(t), bytes.NewReader(whole[:1<<20]), dst, guest.CopyOptions{}); !errors.As(err, &theirs) {
		t.Errorf("half an archive: %v", err)
	}
	if _, err := r.CopyToTar(bounded(t), bytes.NewReader(whole), dst+"/none", guest.CopyOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	broken := errors.New("broken")
	if _, err := r.CopyToTar(bounded(t), io.MultiReader(bytes.NewReader(whole), failingReader{broken}), t.TempDir(), guest.CopyOptions{}); !errors.Is(err, broken) {
		t.Errorf("a reader that fails: %v", err)
	}
	if _, err := r.CopyFromTar(bounded(t), src, failing{broken}); !errors.Is(err, broken) {
		t.Errorf("a writer that fails: %v", err)
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

func TestACopyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithCancel(bounded(t))
	stall := newStalled()
	failed := make(chan error)
	go func() { _, err := r.CopyFromTar(ctx, folder(t), stall); failed <- err }()
	<-stall.reached
	cancel()
	close(stall.release)
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("out of the guest: %v", err)
	}
	ctx, cancel = context.WithCancel(bounded(t))
	defer cancel()
	var begun bytes.Buffer
	if err := tar.NewWriter(&begun).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	_, err := r.CopyToTar(ctx, io.MultiReader(&begun, cancelling{cancel}), t.TempDir(), guest.CopyOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("into the guest: %v", err)
	}
}

// cancelling is endless and cancels at the first read.
type cancelling struct{ cancel context.CancelFunc }

func (c cancelling) Read(p []byte) (int, error) { c.cancel(); return len(p), nil }
