package smartvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"smartvm/drive"
	"smartvm/firecracker"
	"smartvm/record"
)

// The users that VMs in jails run as, where Options give no others: above those that systemd gives to containers
// (systemd.io/UIDS-GIDS), and below 2^31, beyond which some programs count negative.
const (
	defaultUIDBase  = 1_900_000_000
	defaultUIDCount = 65_536
)

// jailDir is, in a VM's folder, what the jailer makes its folders below.
const jailDir = "jail"

// uidsDir has, in the data folder, a link for each user that a VM has: named by its number, it leads to the VM's key.
const uidsDir = "uids"

// kindMount is a resource in a journal: a bind mount in the jail; name: its path.
const kindMount = "mount"

// jailRecord is a VM's jail: who the VMM is there, from the first start to the VM's removal.
type jailRecord struct {
	UID  int    `json:"uid"`  // and gid
	Exec string `json:"exec"` // the VMM binary's own name, which is part of the jail's path
	// Mounts are what had to be mounted, as it lies on another filesystem.
	Mounts []jailMount `json:"mounts,omitempty"`
}

type jailMount struct {
	Source string `json:"source"`
	Name   string `json:"name"` // as the VMM sees it
	Write  bool   `json:"write,omitempty"`
}

// jailed tells whether VMs made with these options run in a jail.
func (o Options) jailed() bool { return os.Geteuid() == 0 && !o.Emulate && !o.NoJail }

// jailer finds the jailer: the one that is named, the one beside the VMM, or the one in $PATH.
func (o Options) jailer(vmm string) (string, error) {
	if o.JailerBinary != "" {
		return executable(o.JailerBinary)
	}
	if beside, err := executable(filepath.Join(filepath.Dir(vmm), "jailer")); err == nil {
		return beside, nil
	}
	path, err := exec.LookPath("jailer")
	if err != nil {
		return "", fmt.Errorf("no jailer: %w; it comes with Firecracker: put it beside that, name it (JailerBinary, SMARTVM_JAILER), or do without a jail (NoJail, --no-jail): a guest that breaks out of its VMM is root on this host then", err)
	}
	return filepath.Abs(path)
}

// workOf is the VMM's working folder in a VM's folder.
func (r *jailRecord) workOf(data string) string {
	if r == nil {
		return filepath.Join(data, workDir)
	}
	return firecracker.Jail{Base: filepath.Join(data, jailDir)}.Root(r.Exec, filepath.Base(data))
}

