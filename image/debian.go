package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"smartvm/internal/cpuarch"
	"smartvm/internal/lazyregexp"
)

// DebianOptions say how the default image is made.
type DebianOptions struct {
	Arch string // cpuarch.X8664 or cpuarch.AArch64; "" is the host's
	Dir  string // the bundle's folder; a bundle that is there already is replaced

	// Package is where the kernel's package is: a .deb, a folder with an unpacked one, or a folder with several of both,
	// such as kernel, modules and busybox. "" gets the packages of Debian's cloud kernel and busybox by apt.
	Package string
	// Busybox is where the package busybox-static is, in the same forms. "" takes it out of Package, or by apt when
	// Package is "", too. An image without busybox has nothing but init, and the drives that are given to the VM.
	Busybox string

	// CacheDir keeps the packages that apt fetched; "" is smartvm/packages in the user's cache folder. What is there is
	// not fetched again.
	CacheDir string

	Init []byte       // the guest's /init: a static program for Arch
	Log  *slog.Logger // nil is silent
}

// firecrackerVersion is the release that the default image is made for.
const firecrackerVersion = "v1.16.1"

// maxBusybox bounds busybox, in bytes.
const maxBusybox = 64 << 20

// BuildDebian makes the default image, "debian": the kernel of Debian's linux-image-cloud package, its modules for a
// microVM's devices, busybox and an init. Equal packages and an equal init give equal files, byte for byte; the
// manifest differs in its times only, and not even in them when SOURCE_DATE_EPOCH is set.
//
// The bundle is made aside and swapped in when it is whole. After an error the folder is as it was.
func BuildDebian(ctx context.Context, o DebianOptions) (Bundle, error) {
	b, err := o.build(ctx)
	if err != nil {
		return Bundle{}, fmt.Errorf("make the image debian: %w", err)
	}
	return b, nil
}

func (o DebianOptions) build(ctx context.Context) (Bundle, error) {
	if err := o.complete(); err != nil {
		return Bundle{}, err
	}
	now, err := buildTime()
	if err != nil {
		return Bundle{}, err
	}
	st, err := newStage(o.Dir)
	if err != nil {
		return Bundle{}, err
	}
	defer st.abandon()

	m, err := o.fill(ctx, st)
	if err != nil {
		return Bundle{}, err
	}
	m.CreatedAt, m.LastAccessedAt = Time{now}, Time{now}
	if err := m.write(st.dir); err != nil {
		return Bundle{}, err
	}
	if _, err := Open(ctx, st.dir); err != nil { // leaves the note of what was found good, too
		return Bundle{}, err
	}
	if err := st.commit(); err != nil {
		return Bundle{}, err
	}
	b, _, err := openBundle(st.target)
	if err == nil {
		o.Log.Info("made the image", "bundle", m.BundleID, "dir", b.Dir)
	}
	return b, err
}

