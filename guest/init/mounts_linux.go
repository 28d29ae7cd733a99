package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// mountPoint is a file system that the guest's programs expect.
type mountPoint struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// apiMounts are needed before anything else.
var apiMounts = []mountPoint{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
}

// restMounts come when the root is in place; an image's own init makes its own.
var restMounts = []mountPoint{
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
}

func mountAPI() {
	for _, m := range apiMounts {
		m.mount()
	}
}

func mountRest() {
	for _, m := range restMounts {
		m.mount()
	}
	for link, target := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2"} {
		os.Symlink(target, link) // there already, on a root that has its own /dev
	}
}

// mount mounts, and says so if it cannot: a small kernel may lack one, and most commands do without. EBUSY means that
// the kernel was quicker (devtmpfs.mount=1).
func (m mountPoint) mount() {
	os.MkdirAll(m.target, 0o755)
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		say("mount %s: %v", m.target, err)
	}
}
