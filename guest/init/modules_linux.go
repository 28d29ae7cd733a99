package main

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	modulesRoot = "/lib/modules"
	// moduleList names the modules to load at boot, one path a line, relative to the release's folder, in an order in
	// which each finds what it needs loaded. The image builder writes it.
	moduleList = "smartvm.modules"
)

// moduleDir is the folder of the running kernel's modules. An initramfs that has modules, but for another kernel, leaves
// the guest without devices: that is said.
func moduleDir() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		say("uname: %v", err)
		return ""
	}
	release := unix.ByteSliceToString(u.Release[:])
	dir := filepath.Join(modulesRoot, release)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	others, err := os.ReadDir(modulesRoot)
	if err == nil && len(others) > 0 {
		say("the modules in this initramfs are for kernel %s, the kernel is %s: devices that need a module are missing", others[0].Name(), release)
	}
	return ""
}

// filesystems are the modules that only a root drive needs early; they take a third of the loading time.
func filesystems(path string) bool { return strings.HasPrefix(path, "kernel/fs/") }

// loadModules loads what the list in dir names and wanted picks. One that fails is said and passed over: the kernel may
// have it built in.
func loadModules(dir string, wanted func(path string) bool) {
	if dir == "" {
		return
	}
	list, err := os.Open(filepath.Join(dir, moduleList))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		say("modules: %v", err)
		return
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		name := strings.TrimSpace(lines.Text())
		if name == "" || name[0] == '#' || !wanted(name) {
			continue
		}
		if err := loadModule(filepath.Join(dir, name)); err != nil {
			say("module %s: %v", name, err)
		}
	}
	if err := lines.Err(); err != nil {
		say("modules: %v", err)
	}
}

func loadModule(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.FinitModule(fd, "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}