// complete puts the defaults in and checks the rest.
func (o *DebianOptions) complete() error {
	if o.Arch == "" {
		o.Arch = cpuarch.Host()
	}
	if o.Arch != cpuarch.X8664 && o.Arch != cpuarch.AArch64 {
		return fmt.Errorf("architecture %q: Firecracker runs on %s and %s", o.Arch, cpuarch.X8664, cpuarch.AArch64)
	}
	if o.Dir == "" {
		return errors.New("no folder is given for the bundle")
	}
	if len(o.Init) == 0 {
		return errors.New("no init is given")
	}
	if err := checkProgram(o.Init, o.Arch); err != nil {
		return fmt.Errorf("the init cannot be used: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// fill makes the bundle's files in the stage and returns what the manifest says of them.
func (o DebianOptions) fill(ctx context.Context, st *stage) (Manifest, error) {
	spool, err := os.Create(st.path("spool"))
	if err != nil {
		return Manifest{}, err
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	pkgs, err := o.packages(ctx, spool)
	if err != nil {
		return Manifest{}, err
	}
	defer pkgs.Close()

	m := Manifest{
		Preset: "debian", Arch: o.Arch, FirecrackerVersion: firecrackerVersion, BundleDir: ".",
		KernelImagePath: kernelName, InitrdPath: initrdName, BootArgs: bootArgs(o.Arch),
		Source: Source{Type: "debian-package", Packages: pkgs.list},
	}
	m.Checksums.InitSHA256 = hashBytes(o.Init)
	kernelPackage, err := o.writeKernel(ctx, st, pkgs, &m)
	if err != nil {
		return Manifest{}, err
	}
	if err := o.writeInitrd(ctx, st, pkgs, &m); err != nil {
		return Manifest{}, err
	}
	m.CIVersion = kernelPackage.Version
	if m.CIVersion == "" {
		m.CIVersion = m.KernelRelease
	}
	m.BundleID = unsafeInID.ReplaceAllString(strings.Join([]string{"debian", m.CIVersion, o.Arch,
		kernelName, m.Checksums.KernelSHA256[:12], initrdName, m.Checksums.InitrdSHA256[:12]}, "-"), "_")
	return m, nil
}

// unsafeInID matches what a bundle's id must not have: behaviour.md allows [A-Za-z0-9._-].
var unsafeInID = lazyregexp.New(`[^A-Za-z0-9._-]`)

// packages reads the packages that the options name, or gets them by apt.
func (o DebianOptions) packages(ctx context.Context, spool *os.File) (*packages, error) {
	paths := []string{o.Package}
	if o.Busybox != "" {
		paths = append(paths, o.Busybox)
	}
	if o.Package == "" {
		fetched, err := fetchPackages(ctx, o)
		if err != nil {
			return nil, err
		}
		paths = append(fetched, paths[1:]...)
	}
	p := &packages{}
	for _, path := range paths {
		o.Log.Debug("read package", "path", path)
		if err := p.add(ctx, path, spool); err != nil {
			p.Close()
			return nil, err
		}
	}
	return p, nil
}

// writeKernel unpacks the kernel and returns the package that it came from.
func (o DebianOptions) writeKernel(ctx context.Context, st *stage, pkgs *packages, m *Manifest) (Package, error) {
	found := pkgs.files.names(func(name string) bool {
		return strings.HasPrefix(name, "boot/vmlinu") || strings.HasPrefix(name, "lib/modules/") && path.Base(name) == "vmlinuz"
	})
	if len(found) != 1 {
		if len(found) == 0 {
			return Package{}, errors.New("no package holds a kernel (boot/vmlinuz-…)")
		}
		return Package{}, fmt.Errorf("the packages hold %d kernels, give one: %s", len(found), strings.Join(found, ", "))
	}
	dst, err := createHashed(st.path(kernelName))
	if err != nil {
		return Package{}, err
	}
	defer dst.Close()
	src := pkgs.files[found[0]]
	var k Kernel
	err = src.read(func(r io.ReaderAt) error {
		k, err = ExtractKernel(ctx, dst, r, src.size())
		return err
	})
	if err != nil {
		return Package{}, fmt.Errorf("kernel %s: %w", found[0], err)
	}
	if k.Arch != o.Arch {
		return Package{}, fmt.Errorf("kernel %s is for %s, not for %s", found[0], k.Arch, o.Arch)
	}
	if m.Checksums.KernelSHA256, err = dst.finish(); err != nil {
		return Package{}, err
	}
	m.Sizes.KernelBytes = dst.size
	m.KernelRelease = k.Release
	for _, p := range pkgs.list {
		if strings.HasPrefix(p.Name, "linux-") {
			return p, nil
		}
	}
	return Package{}, nil
}

// writeInitrd makes the initramfs.
func (o DebianOptions) writeInitrd(ctx context.Context, st *stage, pkgs *packages, m *Manifest) error {
	modules, err := collectModules(ctx, pkgs.files, m.KernelRelease)
	if err != nil {
		return err
	}
	var busybox []byte
	if _, ok := pkgs.files["bin/busybox"]; ok {
		if busybox, err = pkgs.files.readAll("bin/busybox", maxBusybox); err != nil {
			return err
		}
		if err := checkProgram(busybox, o.Arch); err != nil {
			return fmt.Errorf("busybox cannot be used: %w (wanted: the package busybox-static)", err)
		}
	} else {
		o.Log.Warn("the image has no busybox: no package holds bin/busybox")
	}
	dst, err := createHashed(st.path(initrdName))
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := newInitramfs(o.Init, busybox, modules).write(dst, 0); err != nil {
		return fmt.Errorf("write the initramfs: %w", err)
	}
	if m.Checksums.InitrdSHA256, err = dst.finish(); err != nil {
		return err
	}
	m.Sizes.InitrdBytes = dst.size
	return nil
}

// bootArgs are the kernel's arguments: its messages on the console that Firecracker shows, and an end of the VM when
// it reboots (by the keyboard controller, Firecracker has nothing else) or panics. Firecracker itself adds "pci=off"
// where it has no PCI. On aarch64 the early console has to stay: the real one comes late (Firecracker's
// docs/getting-started.md).
func bootArgs(arch string) string {
	args := "console=ttyS0 reboot=k panic=1"
	if arch == cpuarch.AArch64 {
		args = "keep_bootcon " + args
	}
	return args
}

// buildTime is now, or what SOURCE_DATE_EPOCH says (https://reproducible-builds.org/specs/source-date-epoch/).
func buildTime() (time.Time, error) {
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is %q, which is no number of seconds", epoch)
	}
	return time.Unix(seconds, 0), nil
}
