package smartvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"smartvm/firecracker"
)

// Names inside the VMM's working folder, <DataDir>/vms/<key>/root. The VMM is only ever given these relative names: the
// same in every VM, so that a snapshot loads in another one.
const (
	runLink     = "run" // leads to the VM's runtime folder
	kernelName  = "kernel"
	initrdName  = "initrd"
	drivesDir   = "drives"
	apiSocket   = runLink + "/firecracker.sock"
	vsockSocket = runLink + "/v.sock"
	consoleFIFO = runLink + "/console"
	vmmFIFO     = runLink + "/vmm" // the VMM's own log
)

// Names beside it, in the VM's folder: what the VMM must not get at.
const (
	workDir    = "root"
	consoleLog = "console.log"
	vmmLog     = "vmm.log"
	agentLog   = "agent.log"
)

// folder is where one VM lives on the host.
type folder struct {
	data    string // <DataDir>/vms/<key>
	work    string // the VMM's working folder in it
	runtime string // <RuntimeDir>/<key>
	dry     bool   // nothing is made: see Plan

	jail      *jailRecord        // nil without one
	noteMount func(string) error // before a mount is made
	say       func(string, ...any)
}

// of completes where a VM lives by what its record says.
func (f folder) of(rec vmRecord) folder {
	f.runtime, f.work, f.jail = rec.Runtime, rec.Jail.workOf(f.data), rec.Jail
	return f
}

func (o Options) folderOf(key string) folder {
	data := filepath.Join(o.DataDir, vmsDir, key)
	return folder{data: data, work: filepath.Join(data, workDir), runtime: filepath.Join(o.RuntimeDir, key)}
}

// path returns where on the host a name inside the VM's folder is.
func (f folder) path(name string) string { return filepath.Join(f.data, name) }

// seen returns where on the host a name is that the VMM has.
func (f folder) seen(name string) string { return filepath.Join(f.work, name) }

// onHost returns where on the host a path is that the VMM has: one of its folder, or one of the host's.
func (f folder) onHost(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return f.seen(path)
}

func (f folder) mkdir(name string) error {
	if f.dry {
		return nil
	}
	if err := os.Mkdir(f.seen(name), 0o700); err != nil || f.jail == nil {
		return err
	}
	return os.Chmod(f.seen(name), 0o755) // the VMM is another user; nobody else gets into the folder above
}

// makeWork makes the VMM's working folder, where there is none yet.
func (f folder) makeWork() error {
	if f.jail != nil {
		// Of the user's own: root's folder above keeps everybody else out.
		return os.MkdirAll(f.seen(runLink), 0o700)
	}
	if err := os.Mkdir(f.work, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Symlink(f.runtime, f.seen(runLink)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// clearHome removes what a start staged or left half staged; what tells of the VM stays.
func (f folder) clearHome() error {
	errs := []error{os.RemoveAll(f.path(workDir)), os.RemoveAll(f.path(jailDir)), removeTree(filepath.Join(f.runtime, drivesDir))}
	// With anything left in it, it is a running VM's.
	if err := os.Remove(f.runtime); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.ENOTDIR) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// wasRun tells whether there is something that dies with a VM's run. A reboot of the host takes the runtime folder away, and
// leaves what a jail has in the VM's own.
func (f folder) wasRun() bool {
	_, err := os.Lstat(f.runtime)
	if err != nil && f.jail != nil {
		_, err = os.Lstat(f.seen(runLink))
	}
	return err == nil
}

// clearJail removes from a jail what the jailer and the VMM made there: a jail is used once.
func (f folder) clearJail() error {
	if f.jail == nil {
		return nil
	}
	errs := []error{os.RemoveAll(f.seen(runLink))}
	for _, name := range firecracker.Leftovers(f.jail.Exec) {
		errs = append(errs, os.RemoveAll(f.seen(name)))
	}
	return errors.Join(errs...)
}

// removeTree is os.RemoveAll where a folder on the way may be no folder: then there is nothing below it.
func removeTree(path string) error {
	if err := os.RemoveAll(path); !errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	return nil
}

// lasts tells which names in a VM's folder belong to the VM itself, not to its home.
func lasts(name string) bool {
	switch name {
	case lockName, recordName, exitName:
		return true
	}
	for _, log := range []string{consoleLog, vmmLog, agentLog} {
		if strings.HasPrefix(name, log) {
			return true
		}
	}
	return false
}

// clearRuntime removes what dies with a VM's run. Drives in memory stay, as long as the VM's home does.
func (f folder) clearRuntime() error {
	if err := f.clearJail(); err != nil {
		return err
	}
	entries, err := os.ReadDir(f.runtime)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		// The journal goes last: while it is there, everybody knows that something is left to do.
		if entry.Name() != drivesDir && entry.Name() != journalName {
			errs = append(errs, os.RemoveAll(filepath.Join(f.runtime, entry.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(f.runtime, journalName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(f.runtime); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// link gives target, which the VMM may only read, a name in its folder, whatever target is relative to.
func (f folder) link(target, name string) error { return f.lend(target, name, false) }

// lend is link for what the VMM may write to, too.
func (f folder) lend(target, name string, write bool) error {
	if f.dry {
		return nil
	}
	abs, err := filepath.Abs(target)
	if err != nil {
		return err
	}
	if f.jail != nil {
		return f.place(abs, name, write)
	}
	return os.Symlink(abs, f.seen(name))
}

// secureDir makes sure of a folder that only this user can change: made with 0700 where it is missing, refused where
// somebody else could have planted it.
func secureDir(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("folder %s cannot be made: %w; choose one of your own (DataDir, RuntimeDir)", dir, err)
		}
		info, err = os.Lstat(dir)
	}
	if err != nil {
		return err
	}
	insecure := func(format string, args ...any) error {
		return &Error{Code: InsecurePath, Err: fmt.Errorf("folder %s "+format, append([]any{dir}, args...)...)}
	}
	switch stat := info.Sys().(*syscall.Stat_t); {
	case info.Mode()&fs.ModeSymlink != 0:
		return insecure("is a symbolic link; give the folder it leads to")
	case !info.IsDir():
		return insecure("is no folder")
	case int(stat.Uid) != os.Geteuid():
		return insecure("belongs to uid %d, not to uid %d; choose one of your own", stat.Uid, os.Geteuid())
	case info.Mode().Perm()&0o022 != 0:
		return insecure("can be written by others (mode %04o); chmod go-w it, or choose another", info.Mode().Perm())
	}
	return nil
}

// nearestFolder returns dir, or the nearest folder above it that exists.
func nearestFolder(dir string) (string, error) {
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && !info.IsDir():
			return "", fmt.Errorf("%s is no folder", dir)
		case err == nil:
			return dir, nil
		case !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir):
			return "", err
		}
		dir = filepath.Dir(dir)
	}
}

// allocated is how much of the disk a file takes, in bytes (stat(2): st_blocks counts 512 bytes each).
func allocated(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * 512
	}
	return info.Size()
}
