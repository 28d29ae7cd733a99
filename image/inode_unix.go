//go:build unix

package image

import (
	"io/fs"
	"syscall"
)

// inodeOf returns a file's inode number.
func inodeOf(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Ino)
	}
	return 0
}
