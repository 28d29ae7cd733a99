package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mounted finds where the hierarchy of version 2 is mounted.
func Mounted() (string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	return mountedIn(string(text))
}

// mountedIn reads what proc_pid_mountinfo(5) describes: the fifth field is the mount point, white space in it written in
// octal; the filesystem's type is the first behind a lone hyphen.
func mountedIn(mountinfo string) (string, error) {
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if i := slices.Index(fields, "-"); i > 4 && i+1 < len(fields) && fields[i+1] == "cgroup2" {
			return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4]), nil
		}
	}
	return "", errors.New("no cgroup v2 hierarchy is mounted; mount -t cgroup2 none /sys/fs/cgroup, or do without limits")
}

// controllers are the kernel's parts that the limits need.
func (l Limits) controllers() (names []string) {
	if l.CPUs > 0 {
		names = append(names, "cpu")
	}
	if l.Memory > 0 {
		names = append(names, "memory")
	}
	if l.PIDs > 0 {
		names = append(names, "pids")
	}
	if l.IO != (IO{}) {
		names = append(names, "io")
	}
	return names
}

// Check tells why a cgroup below the hierarchy cannot have these limits, and what to do about it. It changes nothing.
func Check(hierarchy string, l Limits) error {
	if l.IO != (IO{}) && len(l.Devices) == 0 {
		return errors.New("there is no disk to bound")
	}
	return CheckControllers(hierarchy, l.controllers()...)
}

// CheckControllers tells why a controller cannot be had in a cgroup below the hierarchy. It changes nothing.
func CheckControllers(hierarchy string, controllers ...string) error {
	available, err := words(hierarchy, "cgroup.controllers")
	if err != nil {
		return err
	}
	enabled, err := words(hierarchy, "cgroup.subtree_control")
	if err != nil {
		return err
	}
	for _, controller := range controllers {
		if !slices.Contains(available, controller) {
			return fmt.Errorf("the cgroup v2 hierarchy %s has no controller %q; boot the host with cgroup_no_v1=all (and, for memory, cgroup_enable=memory), or do without this limit", hierarchy, controller)
		}
		if slices.Contains(enabled, controller) {
			continue
		}
		// What a container takes for the root has a type, and a rule that holds for all but the root: "Non-root cgroups can
		// distribute domain resources to their children only when they don't have any processes of their own."
		_, err := os.Stat(filepath.Join(hierarchy, "cgroup.type"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if inside, readErr := words(hierarchy, "cgroup.procs"); err != nil || readErr != nil || len(inside) > 0 {
			return errors.Join(err, readErr, fmt.Errorf("the controller %q cannot be enabled in %s, which is a cgroup with processes of its own (a container's); move them into a cgroup below it, or do without this limit", controller, hierarchy))
		}
	}
	return nil
}

// Make makes the cgroup at this path below the hierarchy, and what is missing above it, with these limits. One that is
// there already, and empty, was left by somebody who was killed: it is made anew, and the id tells the two apart. One with
// processes in it is refused: it is somebody else's. When Make fails there is no cgroup of it left.
func Make(hierarchy, path string, l Limits) (id string, err error) {
	dir := filepath.Join(hierarchy, path)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	if err := enable(hierarchy, filepath.Dir(path), l); err != nil {
		return "", err
	}
	if err = os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
		if err := unix.Rmdir(dir); err != nil {
			return "", fmt.Errorf("the cgroup %s is somebody else's, who is at work in it: %w", dir, err)
		}
		err = os.Mkdir(dir, 0o755)
	}
	if err != nil {
		return "", err
	}
	if err := l.write(dir); err != nil {
		return "", errors.Join(err, unix.Rmdir(dir))
	}
	return ID(dir)
}

// counting are the controllers that are enabled where they can be had, limit or no limit, as they count what is used. The
// CPU's counts without being enabled.
var counting = []string{"memory", "pids", "io"}

// enable hands the controllers on, from the root down to the cgroup at this path: each cgroup can hand on only what it was
// given. To enable one that is enabled does nothing.
func enable(hierarchy, path string, l Limits) error {
	dir := hierarchy
	below := strings.Split(filepath.Clean(path), "/")
	for i := 0; ; i++ {
		needed := l.controllers()
		for _, controller := range slices.Concat(counting, needed) {
			err := write(dir, "cgroup.subtree_control", "+"+controller)
			if err != nil && slices.Contains(needed, controller) {
				return err
			}
		}
		if i == len(below) {
			return nil
		}
		dir = filepath.Join(dir, below[i])
	}
}

// write sets the limits of a cgroup.
func (l Limits) write(dir string) error {
	var errs []error
	if l.CPUs > 0 {
		errs = append(errs, write(dir, "cpu.max", fmt.Sprintf("%d %d", int64(l.CPUs*period+0.5), period)))
	}
	if l.Memory > 0 {
		errs = append(errs, write(dir, "memory.max", strconv.FormatInt(l.Memory, 10)),
			write(dir, "memory.oom.group", "1")) // no half of an emulator lives on
	}
	if l.PIDs > 0 {
		errs = append(errs, write(dir, "pids.max", strconv.Itoa(l.PIDs)))
	}
	if l.IO != (IO{}) {
		for _, device := range l.Devices {
			errs = append(errs, BoundDisk(dir, device, l.IO))
		}
	}
	return errors.Join(errs...)
}

// ID tells a cgroup from another that has, or had, its name.
func ID(dir string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return "", &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	return strconv.FormatUint(stat.Ino, 10), nil
}

// Has tells whether a process is in the cgroup.
func Has(dir string, pid int) (bool, error) {
	inside, err := words(dir, "cgroup.procs")
	return slices.Contains(inside, strconv.Itoa(pid)), err
}

// MemoryMax is how many bytes a cgroup may have; 0 when it has no such limit.
func MemoryMax(dir string) int64 {
	text, err := os.ReadFile(filepath.Join(dir, "memory.max"))
	if err != nil {
		return 0
	}
	bytes, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // "max" is none
	return bytes
}

// EventsOf tells how often limits of a cgroup were met. Those that it does not have were not.
func EventsOf(dir string) Events {
	return Events{OOMKills: count(dir, "memory.events", "oom_kill"), PIDs: count(dir, "pids.events", "max")}
}

// count reads a number of a flat keyed file; 0 for one that is not there.
func count(dir, name, key string) uint64 {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0
	}
	return countIn(string(text), key)
}

func countIn(text, key string) uint64 {
	fields := strings.Fields(text)
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i] == key {
			n, _ := strconv.ParseUint(fields[i+1], 10, 64)
			return n
		}
	}
	return 0
}

func words(dir, name string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	return strings.Fields(string(text)), err
}

// write writes to a control file, which is there or not for us to make.
func write(dir, name, value string) error {
	path := filepath.Join(dir, name)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("set %s to %q: %w", path, value, err)
	}
	return nil
}