// enterJail gives the VM a user of its own, and its folder the path that the jailer wants.
func (h *held) enterJail(ctx context.Context, binary string) error {
	name, err := firecracker.ExecName(binary)
	if err != nil {
		return err
	}
	if h.rec.Jail == nil {
		uid, err := h.vm.manager.takeUID(ctx, h.vm.key)
		if err != nil {
			return err
		}
		h.rec.Jail = &jailRecord{UID: uid, Exec: name}
	}
	if jail := h.rec.Jail; jail.Exec != name { // the binary has another name than the last time
		base := filepath.Join(h.folder.data, jailDir)
		if err := os.Rename(filepath.Join(base, jail.Exec), filepath.Join(base, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		jail.Exec = name
	}
	h.folder.work, h.folder.jail = h.rec.Jail.workOf(h.folder.data), h.rec.Jail
	h.folder.noteMount = h.intendMount
	return nil
}

// intendMount notes a mount that is about to be made.
func (h *held) intendMount(path string) error {
	h.journal.Intend(kindMount, path)
	return h.note()
}

// takeUID finds a user that no other VM has, and notes whose it is.
func (m *Manager) takeUID(ctx context.Context, key string) (int, error) {
	dir := filepath.Join(m.options.DataDir, uidsDir)
	if err := secureDir(dir); err != nil {
		return 0, err
	}
	if err := record.Ensure(filepath.Join(dir, "."+lockName)); err != nil {
		return 0, err
	}
	lock, err := m.lockUIDs(ctx)
	if err != nil {
		return 0, err
	}
	defer lock.Release()
	for slot := range m.options.UIDCount {
		uid := m.options.UIDBase + slot
		link := filepath.Join(dir, strconv.Itoa(uid))
		owner, err := os.Readlink(link)
		if err == nil && owner != key {
			if _, err := os.Lstat(m.options.folderOf(owner).data); !errors.Is(err, fs.ErrNotExist) {
				continue
			}
			err = os.Remove(link) // of a VM that is gone
			if err != nil {
				return 0, err
			}
		}
		if err == nil && owner == key {
			return uid, nil
		}
		return uid, os.Symlink(key, link)
	}
	return 0, fmt.Errorf("all %d users from %d on belong to VMs; remove some VMs, or give more users (UIDCount)", m.options.UIDCount, m.options.UIDBase)
}

// lockUIDs takes the lock on who has which user. It is held for moments, and nobody who has it waits for a VM: it may be
// taken under a VM's lock.
func (m *Manager) lockUIDs(ctx context.Context) (*record.Lock, error) {
	return record.Acquire(ctx, filepath.Join(m.options.DataDir, uidsDir, "."+lockName), "uid", nil)
}

// dropUID frees a user, if it is this VM's.
func (m *Manager) dropUID(uid int, key string) error {
	return removeLinkTo(filepath.Join(m.options.DataDir, uidsDir, strconv.Itoa(uid)), key)
}

// dropUIDsOf frees the users of a VM whose record tells none.
func (m *Manager) dropUIDsOf(key string) error {
	entries, err := os.ReadDir(filepath.Join(m.options.DataDir, uidsDir))
	if err != nil {
		return ignoreMissing(err)
	}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, removeLinkTo(filepath.Join(m.options.DataDir, uidsDir, entry.Name()), key))
	}
	return errors.Join(errs...)
}

// jailSpec is what the monitor must know of a jail.
type jailSpec struct {
	Jailer string `json:"jailer"`
	UID    int    `json:"uid"`
	Base   string `json:"base"`

	NetNS string `json:"netns,omitempty"` // a path; "" is the monitor's
	PIDNS bool   `json:"pidns,omitempty"` // the VMM is process 1 of a PID namespace of its own

	OpenFiles int   `json:"openFiles,omitempty"` // 0 is the jailer's default
	FileSize  int64 `json:"fileSize,omitempty"`  // in bytes; 0 is no limit
	// Outputs are files that the VMM writes for people: their names in the jail, and on the host.
	Outputs map[string]string `json:"outputs,omitempty"`
}

// place gives target a name in the jail: by a hard link or a reflink where the filesystem can, else by a bind mount; a copy
// is the last resort, and is told. The VMM may read it, and write to it where write says so.
func (f folder) place(target, name string, write bool) error {
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	path := f.seen(name)
	if info.Mode().Type() == fs.ModeDevice { // a block device
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(stat.Rdev)); err != nil {
			return &os.PathError{Op: "mknod", Path: path, Err: err}
		}
		return os.Chown(path, f.jail.UID, f.jail.UID)
	}
	if target, err = filepath.EvalSymlinks(target); err != nil {
		return err
	}
	if !mayAccess(stat, f.jail.UID, write) {
		if write {
			return fmt.Errorf("the VM runs as uid %d in its jail, which may not write to %s: chown %d it, let the VM have a copy, or do without a jail (--no-jail)", f.jail.UID, target, f.jail.UID)
		}
		return f.placeCopy(target, path)
	}
	err = os.Link(target, path)
	if err == nil || !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EMLINK) && !errors.Is(err, unix.EPERM) {
		return err
	}
	return f.mount(target, name, write)
}

// mayAccess tells whether a user without any group may read a file, and write to it.
func mayAccess(stat *syscall.Stat_t, uid int, write bool) bool {
	want := uint32(0o4)
	if write {
		want |= 0o2
	}
	if int(stat.Uid) == uid {
		want <<= 6
	}
	return stat.Mode&want == want
}

