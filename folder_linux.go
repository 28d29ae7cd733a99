package smartvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"smartvm/internal/undo"
)

// Names inside a VM's folder, <DataDir>/vms/<key>. The folder is the VMM's working folder, and the VMM is only ever
// given these relative names: the same in every folder, so that a snapshot loads in another one.
const (
	runLink     = "run" // leads to the VM's runtime folder
	kernelName  = "kernel"
	initrdName  = "initrd"
	drivesDir   = "drives"
	consoleLog  = "console.log"
	apiSocket   = runLink + "/firecracker.sock"
	vsockSocket = runLink + "/v.sock"
	consoleFIFO = runLink + "/console"
)

// folder is where one VM lives on the host.
type folder struct {
	data    string // <DataDir>/vms/<key>
	runtime string // <RuntimeDir>/<key>
	dry     bool   // nothing is made: see Plan
}

func (o Options) folderOf(key string) folder {
	return folder{data: filepath.Join(o.DataDir, "vms", key), runtime: filepath.Join(o.RuntimeDir, key)}
}

// path returns where on the host a name inside the VM's folder is.
func (f folder) path(name string) string { return filepath.Join(f.data, name) }

// create makes both folders, anew: a folder that is there already belongs to somebody, and is refused.
func (f folder) create(o Options, steps *undo.Stack) error {
	for _, dir := range []string{o.DataDir, filepath.Dir(f.data), o.RuntimeDir} {
		if err := secureDir(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{f.runtime, f.data} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			if errors.Is(err, fs.ErrExist) {
				return &Error{Code: InvalidState, Err: fmt.Errorf("%s exists: another process runs a VM of this id, or one died and left it behind; choose another id, or remove the folder when no VM uses it", dir)}
			}
			return err
		}
		steps.Add("remove "+dir, func(context.Context) error { return os.RemoveAll(dir) })
	}
	return os.Symlink(f.runtime, f.path(runLink))
}

func (f folder) mkdir(name string) error {
	if f.dry {
		return nil
	}
	return os.Mkdir(f.path(name), 0o700)
}

// remove takes both folders away.
func (f folder) remove() error { return errors.Join(os.RemoveAll(f.data), os.RemoveAll(f.runtime)) }

// link puts target at name in the VM's folder, whatever target is relative to.
func (f folder) link(target, name string) error {
	if f.dry {
		return nil
	}
	abs, err := filepath.Abs(target)
	if err != nil {
		return err
	}
	return os.Symlink(abs, f.path(name))
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
