package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"smartvm/internal/cpuarch"
)

// build makes a bundle from a synthetic package.
func build(t *testing.T, arch, dir string) Bundle {
	t.Helper()
	b, err := BuildDebian(t.Context(), DebianOptions{Arch: arch, Dir: dir, Package: folder(t, testPackage(t, arch)), Init: testProgram(arch, "init")})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestABundleIsMadeForEachArchitecture(t *testing.T) {
	t.Parallel()
	for arch, args := range map[string]string{
		cpuarch.X8664:   "console=ttyS0 reboot=k panic=1",
		cpuarch.AArch64: "keep_bootcon console=ttyS0 reboot=k panic=1",
	} {
		dir := filepath.Join(t.TempDir(), "new", "bundle")
		b := build(t, arch, dir)
		m := b.Manifest
		if m.Preset != "debian" || m.Arch != arch || m.BootArgs != args || m.KernelRelease != testRelease || m.Source.Type != "debian-package" {
			t.Errorf("%s: manifest %+v", arch, m)
		}
		if m.Checksums.InitSHA256 != hashBytes(testProgram(arch, "init")) {
			t.Errorf("%s: initSha256 is not the init's", arch)
		}
		if want := []Package{{Name: "linux-image-" + testRelease}}; !cmp.Equal(want, m.Source.Packages) {
			t.Errorf("%s: packages %v, want %v", arch, m.Source.Packages, want)
		}
		opened, err := Open(t.Context(), dir)
		if diff := cmp.Diff(b, opened); err != nil || diff != "" {
			t.Errorf("%s: opened: %v, -made +opened:\n%s", arch, err, diff)
		}
		if b.Kernel != filepath.Join(dir, "vmlinux") || b.Initrd != filepath.Join(dir, "initrd") || b.Rootfs != "" {
			t.Errorf("%s: paths %q, %q, %q", arch, b.Kernel, b.Initrd, b.Rootfs)
		}
		if diff := cmp.Diff([]string{".verified.json", "initrd", "manifest.json", "vmlinux"}, list(t, dir)); diff != "" {
			t.Errorf("%s: files, -want +got:\n%s", arch, diff)
		}
		if left := list(t, filepath.Dir(dir)); len(left) != 1 {
			t.Errorf("%s: beside the bundle: %v", arch, left)
		}
	}
}

func TestTwoBuildsGiveEqualBytes(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	a, b := build(t, cpuarch.X8664, t.TempDir()), build(t, cpuarch.X8664, t.TempDir())
	for _, name := range []string{kernelName, initrdName, manifestName} {
		one, err := os.ReadFile(filepath.Join(a.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(filepath.Join(b.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if string(one) != string(two) {
			t.Errorf("%s differs", name)
		}
	}
	if got := a.Manifest.CreatedAt.Format(timeLayout); got != "2023-11-14T22:13:20.000Z" {
		t.Errorf("createdAt %s", got)
	}
}

func TestTheInitramfsHoldsWhatAGuestNeeds(t *testing.T) {
	t.Parallel()
	set := moduleSet{release: testRelease, modules: []module{{name: "x", path: "kernel/a/x.ko", data: []byte("x")}}, boot: []string{"kernel/a/x.ko"}}
	ramfs := newInitramfs([]byte("init"), []byte("\x00[\x00cat\x00sh\x00not-an-applet\x00cat "), set)
	var got []string
	for name, n := range ramfs {
		got = append(got, fmt.Sprintf("%s %o %d,%d %.20q", name, n.mode, n.major, n.minor, n.data))
	}
	for _, want := range []string{
		`init 100755 0,0 "init"`, `dev/console 20600 5,1 ""`, `dev/null 20666 1,3 ""`, `tmp 41777 0,0 ""`, `root 40700 0,0 ""`,
		`sbin 120777 0,0 "bin"`, `usr/bin 120777 0,0 "../bin"`, `bin/sh 120777 0,0 "busybox"`, `bin/[ 120777 0,0 "busybox"`,
		`lib 40755 0,0 ""`, `lib/modules/` + testRelease + `/kernel/a 40755 0,0 ""`,
		`lib/modules/` + testRelease + `/smartvm.modules 100644 0,0 "kernel/a/x.ko\n"`,
		`lib/modules/` + testRelease + `/modules.dep 100644 0,0 "kernel/a/x.ko:\n"`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("lacks %s; has\n%s", want, strings.Join(got, "\n"))
		}
	}
	if _, ok := ramfs["bin/ls"]; ok {
		t.Error("a link to an applet that this busybox has not")
	}
}

func TestWhatCannotBeBuiltLeavesTheBundleAsItWas(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bundle")
	good := build(t, cpuarch.X8664, dir)
	init := testProgram(cpuarch.X8664, "init")
	changed := func(change func(map[string][]byte)) string {
		files := testPackage(t, cpuarch.X8664)
		change(files)
		return folder(t, files)
	}
	const kernel = "boot/vmlinuz-" + testRelease
	for name, c := range map[string]struct {
		o    DebianOptions
		want string
	}{
		"no init":             {DebianOptions{}, "no init"},
		"an init of text":     {DebianOptions{Init: []byte("#!/bin/sh\n")}, "no ELF"},
		"another machine's":   {DebianOptions{Init: testProgram(cpuarch.AArch64, "init")}, "another machine"},
		"another arch":        {DebianOptions{Arch: "riscv64", Init: init}, "riscv64"},
		"the package's arch":  {DebianOptions{Init: init, Package: folder(t, testPackage(t, cpuarch.AArch64))}, "is for aarch64"},
		"no package":          {DebianOptions{Init: init, Package: filepath.Join(t.TempDir(), "none")}, "none"},
		"a device":            {DebianOptions{Init: init, Package: "/dev/null"}, "neither a file nor a folder"},
		"a kernel of text":    {DebianOptions{Init: init, Package: changed(func(f map[string][]byte) { f[kernel] = []byte("text") })}, "it is text"},
		"no kernel":           {DebianOptions{Init: init, Package: changed(func(f map[string][]byte) { delete(f, kernel) })}, "no package holds a kernel"},
		"two kernels":         {DebianOptions{Init: init, Package: changed(func(f map[string][]byte) { f[kernel+"2"] = f[kernel] })}, "2 kernels"},
		"a dynamic busybox":   {DebianOptions{Init: init, Package: changed(func(f map[string][]byte) { f["bin/busybox"] = dynamicProgram() })}, "dynamically"},
		"busybox given twice": {DebianOptions{Init: init, Package: changed(func(map[string][]byte) {}), Busybox: changed(func(map[string][]byte) {})}, "another package"},
	} {
		c.o.Dir = dir
		if c.o.Arch == "" {
			c.o.Arch = cpuarch.X8664
		}
		_, err := BuildDebian(t.Context(), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, c.want)
		}
		if opened, err := Open(t.Context(), dir); err != nil || !cmp.Equal(good, opened) {
			t.Errorf("%s: the bundle is not what it was: %v", name, err)
		}
		if left := list(t, filepath.Dir(dir)); len(left) != 1 {
			t.Fatalf("%s: left beside the bundle: %v", name, left)
		}
	}
}

func TestABuildThatIsCancelledAnywhereLeavesNothing(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	o := DebianOptions{Arch: cpuarch.X8664, Dir: filepath.Join(parent, "bundle"), Package: folder(t, testPackage(t, cpuarch.X8664)), Init: testProgram(cpuarch.X8664, "init")}
	for looks := 0; ; looks++ {
		ctx := &endingContext{Context: t.Context(), left: looks}
		_, err := BuildDebian(ctx, o)
		if ctx.left >= 0 { // never ended: the build was done before
			if err != nil || looks < 20 {
				t.Errorf("%v after %d looks at the context", err, looks)
			}
			return
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("after %d looks: %v", looks, err)
		}
		if left := list(t, parent); len(left) != 0 {
			t.Fatalf("after %d looks: left %v", looks, left)
		}
	}
}

// endingContext ends after it was looked at a number of times.
type endingContext struct {
	context.Context
	left int
}

func (c *endingContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestABundleReplacesABundleAndNothingElse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bundle")
	first := build(t, cpuarch.X8664, dir)
	o := DebianOptions{Arch: cpuarch.X8664, Dir: dir, Package: folder(t, testPackage(t, cpuarch.X8664)), Init: testProgram(cpuarch.X8664, "another")}
	second, err := BuildDebian(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if first.Manifest.BundleID == second.Manifest.BundleID {
		t.Error("another init makes a bundle of the same id")
	}
	if err := os.WriteFile(filepath.Join(dir, "letter.txt"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := BuildDebian(t.Context(), o); err == nil || !strings.Contains(err.Error(), "letter.txt") {
		t.Errorf("a folder with a file of the user's: %v", err)
	}
	o.Dir = filepath.Join(dir, "letter.txt")
	if _, err := BuildDebian(t.Context(), o); err == nil || !strings.Contains(err.Error(), "not a folder") {
		t.Errorf("a file in the bundle's place: %v", err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "letter.txt")); string(data) != "mine" {
		t.Errorf("the user's file: %q, %v", data, err)
	}
}

func TestSwapInStepsDoesWhatTheKernelsExchangeDoes(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(from, to string) error{"swap": swap, "swapInSteps": swapInSteps} {
		dir := folder(t, map[string][]byte{"new/a": nil, "old/b": nil})
		if err := do(dir+"/new", dir+"/old"); err != nil {
			t.Fatal(err)
		}
		if got := append(list(t, dir+"/old"), list(t, dir+"/new")...); !cmp.Equal(got, []string{"a", "b"}) {
			t.Errorf("%s: %v", name, got)
		}
		if err := do(dir+"/new", dir+"/fresh"); err != nil || !cmp.Equal(list(t, dir), []string{"fresh", "old"}) {
			t.Errorf("%s: to a new name: %v, %v", name, err, list(t, dir))
		}
		if err := do(dir+"/none", dir+"/old"); err == nil || !cmp.Equal(list(t, dir), []string{"fresh", "old"}) {
			t.Errorf("%s: from nothing: %v, %v", name, err, list(t, dir))
		}
	}
}

func TestEpochsThatAreNoNumbersAreRefused(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	_, err := BuildDebian(t.Context(), DebianOptions{Arch: cpuarch.X8664, Dir: t.TempDir(), Init: testProgram(cpuarch.X8664, "init")})
	if err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("got %v", err)
	}
}

func list(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