// placeCopy makes a file of the VM's own where others may not read the one that is given.
func (f folder) placeCopy(target, path string) error {
	cloned, err := drive.Clone(context.Background(), path, target)
	if err != nil {
		return fmt.Errorf("others may not read %s, so the VM gets a copy of it: %w; chmod o+r it to do without", target, err)
	}
	if cloned.Written > 0 && f.say != nil {
		f.say("a file was copied into the jail, as others may not read it; chmod o+r it to do without", "file", target, "bytes", cloned.Written)
	}
	return os.Chown(path, f.jail.UID, f.jail.UID)
}

// mount mounts target at name, and has it mounted again at each start.
func (f folder) mount(target, name string, write bool) error {
	path := f.seen(name)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	file.Close()
	f.jail.Mounts = append(f.jail.Mounts, jailMount{Source: target, Name: name, Write: write})
	return f.bind(target, path, write)
}

func (f folder) bind(target, path string, write bool) error {
	if err := f.noteMount(path); err != nil {
		return err
	}
	if err := unix.Mount(target, path, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "bind mount of " + target, Path: path, Err: err}
	}
	if write {
		return nil
	}
	if err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return &os.PathError{Op: "mount read-only", Path: path, Err: err}
	}
	return nil
}

// mountAgain mounts what was mounted when the home was made.
func (f folder) mountAgain() error {
	for _, m := range f.jail.Mounts {
		if err := f.bind(m.Source, f.seen(m.Name), m.Write); err != nil {
			return err
		}
	}
	return nil
}

// unmount takes a mount away, or finds that it is gone.
func unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "unmount", Path: path, Err: err}
}

// unmountBelow takes away every mount below a folder, the last one first (proc_pid_mountinfo(5)).
func unmountBelow(dir string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range lines(text) {
		// The fifth field is the mount point; white space and backslashes in it are written in octal.
		if fields := strings.Fields(line); len(fields) > 4 {
			if point := unescapeMount(fields[4]); strings.HasPrefix(point, dir+"/") {
				points = append(points, point)
			}
		}
	}
	var errs []error
	for _, point := range slices.Backward(points) {
		errs = append(errs, unmount(point))
	}
	return errors.Join(errs...)
}

func unescapeMount(text string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(text)
}

// giveToVM makes the files that were staged for the VM alone the VM's.
func (f folder) giveToVM() error {
	if f.jail == nil {
		return nil
	}
	mounted := map[string]bool{}
	for _, m := range f.jail.Mounts {
		mounted[f.seen(m.Name)] = true
	}
	entries, err := os.ReadDir(f.seen(drivesDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		path := f.seen(filepath.Join(drivesDir, entry.Name()))
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		// What has another name as well is somebody else's, and only lent.
		if !info.Mode().IsRegular() || mounted[path] || info.Sys().(*syscall.Stat_t).Nlink > 1 {
			continue
		}
		if err := os.Lchown(path, f.jail.UID, f.jail.UID); err != nil {
			return err
		}
	}
	return nil
}

// checkJail refuses what a VMM in a jail cannot have.
func (c *Config) checkJail() error {
	var faults []error
	if c.Vsock != nil && c.Vsock.UDSPath != "" {
		faults = append(faults, errors.New("vsock.udsPath: a VM in a jail has its socket there; leave the path out (VM.Config tells it), or do without a jail (--no-jail)"))
	}
	if c.EphemeralStorage == "memory" {
		faults = append(faults, errors.New("ephemeralStorage: drives in memory are outside of the jail; leave it out, or do without a jail (--no-jail)"))
	}
	for i := range c.Drives {
		if c.Drives[i].Socket != "" {
			faults = append(faults, fmt.Errorf("drives[%d].socket: a vhost-user back end is outside of the jail; do without a jail (--no-jail)", i))
		}
	}
	return errors.Join(faults...)
}

// outFile has the VMM write to a file of the host's that the user names.
func (f folder) outFile(path *string, name string) error {
	if f.jail == nil || *path == "" {
		return nil
	}
	if err := f.mkdir(filepath.Dir(name)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	file, err := os.OpenFile(*path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(file.Chown(f.jail.UID, f.jail.UID), file.Close())
	} else if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	if err := f.place(*path, name, true); err != nil {
		return err
	}
	*path = name
	return nil
}
