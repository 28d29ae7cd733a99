package smartvm

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// The limits of a VMM's own process (setrlimit(2)), which the jailer sets: fileSizeMib and openFiles.

// exitFileSize is the VMM's exit code for SIGXFSZ (FcExitCode of Firecracker's src/vmm/src/lib.rs).
const exitFileSize = 151

// fileSize is the most bytes that a file may have which the VMM writes; 0 is no limit.
func (l *Limits) fileSize() int64 {
	if l == nil {
		return 0
	}
	return int64(l.FileSizeMiB) << 20
}

// openFiles is how many files the VMM may have open; 0 is the jailer's default.
func (l *Limits) openFiles() int {
	if l == nil {
		return 0
	}
	return l.OpenFiles
}

// checkProcess tells why a VMM cannot be held to the limits of its process.
func (l *Limits) checkProcess(jailed bool) error {
	if l.fileSize() == 0 && l.openFiles() == 0 {
		return nil
	}
	if !jailed {
		return errors.New("openFiles and fileSizeMib are set by the jailer, and this VM is in no jail; run it as root under Firecracker and without --no-jail (NoJail), or do without these limits")
	}
	// setrlimit(2): "The RLIMIT_NOFILE limit cannot be raised above" what this file says, not even by root.
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return err
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil && l.openFiles() > most {
		err = fmt.Errorf("openFiles is %d, and this host allows a process no more than %d; take less, or raise the sysctl fs.nr_open", l.openFiles(), most)
	}
	return err
}

// checkOutputs refuses a limit on files for a VMM that writes its log or its metrics to one: Firecracker 1.16 holds a lock while it
// writes either, its handler of SIGXFSZ wants the same lock, and it stands still for good (signal_handler.rs, logger/metrics.rs).
func (c *Config) checkOutputs() error {
	if c.Limits.fileSize() == 0 {
		return nil
	}
	outputs := map[string]string{}
	if c.Logger != nil && c.Logger.LogPath != "" {
		outputs["logger.logPath"] = c.Logger.LogPath
	}
	if c.Metrics != nil && c.Metrics.MetricsPath != "" {
		outputs["metrics.metricsPath"] = c.Metrics.MetricsPath
	}
	var errs []error
	for key, path := range outputs {
		info, err := os.Stat(path)
		if err == nil && info.Mode().Type() == fs.ModeNamedPipe {
			continue
		}
		errs = append(errs, fmt.Errorf("fileSizeMib and a file for %s exclude each other, as Firecracker stands still for ever when that file comes to the limit; give a FIFO, or leave one of both out", key))
	}
	return errors.Join(errs...)
}

// fitsFile refuses a file for the guest to write to in which the VMM's limit would end it. A block device has no such limit.
func (l *Limits) fitsFile(path string) error {
	if l.fileSize() == 0 {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() <= l.fileSize() {
		return err
	}
	return fmt.Errorf("limits.fileSizeMib is %d, and %s, which the guest may write to, has %d bytes: writing behind the limit would end the VM; raise the limit to %d", l.FileSizeMiB, path, info.Size(), wholeMiBs(info.Size()))
}

// fitsSnapshot refuses a snapshot that would end the VM.
func (l *Limits) fitsSnapshot(c *Config) error {
	memory := int64(c.MachineConfig.MemSizeMiB)
	if c.MemoryHotplug != nil {
		memory += c.MemoryHotplug.TotalSizeMiB
	}
	if l.fileSize() == 0 || l.fileSize() >= memory<<20 {
		return nil
	}
	return fmt.Errorf("limits.fileSizeMib is %d, and the file with the guest's memory would have %d MiB: writing it would end the VM; start the VM with a limit of at least %d to take snapshots of it", l.FileSizeMiB, memory, memory)
}

func wholeMiBs(bytes int64) int64 { return (bytes + 1<<20 - 1) >> 20 }

// fitFiles refuses drives that the VMM's limit would not let the guest write to the end of.
func (h *home) fitFiles(l *Limits) error {
	if l.fileSize() == 0 {
		return nil
	}
	var errs []error
	for i := range h.seen.Drives {
		d := &h.seen.Drives[i]
		if d.IsReadOnly || d.Socket != "" {
			continue
		}
		if err := l.fitsFile(h.folder.onHost(d.PathOnHost)); err != nil {
			errs = append(errs, fmt.Errorf("drive %s: %w", d.DriveID, err))
		}
	}
	return errors.Join(errs...)
}

// outputs are the files that the VMM writes for people: their names in the jail, and on the host.
func (h *home) outputs() map[string]string {
	files := map[string]string{}
	if seen, onHost := h.seen.Serial, h.onHost.Serial; seen != nil && onHost != nil {
		files[seen.SerialOutPath] = onHost.SerialOutPath
	}
	return files
}

// fileSizeMet tells which files of a VMM that its limit on their size ended have come to that limit, and what to do. dir is
// the VMM's working folder. A write that began behind the limit leaves no trace; then none is named.
func (j *jailSpec) fileSizeMet(dir string) string {
	var full []string
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // what cannot be looked at is not named
		}
		if info, err := entry.Info(); err == nil && info.Size() >= j.FileSize && int(info.Sys().(*syscall.Stat_t).Uid) == j.UID {
			name, _ := filepath.Rel(dir, path)
			full = append(full, cmp.Or(j.Outputs[name], name))
		}
		return nil
	})
	const which = "a file that it writes became larger than its limit (limits.fileSizeMib is %d): %s; raise the limit%s"
	if len(full) == 0 {
		return fmt.Sprintf(which, j.FileSize>>20, "one of its drives, a snapshot, or the file for the serial port", "")
	}
	return fmt.Sprintf(which, j.FileSize>>20, printableText(strings.Join(full, ", ")), ", or empty that file before the next start")
}

// oomKills is how often the host's kernel has killed a process for want of memory since it booted (proc_vmstat(5)).
func oomKills() uint64 {
	text, err := readBounded("/proc/vmstat", 1<<20)
	if err != nil {
		return 0
	}
	var count uint64
	for line := range lines(text) {
		if n, err := fmt.Sscanf(line, "oom_kill %d", &count); n == 1 && err == nil {
			return count
		}
	}
	return 0
}
