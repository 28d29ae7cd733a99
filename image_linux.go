package smartvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"smartvm/guest"
	"smartvm/image"
)

// DefaultImage is the image that is built from Debian's packages on this host.
const DefaultImage = "debian"

// ImageDir returns the folder of an image by name: <DataDir>/base-images/<name>-<arch>.
func (m *Manager) ImageDir(name string) string {
	return filepath.Join(m.options.DataDir, "base-images", name+"-"+m.options.Arch)
}

// Image opens an image by its name. One that is not there, or that was made with another init than this program's, is
// BaseImageResolveFailed and fs.ErrNotExist; one that is damaged is BaseImagePrepareFailed. BuildImage helps in both cases.
func (m *Manager) Image(ctx context.Context, name string) (image.Bundle, error) {
	if name != DefaultImage {
		return image.Bundle{}, &Error{Code: BaseImageResolveFailed, Op: "image", Err: fmt.Errorf("unknown image %q; the one there is is %q", name, DefaultImage)}
	}
	bundle, err := image.Open(ctx, m.ImageDir(name))
	if errors.Is(err, fs.ErrNotExist) {
		return bundle, &Error{Code: BaseImageResolveFailed, Op: "image", Err: fmt.Errorf("image %q is not there yet; `smartvm image build` makes it: %w", name, err)}
	}
	if err != nil {
		return bundle, &Error{Code: BaseImagePrepareFailed, Op: "image", Err: fmt.Errorf("image %q is damaged; `smartvm image build` makes it anew: %w", name, err)}
	}
	if init, err := guest.Init(m.options.Arch); err == nil && bundle.Manifest.Checksums.InitSHA256 != hex.EncodeToString(sum(init)) {
		return bundle, &Error{Code: BaseImageResolveFailed, Op: "image", Err: fmt.Errorf("image %q was made by another version of smartvm; `smartvm image build` makes it anew: %w", name, fs.ErrNotExist)}
	}
	return bundle, nil
}

func sum(data []byte) []byte {
	digest := sha256.Sum256(data)
	return digest[:]
}

// ImageSource says where the default image is made from; the zero value asks the host's package manager.
type ImageSource struct {
	Package string // an unpacked linux-image package, a .deb, or a folder of .debs
	Busybox string // likewise for busybox-static
	Dir     string // where to put the image instead of ImageDir
	Init    string // a file with the guest's init; default: the one in this program
}

// BuildImage makes the default image and returns it. The same packages and the same init give the same bytes.
// BaseImagePrepareFailed when it could not be made; an image that was there stays then.
func (m *Manager) BuildImage(ctx context.Context, source ImageSource) (image.Bundle, error) {
	failed := func(err error) (image.Bundle, error) {
		return image.Bundle{}, &Error{Code: BaseImagePrepareFailed, Op: "build image", Err: err}
	}
	init, err := m.initBinary(source.Init)
	if err != nil {
		return failed(err)
	}
	dir := source.Dir
	if dir == "" {
		dir = m.ImageDir(DefaultImage)
		for _, parent := range []string{m.options.DataDir, filepath.Dir(dir)} {
			if err := secureDir(parent); err != nil {
				return failed(err)
			}
		}
	}
	bundle, err := image.BuildDebian(ctx, image.DebianOptions{
		Arch: m.options.Arch, Dir: dir, Package: source.Package, Busybox: source.Busybox,
		CacheDir: filepath.Join(m.options.DataDir, "packages"), Init: init, Log: m.options.Logger,
	})
	if err != nil {
		return failed(err)
	}
	return bundle, nil
}

// initBinary returns the guest's init: from a file, or the one in this program.
func (m *Manager) initBinary(path string) ([]byte, error) {
	if path != "" {
		return os.ReadFile(path)
	}
	return guest.Init(m.options.Arch)
}

// UseImage completes the configuration with an image's kernel, initrd, boot arguments and root drive, where it has none of
// its own. An image with our init also turns the agent on.
func (c *Config) UseImage(b image.Bundle) {
	if c.BootSource.KernelImagePath == "" {
		c.BootSource.KernelImagePath = b.Kernel
		if c.BootSource.BootArgs == "" {
			c.BootSource.BootArgs = b.Manifest.BootArgs
		}
	}
	if c.BootSource.InitrdPath == "" && b.Initrd != "" {
		c.BootSource.InitrdPath = b.Initrd
		if c.Guest == nil && b.Manifest.Checksums.InitSHA256 != "" {
			c.Guest = &Guest{}
		}
	}
	if root := b.Rootfs; root != "" && rootDrive(c) == nil {
		c.Drives = append([]Drive{{DriveID: "rootfs", PathOnHost: root, IsRootDevice: true, IsReadOnly: b.Manifest.RootfsIsReadOnly}}, c.Drives...)
	}
}
