package lab

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"smartvm/image"
)

// rootRecipe is the version of how the root is made: a change of this file that changes the root raises it.
const rootRecipe = "1"

// Where things are in the lab. Payload is where the drive of a run is, Scratch the empty one.
const (
	Payload = "/lab"
	Scratch = "/scratch"
)

// rootFolders are there beside what packages bring; 0o755 all, as what is mounted on them has modes of its own.
var rootFolders = []string{"dev", "etc", "home", "lab", "mnt", "proc", "root", "run", "scratch", "srv", "sys", "tmp", "usr/local/bin", "var/lib/smartvm", "var/tmp"}

// rootLinks are Debian's merged /usr, and the programs of a run where users have them: in PATH.
var rootLinks = map[string]string{
	"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "/run",
	"etc/mtab": "/proc/self/mounts", "usr/bin/sh": "dash",
	"usr/local/bin/smartvm": Payload + "/src/bin/smartvm", "usr/local/bin/firecracker-emulator": Payload + "/src/bin/firecracker-emulator",
	"usr/local/bin/firecracker": Payload + "/vmm/firecracker", "usr/local/bin/jailer": Payload + "/vmm/jailer",
}

// rootFiles are the least that programs expect to find.
var rootFiles = map[string]string{
	"etc/group":         "root:x:0:\ntty:x:5:\nkvm:x:104:\nusers:x:1000:\nnogroup:x:65534:\n",
	"etc/hosts":         "127.0.0.1\tlocalhost lab\n::1\tlocalhost\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	"etc/os-release":    "NAME=\"SmartVM lab\"\nID=smartvm-lab\nPRETTY_NAME=\"SmartVM lab\"\n",
	"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
}

// root returns the path of the host's root, made for a bundle's kernel. It is made only when there is none yet.
func (o Options) root(ctx context.Context, bundle image.Bundle) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, rootRecipe, wanted, unwanted, bundle.Manifest.KernelRelease, bundle.Manifest.Source.Packages)
	path := filepath.Join(o.Dir, "root-"+hex.EncodeToString(h.Sum(nil))[:16]+".squashfs")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	o.Log("lab: make the host's root out of Debian's packages")
	list, kernel, err := o.packages(ctx, bundle)
	if err != nil {
		return "", err
	}
	old, err := filepath.Glob(filepath.Join(o.Dir, "root-*.squashfs*"))
	if err != nil {
		return "", err
	}
	for _, p := range old { // each has hundreds of megabytes
		os.Remove(p)
	}
	s, err := newSquashfs(ctx, path)
	if err != nil {
		return "", err
	}
	return path, s.commit(o.fillRoot(ctx, s, bundle.Manifest.KernelRelease, list, kernel))
}

// packages gets all that the root is made of: the packages of the programs and those of the kernel.
func (o Options) packages(ctx context.Context, bundle image.Bundle) (list, kernel []debPackage, err error) {
	if list, err = resolve(ctx, wanted); err == nil {
		err = fetch(ctx, o.Packages, list)
	}
	if err == nil {
		kernel, err = o.kernelPackages(ctx, bundle)
	}
	if err != nil && ctx.Err() == nil {
		err = &UnavailableError{err}
	}
	return list, kernel, err
}

// kernelPackages returns the packages that the bundle's kernel and modules came from. They are in the cache, as the bundle
// was made here; else apt has them, as long as they are the newest.
func (o Options) kernelPackages(ctx context.Context, bundle image.Bundle) ([]debPackage, error) {
	var list []debPackage
	for _, p := range bundle.Manifest.Source.Packages {
		if p.Name == "busybox-static" {
			continue
		}
		if p.SHA256 == "" {
			return nil, fmt.Errorf("the image %s was not made from Debian's packages: make it with `make image`", bundle.Dir)
		}
		file := strings.ReplaceAll(p.Name+"_"+p.Version+"_amd64.deb", ":", "%3a")
		list = append(list, debPackage{file: file, sha256: p.SHA256, spec: p.Name + "=" + p.Version})
	}
	return list, fetch(ctx, o.Packages, list)
}

