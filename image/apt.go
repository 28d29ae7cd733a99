package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"smartvm/internal/cpuarch"
)

// How long apt may take to die when the context ends before it is killed with its pipes.
const aptGrace = 5 * time.Second

// maxAptOutput bounds what is kept of apt's output, in bytes.
const maxAptOutput = 8 << 20

// aptPackage is a package as apt's lists describe it.
type aptPackage struct {
	Package
	arch    string
	depends []string // names, without versions
}

// fetchPackages gets Debian's cloud kernel, and busybox unless the options name one, and returns their paths in the
// cache. What is in the cache already is not fetched again: then nothing but apt's lists on this machine is read.
func fetchPackages(ctx context.Context, o DebianOptions) ([]string, error) {
	a, err := newApt(o)
	if err != nil {
		return nil, err
	}
	wanted, err := a.kernelPackages(ctx)
	if err != nil {
		return nil, err
	}
	if o.Busybox == "" {
		found, err := a.show(ctx, "busybox-static")
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, found...)
	}
	var paths []string
	for _, p := range wanted {
		path, err := a.fetch(ctx, p)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// apt is the package manager of a Debian system.
type apt struct {
	get, cache string // absolute paths of the programs
	dir        string // where fetched packages are kept
	suffix     string // ":arm64" when the packages are for another machine than this
	options    DebianOptions
}

func newApt(o DebianOptions) (*apt, error) {
	a := &apt{dir: o.CacheDir, options: o}
	for name, path := range map[string]*string{"apt-get": &a.get, "apt-cache": &a.cache} {
		found, err := exec.LookPath(name)
		if err == nil {
			found, err = filepath.Abs(found)
		}
		if err != nil {
			return nil, fmt.Errorf("this machine has no %s to get Debian's kernel with: give the path of the package linux-image-cloud-%s (%w)",
				name, debianArch(o.Arch), err)
		}
		*path = found
	}
	if o.Arch != cpuarch.Host() {
		a.suffix = ":" + debianArch(o.Arch)
	}
	if a.dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find a folder for packages: %w", err)
		}
		a.dir = filepath.Join(cache, "smartvm", "packages")
	}
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for packages: %w", err)
	}
	return a, nil
}

// debianArch is Debian's name for an architecture.
func debianArch(arch string) string {
	if arch == cpuarch.AArch64 {
		return "arm64"
	}
	return "amd64"
}

// kernelPackages finds the packages of the newest cloud kernel: those that the meta package stands for. Newer Debian
// releases part the kernel from its modules.
func (a *apt) kernelPackages(ctx context.Context) ([]aptPackage, error) {
	meta, err := a.show(ctx, "linux-image-cloud-"+debianArch(a.options.Arch))
	if err != nil {
		return nil, err
	}
	var list []aptPackage
	seen := map[string]bool{}
	for queue := meta; len(queue) > 0; queue = queue[1:] {
		for _, name := range queue[0].depends {
			if seen[name] || !strings.HasPrefix(name, "linux-image-") && !strings.HasPrefix(name, "linux-modules-") && !strings.HasPrefix(name, "linux-binary-") {
				continue
			}
			seen[name] = true
			found, err := a.show(ctx, name)
			if err != nil {
				return nil, err
			}
			list = append(list, found...)
			queue = append(queue, found...)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("apt's lists are odd: %s depends on no kernel", meta[0].Name)
	}
	return list, nil
}

// show asks apt's lists for a package's newest version that may be installed.
func (a *apt) show(ctx context.Context, name string) ([]aptPackage, error) {
	out, err := a.run(ctx, "", a.cache, "show", "--no-all-versions", "--", name+a.suffix)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, fmt.Errorf("apt knows no package %s%s: refresh its lists with `apt-get update` (as root), or give the path of the package (%w)", name, a.suffix, err)
	}
	paragraphs, err := parseParagraphs(out)
	if err != nil {
		return nil, fmt.Errorf("read what apt-cache says about %s: %w", name, err)
	}
	if len(paragraphs) == 0 || paragraphs[0]["SHA256"] == "" || paragraphs[0]["Package"] == "" {
		return nil, fmt.Errorf("apt does not know where to get %s%s: refresh its lists with `apt-get update` (as root), or give the path of the package", name, a.suffix)
	}
	p := paragraphs[0]
	found := aptPackage{Package: Package{Name: p["Package"], Version: p["Version"], SHA256: p["SHA256"]}, arch: p["Architecture"]}
	for dep := range strings.SplitSeq(p["Depends"], ",") {
		if words := strings.Fields(dep); len(words) > 0 {
			found.depends = append(found.depends, words[0])
		}
	}
	return []aptPackage{found}, nil
}

// fetch returns the path of the package in the cache, and puts it there first if it is missing or damaged.
func (a *apt) fetch(ctx context.Context, p aptPackage) (string, error) {
	// The name that apt gives it; a ":" in the version is written as "%3a".
	name := strings.NewReplacer(":", "%3a", "/", "_").Replace(p.Name + "_" + p.Version + "_" + p.arch + ".deb")
	path := filepath.Join(a.dir, name)
	if sum, err := hashFile(ctx, path); err == nil && sum == p.SHA256 {
		return path, nil
	}
	a.options.Log.Info("get package", "name", p.Name, "version", p.Version)
	aside, err := os.MkdirTemp(a.dir, ".get-")
	if err != nil {
		return "", fmt.Errorf("get package %s: %w", p.Name, err)
	}
	defer os.RemoveAll(aside)
	// As root apt would give itself up for the user _apt, who cannot write here.
	_, err = a.run(ctx, aside, a.get, "-qq", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1",
		"download", "--", p.Name+a.suffix+"="+p.Version)
	if err != nil {
		if ctx.Err() != nil {
			return "", err
		}
		return "", fmt.Errorf("get package %s %s: %w; is there a network? Refresh old lists with `apt-get update` (as root), or give the path of the package", p.Name, p.Version, err)
	}
	found, err := filepath.Glob(filepath.Join(aside, "*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("get package %s: apt-get left %d packages where one was asked for", p.Name, len(found))
	}
	sum, err := hashFile(ctx, found[0])
	if err != nil {
		return "", fmt.Errorf("get package %s: %w", p.Name, err)
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("get package %s: its SHA-256 is %s, apt's lists say %s", p.Name, sum, p.SHA256)
	}
	if err := os.Rename(found[0], path); err != nil {
		return "", fmt.Errorf("get package %s: %w", p.Name, err)
	}
	return path, nil
}

// run runs a program of apt's in the folder dir and returns what it prints; its complaints are part of the error.
func (a *apt) run(ctx context.Context, dir string, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = aptGrace
	var out, complaints cappedBuffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		text := strings.Join(strings.Fields(complaints.kept.String()), " ")
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(argv[0]), err, text)
	}
	if out.over {
		return nil, errors.New(filepath.Base(argv[0]) + " prints without end")
	}
	return out.kept.Bytes(), nil
}

// cappedBuffer keeps the beginning of what is written to it. It does not embed its buffer: io.Copy would find
// bytes.Buffer's ReadFrom and go past the cap.
type cappedBuffer struct {
	kept bytes.Buffer
	over bool
}

// Write implements io.Writer. It never fails, so that the program that writes does not.
func (b *cappedBuffer) Write(p []byte) (int, error) {
	keep := min(len(p), maxAptOutput-b.kept.Len())
	b.over = b.over || keep < len(p)
	b.kept.Write(p[:keep])
	return len(p), nil
}
