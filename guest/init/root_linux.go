package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"smartvm/internal/bootargs"
)

// The new root is put together at newRoot and then takes "/". Below an overlay, the root drive and what holds the changes
// stay visible under /run, so that a shutdown can unmount them. /run/smartvm would be the runtime folder of a smartvm that
// runs in the guest, which takes away what it does not know there.
const (
	newRoot    = "/newroot"
	lowerDir   = "/run/smartvm-guest/root"
	changesDir = "/run/smartvm-guest/overlay"
)

// enterRoot mounts the root drive, with an overlay if one is asked for, and makes it "/".
func enterRoot(spec string, line bootargs.Line) error {
	dev, err := blockDevice(spec)
	if err != nil {
		return fmt.Errorf("root drive: %w", err)
	}
	fstype, _ := line.Last("rootfstype")
	options, _ := line.Last("rootflags")
	overlay, withOverlay := line.Last("smartvm.overlay")
	root := filesystem{device: dev, fstype: fstype, options: options, readOnly: withOverlay || readOnly(line)}
	if !withOverlay {
		if err := root.mount(newRoot); err != nil {
			return fmt.Errorf("root drive: %w", err)
		}
		return switchRoot()
	}
	if err := root.mount(lowerDir); err != nil {
		return fmt.Errorf("root drive: %w", err)
	}
	if err := mountChanges(overlay); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	return switchRoot()
}

// readOnly tells which of "ro" and "rw" came last; the kernel's default is ro.
func readOnly(line bootargs.Line) bool {
	ro := true
	for _, a := range line {
		if a.Key == "ro" || a.Key == "rw" {
			ro = a.Key == "ro"
		}
	}
	return ro
}

// mountChanges puts an overlay over the root drive; where says what keeps the changes, "memory" or a drive's name.
func mountChanges(where string) error {
	if where == "memory" {
		if err := os.MkdirAll(changesDir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", changesDir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("tmpfs: %w", err)
		}
	} else {
		dev, err := blockDevice("/dev/" + strings.TrimPrefix(where, "/dev/"))
		if err != nil {
			return err
		}
		if err := (filesystem{device: dev, fstype: "ext4"}).mount(changesDir); err != nil {
			return fmt.Errorf("%w: the host must format this drive as ext4 before it boots", err)
		}
	}
	upper, work := filepath.Join(changesDir, "upper"), filepath.Join(changesDir, "work")
	for _, dir := range []string{upper, work, newRoot} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	err := unix.Mount("overlay", newRoot, "overlay", 0, "lowerdir="+lowerDir+",upperdir="+upper+",workdir="+work)
	if errors.Is(err, unix.ENODEV) {
		return errors.New("the kernel has no overlay file system, and the initramfs no module of it")
	}
	return err
}

// filesystem is a file system on a device.
type filesystem struct {
	device, fstype, options string
	readOnly                bool
}

// mount mounts it; without a type, every one that the kernel knows is tried in its order.
func (f filesystem) mount(target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	types := []string{f.fstype}
	if f.fstype == "" {
		types = diskFilesystems()
	}
	var flags uintptr
	if f.readOnly {
		flags = unix.MS_RDONLY
	}
	for _, fstype := range types {
		err := unix.Mount(f.device, target, fstype, flags, f.options)
		if err == unix.EROFS && f.readOnly && strings.HasPrefix(fstype, "ext") && f.options == "" {
			// Not cleanly unmounted, on a drive that cannot be written: its journal cannot be replayed.
			say("%s: mounted without its journal, as it was not unmounted cleanly and is read-only", f.device)
			err = unix.Mount(f.device, target, fstype, flags, "noload")
		}
		switch {
		case err == nil:
			return nil
		case err == unix.ENODEV && f.fstype != "":
			return fmt.Errorf("%s: the kernel has no file system %q, and the initramfs no module of it", f.device, fstype)
		case err != unix.EINVAL || f.fstype != "":
			if f.fstype == "" && err == unix.EIO {
				continue // squashfs and others say so of what is not theirs
			}
			return fmt.Errorf("mount %s as %s: %w", f.device, fstype, err)
		}
	}
	return fmt.Errorf("%s holds no file system that this kernel knows (tried %s)", f.device, strings.Join(types, ", "))
}

// diskFilesystems are the types in /proc/filesystems that need a device.
func diskFilesystems() []string {
	f, err := os.Open("/proc/filesystems")
	if err != nil {
		return []string{"ext4"}
	}
	defer f.Close()
	var types []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if kind, name, ok := strings.Cut(lines.Text(), "\t"); ok && kind == "" {
			types = append(types, name)
		}
	}
	return types
}

// switchRoot makes newRoot "/", as switch_root(8) does: pivot_root(2) does not work on an initramfs.
func switchRoot() error {
	old, err := os.OpenRoot("/")
	if err != nil {
		return err
	}
	defer old.Close()
	for _, m := range apiMounts {
		target := newRoot + m.target
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("the root drive has no folder %s: %w", m.target, err)
		}
		if err := unix.Mount(m.target, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m.target, err)
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	freeInitramfs(old)
	return nil
}

// freeInitramfs gives the initramfs's memory back. Our own program lives on as long as it runs.
func freeInitramfs(old *os.Root) {
	dir, err := old.Open(".")
	if err != nil {
		return
	}
	defer dir.Close()
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil || s.Type != unix.TMPFS_MAGIC && s.Type != unix.RAMFS_MAGIC {
		return // not an initramfs: nothing that is ours to delete
	}
	names, err := fs.ReadDir(old.FS(), ".")
	if err != nil {
		return
	}
	for _, entry := range names {
		if err := old.RemoveAll(entry.Name()); err != nil {
			say("free the initramfs: %v", err)
		}
	}
}