func (o Options) fillRoot(ctx context.Context, s *squashfs, release string, list, kernel []debPackage) error {
	for _, dir := range rootFolders {
		if err := s.folder(dir, 0o755); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rootLinks)) {
		if err := s.link(name, rootLinks[name]); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rootFiles)) {
		if err := s.data(name, 0o644, []byte(rootFiles[name])); err != nil {
			return err
		}
	}
	there := map[string]bool{}
	var busybox []byte
	for _, p := range list {
		err := eachFile(ctx, filepath.Join(o.Packages, p.file), func(h *tar.Header, r io.Reader) error {
			if h.Name == "usr/bin/busybox" {
				var err error
				busybox, err = io.ReadAll(r)
				if err != nil {
					return err
				}
				return s.data(h.Name, 0o755, busybox)
			}
			return s.packaged(h, r, there)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
	}
	if err := s.applets(ctx, busybox, there); err != nil {
		return err
	}
	return o.fillModules(ctx, s, release, kernel)
}

// packaged adds a file of a package, unless nobody needs it in the lab.
func (s *squashfs) packaged(h *tar.Header, r io.Reader, there map[string]bool) error {
	for _, prefix := range []string{"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/include"} {
		if h.Name == prefix || strings.HasPrefix(h.Name, prefix+"/") {
			return nil
		}
	}
	if h.Typeflag == tar.TypeDir {
		if _, merged := rootLinks[h.Name]; merged {
			return nil
		}
		return s.folder(h.Name, h.Mode)
	}
	_, file := rootFiles[h.Name]
	_, link := rootLinks[h.Name]
	if file || link || there[h.Name] {
		return nil
	}
	there[h.Name] = true
	if err := s.folder(path.Dir(h.Name), 0o755); err != nil {
		return err
	}
	if err := s.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(s, r)
	return err
}

// applets adds busybox's names, where no package has a program of that name. The lab's architecture is this machine's, so
// busybox itself is asked for them.
func (s *squashfs) applets(ctx context.Context, busybox []byte, there map[string]bool) error {
	if len(busybox) == 0 {
		return errors.New("the package busybox-static has no busybox")
	}
	tool, err := os.CreateTemp("", "busybox-")
	if err != nil {
		return err
	}
	defer os.Remove(tool.Name())
	_, err = tool.Write(busybox)
	err = errors.Join(err, tool.Chmod(0o700), tool.Close())
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, tool.Name(), "--list-full").Output()
	if err != nil {
		return fmt.Errorf("ask busybox for its applets: %w", err)
	}
	for name := range strings.FieldsSeq(string(out)) {
		dir := path.Dir(name)
		if merged, ok := rootLinks[dir]; ok {
			dir = merged
		}
		base := path.Base(name)
		if there["usr/bin/"+base] || there["usr/sbin/"+base] || base == "busybox" || base == "init" || base == "linuxrc" || base == "sh" {
			continue
		}
		if err := s.link(dir+"/"+base, "/usr/bin/busybox"); err != nil {
			return err
		}
	}
	return nil
}

// fillModules adds the kernel's modules.
func (o Options) fillModules(ctx context.Context, s *squashfs, release string, kernel []debPackage) error {
	packed := map[string][]byte{}
	root := "usr/lib/modules/" + release + "/"
	for _, p := range kernel {
		err := eachFile(ctx, filepath.Join(o.Packages, p.file), func(h *tar.Header, r io.Reader) error {
			name, ours := strings.CutPrefix(h.Name, root)
			if !ours || h.Typeflag != tar.TypeReg {
				return nil
			}
			var err error
			packed[name], err = io.ReadAll(r)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
	}
	files, err := image.InstallModules(ctx, release, packed)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := s.data(root+name, 0o644, files[name]); err != nil {
			return err
		}
	}
	return nil
}

// eachFile calls use for every member of a package, with names that have no "./" in front and no "/" behind, and that are
// below usr/ where Debian's merged /usr wants them to be.
func eachFile(ctx context.Context, deb string, use func(*tar.Header, io.Reader) error) error {
	binary, err := findProgram("dpkg-deb", "dpkg")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "--fsys-tarfile", deb)
	cmd.WaitDelay = aptGrace
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := eachMember(tar.NewReader(out), use); err != nil {
		cancel()
		cmd.Wait()
		return err
	}
	return cmd.Wait()
}

func eachMember(tr *tar.Reader, use func(*tar.Header, io.Reader) error) error {
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		h.Name = mergedUsr(h.Name)
		if h.Typeflag == tar.TypeLink {
			h.Linkname = mergedUsr(h.Linkname)
		}
		h.Format, h.PAXRecords = tar.FormatUnknown, nil
		if h.Name == "." {
			continue
		}
		if err := use(h, tr); err != nil {
			return err
		}
	}
}

func mergedUsr(name string) string {
	name = path.Clean(strings.TrimPrefix(name, "./"))
	top, _, deeper := strings.Cut(name, "/")
	if target, ok := rootLinks[top]; ok && deeper {
		return target + strings.TrimPrefix(name, top)
	}
	return name
}
