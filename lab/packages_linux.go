package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// wanted are the packages of the host's root, beside the kernel's modules. They come with what they depend on.
var wanted = []string{
	"busybox-static", // mount, modprobe and the other small tools
	// Debian's busybox has a shell that prefers its own applets to the programs in PATH, such as iproute2's ip.
	"bash", "dash",
	"iproute2", "nftables", "wireguard-tools",
	"e2fsprogs", "xfsprogs", "btrfs-progs",
	"qemu-system-x86", // for the emulator in the lab
}

// unwanted are packages, by their names' beginnings, that others depend on for their maintainer scripts or for tools that
// the lab does not use.
var unwanted = []string{"adduser", "base-files", "debconf", "debianutils", "dpkg", "ipxe-qemu", "iso-codes", "libpython3", "passwd", "python3", "tar"}

// aptGrace is how long apt may take to die when the context ends.
const aptGrace = 5 * time.Second

// debPackage is one that apt would get.
type debPackage struct {
	file   string // its name in a cache of packages
	sha256 string
	spec   string // name=version, as `apt-get download` takes it
}

// resolve asks apt, by its lists on this machine, for the packages and all that they need on a system that has nothing.
func resolve(ctx context.Context, names []string) ([]debPackage, error) {
	args := []string{"-qq", "--no-install-recommends", "-o", "Dir::State::status=/dev/null", "-o", "Debug::NoLocking=true",
		"-o", "Acquire::ForceHash=SHA256", "--print-uris", "install", "--"}
	out, err := apt(ctx, "", append(args, names...)...)
	if err != nil {
		return nil, fmt.Errorf("find the packages of the lab's root: %w; refresh old lists with `apt-get update` (as root)", err)
	}
	var list []debPackage
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line) // 'URI' FILE SIZE SHA256:HEX
		if len(f) != 4 || !strings.HasPrefix(f[3], "SHA256:") {
			continue
		}
		part := strings.Split(strings.TrimSuffix(f[1], ".deb"), "_") // name, version, architecture
		if len(part) != 3 || f[1] != filepath.Base(f[1]) || isUnwanted(part[0]) {
			continue
		}
		version := strings.ReplaceAll(part[1], "%3a", ":")
		list = append(list, debPackage{file: f[1], sha256: strings.TrimPrefix(f[3], "SHA256:"), spec: part[0] + "=" + version})
	}
	if len(list) < len(names) {
		return nil, fmt.Errorf("find the packages of the lab's root: apt named %d for %d", len(list), len(names))
	}
	return list, nil
}

func isUnwanted(name string) bool {
	for _, prefix := range unwanted {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// fetch gets the packages that the folder lacks.
func fetch(ctx context.Context, dir string, list []debPackage) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var missing []debPackage
	for _, p := range list {
		if sum, err := hashFile(filepath.Join(dir, p.file)); err != nil || sum != p.sha256 {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	aside, err := os.MkdirTemp(dir, ".get-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(aside)
	// As root apt would give itself up for the user _apt, who cannot write here.
	args := []string{"-qq", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1", "download", "--"}
	for _, p := range missing {
		args = append(args, p.spec)
	}
	if _, err := apt(ctx, aside, args...); err != nil {
		return fmt.Errorf("get %d packages: %w; is there a network?", len(missing), err)
	}
	for _, p := range missing {
		got := filepath.Join(aside, p.file)
		sum, err := hashFile(got)
		if err != nil {
			return fmt.Errorf("get package %s: %w", p.spec, err)
		}
		if sum != p.sha256 {
			return fmt.Errorf("get package %s: its SHA-256 is %s, apt's lists say %s", p.spec, sum, p.sha256)
		}
		if err := os.Rename(got, filepath.Join(dir, p.file)); err != nil {
			return err
		}
	}
	return nil
}

// apt runs apt-get in dir and returns what it prints; its complaints are part of the error.
func apt(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = aptGrace
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("this machine has no apt-get: the lab is made of Debian's packages")
	}
	if err != nil {
		return nil, fmt.Errorf("apt-get: %w: %s", err, strings.Join(strings.Fields(complaints.String()), " "))
	}
	return out.Bytes(), nil
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
