package copytree

import (
	"io/fs"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

func owner(info fs.FileInfo) (uid, gid int) {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid), int(s.Gid)
	}
	return 0, 0
}

// madeUpTypes are file systems whose files the kernel makes up when they are read; some never end.
var madeUpTypes = []int64{unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC,
	unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.EFIVARFS_MAGIC}

// madeUp tells whether a folder is in such a file system.
func madeUp(dir *os.File) bool {
	var s unix.Statfs_t
	raw, err := dir.SyscallConn()
	if err != nil {
		return false
	}
	failed := raw.Control(func(fd uintptr) { err = unix.Fstatfs(int(fd), &s) })
	return failed == nil && err == nil && slices.Contains(madeUpTypes, int64(s.Type))
}
