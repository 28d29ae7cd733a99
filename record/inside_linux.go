package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ProcessesIn returns the processes whose working folder or root is dir or a folder below it, in the order of /proc. This
// process is not among them, nor are those that end meanwhile, nor those that this user may not look at (ptrace(2),
// PTRACE_MODE_READ_FSCREDS). The folder may be gone: who was in it when it was removed is found nevertheless. A process that was locked up, by pivot_root(2) in a mount namespace of its own, is
// found when dir is its root itself, not one above it: the kernel does not tell where it comes from.
func ProcessesIn(dir string) ([]Process, error) {
	where, err := locate(dir)
	if err != nil {
		return nil, fmt.Errorf("processes in %s: %w", dir, err)
	}
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		return nil, fmt.Errorf("processes in %s: is /proc mounted? %w", dir, errors.New(err.Error()))
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("processes in %s: %w", dir, err)
	}
	var found []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() || !where.holds(pid) {
			continue
		}
		p, err := Identify(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("processes in %s: %w", dir, err)
		}
		if where.holds(pid) { // again: the number may have become another's before it was identified
			found = append(found, p)
		}
	}
	return found, nil
}

// place is a folder, there or gone.
type place struct {
	path   string      // absolute, without links
	itself fs.FileInfo // nil when it is gone
	above  fs.FileInfo // itself, or the nearest folder above that is there
}

func locate(dir string) (place, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return place{}, err
	}
	// The part that is there is freed of links, as /proc names folders without.
	there, rest := path, ""
	for {
		real, err := filepath.EvalSymlinks(there)
		if err == nil {
			there = real
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return place{}, err
		}
		rest = filepath.Join(filepath.Base(there), rest)
		there = filepath.Dir(there)
	}
	info, err := os.Stat(there)
	if err != nil {
		return place{}, err
	}
	where := place{path: filepath.Join(there, rest), above: info}
	if rest == "" {
		where.itself = info
	}
	return where, nil
}

func (w place) holds(pid int) bool {
	of := "/proc/" + strconv.Itoa(pid)
	return w.has(of+"/cwd") || w.has(of+"/root")
}

// has tells whether the link, a process's working folder or root, leads here. The path alone does not tell, as it is as
// the process sees it: that of a container's process may be one of ours by chance.
func (w place) has(link string) bool {
	path, err := os.Readlink(link)
	if err != nil {
		return false
	}
	info, err := os.Stat(link) // follows it to the folder itself, even where no path leads to that any more
	if err != nil {
		return false
	}
	if w.itself != nil && os.SameFile(w.itself, info) {
		return true
	}
	if ours, err := os.Stat(path); err == nil {
		return w.covers(path) && os.SameFile(ours, info)
	}
	path, gone := strings.CutSuffix(path, removed)
	return gone && w.covers(path) && device(w.above) == device(info)
}

// removed is what the kernel puts behind the path of a folder that is no more (proc_pid_cwd(5)).
const removed = " (deleted)"

func device(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Dev }

func (w place) covers(path string) bool {
	return path == w.path || strings.HasPrefix(path, strings.TrimSuffix(w.path, "/")+"/")
}
