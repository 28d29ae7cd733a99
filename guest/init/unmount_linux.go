package main

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unmountAll takes every file system with a disk behind it out of use, the last mounted first, so that the next boot finds
// it clean. What is in use still, as the root is, becomes read-only.
func unmountAll() {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		say("unmount: %v", err)
		return
	}
	for _, m := range slices.Backward(parseMounts(string(mounts))) {
		if m.fstype != "overlay" && !strings.HasPrefix(m.source, "/dev/") {
			continue
		}
		if m.target != "/" && unix.Unmount(m.target, 0) == nil {
			continue
		}
		err := unix.Mount("", m.target, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		if err != nil && !strings.HasPrefix(m.target, "/run/smartvm-guest/") { // the overlay above holds those
			say("make %s read-only: %v", m.target, err)
		}
	}
}

// parseMounts reads /proc/self/mounts (proc_pid_mounts(5)), where a space in a path is \040.
func parseMounts(text string) []mountPoint {
	var mounts []mountPoint
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 3 {
			mounts = append(mounts, mountPoint{source: unescape(f[0]), target: unescape(f[1]), fstype: f[2]})
		}
	}
	return mounts
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
