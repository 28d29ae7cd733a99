package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// BoundDisk bounds what a cgroup may ask of a disk, which is given as "major:minor".
func BoundDisk(dir, device string, io IO) error {
	line := device
	for _, limit := range []struct {
		key   string
		value int64
	}{{"rbps", io.ReadBytes}, {"wbps", io.WriteBytes}, {"riops", io.ReadOps}, {"wiops", io.WriteOps}} {
		if limit.value > 0 {
			line += " " + limit.key + "=" + strconv.FormatInt(limit.value, 10)
		}
	}
	err := write(dir, "io.max", line)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: this kernel was built without CONFIG_BLK_DEV_THROTTLING; do without limits on a disk", err)
	}
	return err
}

// UnboundDisks lifts all limits on disks, so that what waits for them goes on at once: a process that is killed ends only
// when the kernel has written what it waits for. A cgroup without such limits, or that is gone, is none to lift them of.
func UnboundDisks(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "io.max"))
	if err != nil {
		return ignoreMissing(err)
	}
	var errs []error
	for line := range strings.Lines(string(text)) {
		if device, _, bounded := strings.Cut(line, " "); bounded {
			errs = append(errs, ignoreMissing(write(dir, "io.max", device+" rbps=max wbps=max riops=max wiops=max")))
		}
	}
	return errors.Join(errs...)
}

// DiskOf finds the disk, as "major:minor", that a file or a folder lies on, or that a block device is a part of: the whole
// one, as io.max knows no partitions. Filesystems that have no block device to themselves (tmpfs, overlay, NFS, btrfs) are
// an *[NoDiskError].
func DiskOf(path string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	device := stat.Dev
	if stat.Mode&unix.S_IFMT == unix.S_IFBLK {
		device = stat.Rdev
	}
	return diskOf("/sys/dev/block", path, unix.Major(device), unix.Minor(device))
}

// diskOf asks sysfs (Documentation/ABI/stable/sysfs-block, sysfs-dev): a partition's folder has a file "partition", and lies in
// its disk's.
func diskOf(sys, path string, major, minor uint32) (string, error) {
	name := fmt.Sprintf("%d:%d", major, minor)
	folder, err := filepath.EvalSymlinks(filepath.Join(sys, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", &NoDiskError{Path: path, Device: name}
	}
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(folder, "partition")); errors.Is(err, fs.ErrNotExist) {
		return name, nil
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(folder), "dev"))
	return strings.TrimSpace(string(text)), err
}

// NoDiskError tells that no block device could be bounded for what lies at the path.
type NoDiskError struct{ Path, Device string }

func (e *NoDiskError) Error() string {
	return fmt.Sprintf("%s lies on a filesystem without a block device of its own (its device is %s: memory, a network, an overlay, or several disks as btrfs has them), so nothing can be bounded", e.Path, e.Device)
}
