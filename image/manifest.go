package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The names of a bundle's files.
const (
	manifestName = "manifest.json"
	kernelName   = "vmlinux"
	initrdName   = "initrd"
	stampName    = ".verified.json"
)

// Manifest is a bundle's manifest.json. Paths are relative to the bundle's folder, or absolute and inside it.
type Manifest struct {
	Preset             string    `json:"preset"` // "debian", "latest", "lts" or "hosted"
	Arch               string    `json:"arch"`
	CIVersion          string    `json:"ciVersion"`          // the preset's series; for "debian" the kernel package's version
	FirecrackerVersion string    `json:"firecrackerVersion"` // the release that the bundle was made for
	BundleID           string    `json:"bundleId"`
	BundleDir          string    `json:"bundleDir"` // "." here: a bundle may be moved
	KernelImagePath    string    `json:"kernelImagePath"`
	InitrdPath         string    `json:"initrdPath,omitempty"`
	RootfsPath         string    `json:"rootfsPath,omitempty"`
	RootfsType         string    `json:"rootfsType,omitempty"` // "ext4" or "squashfs"
	RootfsIsReadOnly   bool      `json:"rootfsIsReadOnly,omitempty"`
	BootArgs           string    `json:"bootArgs"`
	KernelRelease      string    `json:"kernelRelease,omitempty"` // the modules in the initrd fit this kernel only
	Source             Source    `json:"source"`
	Checksums          Checksums `json:"checksums"`
	Sizes              Sizes     `json:"sizes"`
	CreatedAt          Time      `json:"createdAt"`
	LastAccessedAt     Time      `json:"lastAccessedAt"`
}

// Source says where a bundle's parts come from.
type Source struct {
	Type     string    `json:"type"`               // "debian-package", "firecracker-ci" or "hosted-manifest"
	Packages []Package `json:"packages,omitempty"` // of a "debian-package"

	BucketURL        string `json:"bucketUrl,omitempty"` // of a "firecracker-ci", with the next two
	KernelKey        string `json:"kernelKey,omitempty"`
	RootfsKey        string `json:"rootfsKey,omitempty"`
	ManifestURL      string `json:"manifestUrl,omitempty"` // of a "hosted-manifest", with the rest
	ManifestPath     string `json:"manifestPath,omitempty"`
	KernelURL        string `json:"kernelUrl,omitempty"`
	RootfsURL        string `json:"rootfsUrl,omitempty"`
	KernelSourcePath string `json:"kernelSourcePath,omitempty"`
	RootfsSourcePath string `json:"rootfsSourcePath,omitempty"`
}

// Checksums are SHA-256 sums in 64 lower-case hex digits.
type Checksums struct {
	KernelSHA256 string `json:"kernelSha256"`
	InitrdSHA256 string `json:"initrdSha256,omitempty"`
	RootfsSHA256 string `json:"rootfsSha256,omitempty"`
	InitSHA256   string `json:"initSha256,omitempty"` // of /init in the initrd
}

// Sizes are in bytes.
type Sizes struct {
	KernelBytes int64 `json:"kernelBytes"`
	InitrdBytes int64 `json:"initrdBytes,omitempty"`
	RootfsBytes int64 `json:"rootfsBytes,omitempty"`
}

// Time is a point of time that is written as ISO 8601 in UTC with milliseconds.
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05.000Z"

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(t.UTC().Format(timeLayout)) }

// UnmarshalJSON implements json.Unmarshaler. It takes any RFC 3339 time.
func (t *Time) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	parsed, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return err
	}
	t.Time = parsed.UTC()
	return nil
}

// maxManifest bounds a manifest, in bytes.
const maxManifest = 1 << 20

// readManifest reads and checks a bundle's manifest.
func readManifest(dir string) (Manifest, error) {
	var m Manifest
	f, err := os.Open(filepath.Join(dir, manifestName))
	if err != nil {
		return m, err
	}
	defer f.Close()
	d := json.NewDecoder(bounded(f, maxManifest))
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("%s is no manifest: %w", manifestName, err)
	}
	if m.BundleID == "" || m.KernelImagePath == "" {
		return m, fmt.Errorf("%s is no manifest: it lacks bundleId or kernelImagePath", manifestName)
	}
	return m, nil
}

// write writes the manifest into the folder dir.
func (m Manifest) write(dir string) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, manifestName), append(data, '\n'))
}

// artifact is a file of a bundle with what its manifest says about it.
type artifact struct {
	name   string // "kernel", "initrd", "rootfs"
	path   string // absolute
	sha256 string
	size   int64
}

// artifacts lists the files of the bundle in dir, an absolute path. A path that leads out of dir is an error.
func (m Manifest) artifacts(dir string) ([]artifact, error) {
	var list []artifact
	for _, a := range []artifact{
		{"kernel", m.KernelImagePath, m.Checksums.KernelSHA256, m.Sizes.KernelBytes},
		{"initrd", m.InitrdPath, m.Checksums.InitrdSHA256, m.Sizes.InitrdBytes},
		{"rootfs", m.RootfsPath, m.Checksums.RootfsSHA256, m.Sizes.RootfsBytes},
	} {
		if a.path == "" {
			continue
		}
		rel := a.path
		if filepath.IsAbs(rel) {
			var err error
			if rel, err = filepath.Rel(dir, rel); err != nil {
				return nil, fmt.Errorf("the %s's path %q is not in the bundle's folder", a.name, a.path)
			}
		}
		if !filepath.IsLocal(rel) {
			return nil, fmt.Errorf("the %s's path %q is not in the bundle's folder", a.name, a.path)
		}
		if len(a.sha256) != 64 || a.size <= 0 {
			return nil, fmt.Errorf("%s has no checksum or no size of the %s", manifestName, a.name)
		}
		a.sha256 = strings.ToLower(a.sha256)
		a.path = filepath.Join(dir, rel)
		list = append(list, a)
	}
	return list, nil
}

// writeFile writes a new file through to the disk.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
