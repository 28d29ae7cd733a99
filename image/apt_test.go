package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"smartvm/internal/cpuarch"
	"smartvm/internal/proof"
)

// These drive the machine's own apt. Where there is none, the error that says so is what is tested.

func TestTheDefaultImageIsMadeFromDebiansPackages(t *testing.T) {
	proof.Host(t)
	o := aptOptions(t)
	b, err := BuildDebian(t.Context(), o)
	if missingApt(t, err) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m := b.Manifest
	if len(m.Source.Packages) < 2 || !strings.HasPrefix(m.Source.Packages[0].Name, "linux-image-") || m.CIVersion != m.Source.Packages[0].Version {
		t.Errorf("source %+v, version %q", m.Source, m.CIVersion)
	}
	if !strings.Contains(m.KernelRelease, "cloud") {
		t.Errorf("release %q", m.KernelRelease)
	}
	f, err := os.Open(b.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	k, err := InspectKernel(f, m.Sizes.KernelBytes)
	if err != nil || k.Release != m.KernelRelease || k.Arch != o.Arch {
		t.Errorf("kernel %+v, %v", k, err)
	}
	const small = 16 << 20 // the initramfs is loaded at every boot
	if m.Sizes.InitrdBytes > small {
		t.Errorf("the initrd has %d bytes", m.Sizes.InitrdBytes)
	}
	initrd, err := os.ReadFile(b.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"virtio_mmio.ko\nkernel/", "bin/modprobe\x00", "/kernel/fs/overlayfs/overlay.ko\x00", "alias fs-squashfs squashfs\n"} {
		if !bytes.Contains(initrd, []byte(part)) {
			t.Errorf("the initrd lacks %q", part)
		}
	}

	// Again, without any network: all comes out of the cache.
	o.Log = slog.New(slog.DiscardHandler)
	t.Setenv("APT_CONFIG", aptConfig(t, `Acquire::http::Proxy "http://127.0.0.1:1"; Acquire::https::Proxy "http://127.0.0.1:1";`))
	cached, err := fetchPackages(t.Context(), o)
	if err != nil || len(cached) != len(m.Source.Packages) {
		t.Errorf("from the cache: %v, %v", cached, err)
	}
	for i, path := range cached {
		if sum, err := hashFile(t.Context(), path); err != nil || sum != m.Source.Packages[i].SHA256 {
			t.Errorf("from the cache: %s: %s, %v", path, sum, err)
		}
	}

	// With an empty cache there is nothing to be had.
	o.CacheDir = t.TempDir()
	_, err = fetchPackages(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "is there a network?") {
		t.Errorf("without a network: %v", err)
	}
	if left := list(t, o.CacheDir); len(left) != 0 {
		t.Errorf("left in the cache: %v", left)
	}
}

func TestWithoutAptsListsTheErrorNamesTheCommand(t *testing.T) {
	proof.Host(t)
	t.Setenv("APT_CONFIG", aptConfig(t, `Dir::State::lists "`+t.TempDir()+`"; Dir::Cache "`+t.TempDir()+`"; Dir::State::status "/dev/null";`))
	_, err := BuildDebian(t.Context(), aptOptions(t))
	if missingApt(t, err) {
		return
	}
	if err == nil || !strings.Contains(err.Error(), "apt-get update") {
		t.Errorf("got %v", err)
	}
}

func TestAForeignArchitectureIsAskedForAsSuch(t *testing.T) {
	proof.Host(t)
	o := aptOptions(t)
	o.Arch = map[string]string{cpuarch.X8664: cpuarch.AArch64, cpuarch.AArch64: cpuarch.X8664}[cpuarch.Host()]
	o.Init = testProgram(o.Arch, "init")
	_, err := BuildDebian(t.Context(), o)
	if missingApt(t, err) || err == nil {
		return // this machine's apt knows the other architecture, too
	}
	if want := "linux-image-cloud-" + debianArch(o.Arch) + ":" + debianArch(o.Arch); !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
}

func TestWithoutAptTheErrorAsksForThePackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := BuildDebian(t.Context(), aptOptions(t))
	if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "linux-image-cloud-"+debianArch(cpuarch.Host())) {
		t.Errorf("got %v", err)
	}
}

func TestAptEndsWithItsContext(t *testing.T) {
	t.Parallel()
	a := &apt{options: DebianOptions{}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.run(ctx, "", program); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestWhatAProgramPrintsIsKeptUpToItsLimit(t *testing.T) {
	t.Parallel()
	var b cappedBuffer
	n, err := io.Copy(&b, io.LimitReader(zeros{}, maxAptOutput+1000))
	if n != maxAptOutput+1000 || err != nil || b.kept.Len() != maxAptOutput || !b.over {
		t.Errorf("took %d, %v; kept %d, over %v", n, err, b.kept.Len(), b.over)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// aptOptions ask for the default image by apt, with the cache of this working copy.
func aptOptions(t *testing.T) DebianOptions {
	t.Helper()
	return DebianOptions{Arch: cpuarch.Host(), Dir: filepath.Join(t.TempDir(), "bundle"), CacheDir: filepath.Join(proof.Root(t), "build", "cache"),
		Init: testProgram(cpuarch.Host(), "init")}
}

// missingApt reports whether this machine has no apt, in which case err must say so.
func missingApt(t *testing.T, err error) bool {
	t.Helper()
	if _, lookErr := exec.LookPath("apt-get"); lookErr == nil {
		return false
	}
	if !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("there is no apt-get, and the error is %v", err)
	}
	return true
}

// aptConfig writes a file for APT_CONFIG.
func aptConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "apt.conf")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
