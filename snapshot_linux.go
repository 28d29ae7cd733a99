package smartvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/drive"
	"smartvm/firecracker"
	"smartvm/internal/atomicfile"
	"smartvm/record"
)

// Names inside a snapshot's folder.
const (
	snapshotManifest = "manifest.json"
	snapshotState    = "state"
	snapshotMemory   = "memory"
)

// snapshotLink is, in a VM's folder, the link by which the VMM reaches the snapshot that it writes or loads.
const snapshotLink = runLink + "/snapshot"

// stateReserve is the space that is asked for beside memory and drives: Firecracker's state is below 10 MB.
const stateReserve = 16 << 20

// Snapshot is a paused VM on disk: a folder that owns the state, the memory and the drives that the guest could write to.
// Drives that were only read are named, with size and time, and must be as they were at a restore. Folder and files
// belong to whoever made them; the VM that they came from is not needed any more.
type Snapshot struct {
	SchemaVersion int       `json:"schemaVersion"` // 1
	VM            string    `json:"vm"`            // the id of the VM that it was taken of
	CreatedAt     time.Time `json:"createdAt"`

	VMM             string `json:"vmm"`             // "Firecracker", or the emulator's name
	VMMVersion      string `json:"vmmVersion"`      // "1.16.1"
	SnapshotVersion string `json:"snapshotVersion"` // the format of the state file, "10.0.0"
	Arch            string `json:"arch"`
	CPUModel        string `json:"cpuModel"`
	HostKernel      string `json:"hostKernel"`

	Config  Config          `json:"config"`            // as the VMM was told it: paths relative to a VM's folder
	Command *Command        `json:"command,omitempty"` // what the guest lived for, and goes on with
	Drives  []SnapshotDrive `json:"drives"`
}

// SnapshotDrive is a file behind a drive.
type SnapshotDrive struct {
	DriveID string    `json:"driveId"`
	Path    string    `json:"path"`             // as the VMM has it
	Copy    string    `json:"copy,omitempty"`   // the file in the snapshot's folder
	Source  string    `json:"source,omitempty"` // the host's file, for a drive that is only read
	Size    int64     `json:"size"`
	ModTime time.Time `json:"modTime,omitzero"`
}

// SnapshotOptions say how a snapshot is made.
type SnapshotOptions struct {
	// Base names an earlier full snapshot's folder: its memory is copied (by reflink where the filesystem can) and only what
	// changed since is written over it. The VM must track dirty pages. The result is a full snapshot.
	Base string
}

// Snapshot writes the paused VM into dir, a folder that must not exist yet; its parent must. It is made aside and renamed,
// so that a folder of that name is always whole. The VM stays paused. SnapshotFailed tells what went wrong; nothing is
// left of it then. Space is checked before anything is written.
func (vm *VM) Snapshot(ctx context.Context, dir string, options SnapshotOptions) (*Snapshot, error) {
	var snapshot *Snapshot
	err := vm.change(ctx, "snapshot", []State{Paused}, func(h *held, in *instance) error {
		var err error
		snapshot, err = h.writeSnapshot(ctx, in, dir, options)
		return err
	})
	return snapshot, err
}

// partialMark is in the name of a snapshot's folder that is not finished.
const partialMark = ".partial-"

func (h *held) writeSnapshot(ctx context.Context, in *instance, dir string, options SnapshotOptions) (_ *Snapshot, err error) {
	vm, hook := h.vm, h.vm.options.hook
	failed := func(err error) error { return vm.fail("snapshot", SnapshotFailed, err) }
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, failed(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil, failed(fmt.Errorf("%s is there already; choose another folder, or remove it", dir))
	}
	home := loadHome(h.folder, h.rec.Home)
	if err := h.rec.Config.Limits.fitsSnapshot(&home.seen); err != nil {
		return nil, failed(err)
	}
	if err := vm.snapshotSpace(home, filepath.Dir(dir), int64(home.seen.MachineConfig.MemSizeMiB)<<20); err != nil {
		return nil, failed(err)
	}
	var (
		aside string
		lock  *record.Lock
	)
	defer func() {
		if lock != nil {
			os.RemoveAll(aside) // renamed on success
			lock.Release()
		}
	}()
	err = hook.take(stepSnapshotAside, func() (err error) {
		aside, lock, err = makeAside(filepath.Dir(dir), "."+filepath.Base(dir)+partialMark, "snapshot")
		return err
	})
	if err != nil {
		return nil, failed(err)
	}
	if err := hook.take(stepSnapshotState, func() error { return h.saveInto(ctx, in, home, aside, options) }); err != nil {
		return nil, err
	}
	snapshot, err := h.describeSnapshot(ctx, in, &home.seen)
	if err != nil {
		return nil, err
	}
	if err := hook.take(stepSnapshotDrives, func() error { return snapshot.addDrives(ctx, home, aside) }); err != nil {
		return nil, failed(err)
	}
	text, err := json.MarshalIndent(snapshot, "", "  ")
	if err != nil {
		return nil, failed(err)
	}
	if err := atomicfile.Write(filepath.Join(aside, snapshotManifest), append(text, '\n'), 0o600); err != nil {
		return nil, failed(err)
	}
	if err := hook.take(stepSnapshotPublish, func() error { return publish(aside, dir) }); err != nil {
		return nil, failed(err)
	}
	return snapshot, nil
}

// publish gives a folder its name when all that is in it is on the disk: after a power cut there is no folder of that name,
// or a whole one. Firecracker has synced its files already; the emulator and the copies of drives have not.
func publish(aside, dir string) error {
	entries, err := os.ReadDir(aside)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		file, err := os.Open(filepath.Join(aside, entry.Name()))
		if err != nil {
			return err
		}
		if err := errors.Join(file.Sync(), file.Close()); err != nil {
			return err
		}
	}
	if err := atomicfile.SyncDir(aside); err != nil {
		return err
	}
	if err := os.Rename(aside, dir); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	// Not before it has its name: without the lock gc would take it for one that was never finished.
	return os.Remove(filepath.Join(dir, lockName))
}

// saveInto has the VMM write state and memory into the folder.
func (h *held) saveInto(ctx context.Context, in *instance, home *home, aside string, options SnapshotOptions) error {
	vm := h.vm
	request := firecracker.SnapshotCreate{
		SnapshotPath: filepath.Join(snapshotLink, snapshotState), MemFilePath: filepath.Join(snapshotLink, snapshotMemory),
	}
	// A VMM in a jail cannot reach the folder: it writes in its own, from where the files are moved.
	into := aside
	if home.folder.jail != nil {
		into = home.folder.seen(snapshotLink)
		if err := errors.Join(os.Mkdir(into, 0o700), os.Lchown(into, home.folder.jail.UID, home.folder.jail.UID)); err != nil {
			return vm.fail("snapshot", SnapshotFailed, err)
		}
		defer os.RemoveAll(into)
	} else {
		if err := home.folder.link(aside, snapshotLink); err != nil {
			return vm.fail("snapshot", SnapshotFailed, err)
		}
		defer os.Remove(home.folder.seen(snapshotLink))
	}
	if options.Base != "" {
		if _, err := drive.Clone(ctx, filepath.Join(into, snapshotMemory), filepath.Join(options.Base, snapshotMemory)); err != nil {
			return vm.fail("snapshot", SnapshotFailed, fmt.Errorf("base snapshot: %w", err))
		}
		request.SnapshotType = firecracker.SnapshotDiff
		if home.folder.jail != nil {
			if err := os.Lchown(filepath.Join(into, snapshotMemory), home.folder.jail.UID, home.folder.jail.UID); err != nil {
				return vm.fail("snapshot", SnapshotFailed, err)
			}
		}
	}
	if err := in.client.CreateSnapshot(ctx, request); err != nil {
		return h.vmmError(ctx, "snapshot", in, err)
	}
	for _, name := range []string{snapshotState, snapshotMemory} {
		if err := takeFromJail(ctx, into, aside, name); err != nil {
			return vm.fail("snapshot", SnapshotFailed, err)
		}
	}
	return nil
}

// takeFromJail moves what a VMM wrote in its jail, and makes it ours: readable for the VMMs that will load it, as whom they
// may run, and for nobody to write. The folder that it comes to keeps everybody else out.
func takeFromJail(ctx context.Context, from, to, name string) error {
	if path := filepath.Join(from, name); from != to {
		err := os.Rename(path, filepath.Join(to, name))
		if errors.Is(err, unix.EXDEV) {
			_, err = drive.Clone(ctx, filepath.Join(to, name), path)
		}
		if err != nil {
			return err
		}
	}
	path := filepath.Join(to, name)
	return errors.Join(os.Lchown(path, os.Geteuid(), os.Getegid()), os.Chmod(path, 0o444))
}

// describeSnapshot asks what a later restore must compare.
func (h *held) describeSnapshot(ctx context.Context, in *instance, seen *Config) (*Snapshot, error) {
	vm := h.vm
	info, err := in.client.Info(ctx)
	if err != nil {
		return nil, h.vmmError(ctx, "snapshot", in, err)
	}
	build, err := vm.builds.of(ctx, in.binary)
	if err != nil {
		return nil, vm.fail("snapshot", SnapshotFailed, err)
	}
	host := hostFacts()
	return &Snapshot{
		SchemaVersion: 1, VM: vm.id, CreatedAt: time.Now().UTC(),
		VMM: info.AppName, VMMVersion: info.VMMVersion, SnapshotVersion: build.snapshots.String(),
		Arch: vm.options.Arch, CPUModel: host.cpuModel, HostKernel: host.kernel, Config: *seen.clone(), Command: h.rec.Command.clone(),
	}, nil
}

// addDrives copies the drives that the guest can write to while it stands still, and notes the others.
func (s *Snapshot) addDrives(ctx context.Context, h *home, dir string) error {
	for i := range s.Config.Drives {
		d := &s.Config.Drives[i]
		host := h.onHost.Drives[i].PathOnHost
		source, err := filepath.EvalSymlinks(host)
		if err != nil {
			return fmt.Errorf("drive %s: %w", d.DriveID, err)
		}
		entry := SnapshotDrive{DriveID: d.DriveID, Path: d.PathOnHost}
		if d.IsReadOnly {
			entry.Source = source
		} else {
			entry.Copy = "drive-" + d.DriveID + ".img"
			if _, err := drive.Clone(ctx, filepath.Join(dir, entry.Copy), source); err != nil {
				return fmt.Errorf("drive %s: %w", d.DriveID, err)
			}
		}
		stat, err := os.Stat(source)
		if err != nil {
			return fmt.Errorf("drive %s: %w", d.DriveID, err)
		}
		entry.Size = stat.Size()
		if d.IsReadOnly {
			entry.ModTime = stat.ModTime().UTC()
		}
		s.Drives = append(s.Drives, entry)
	}
	return nil
}

// snapshotSpace checks that memory, state and writable drives find room; what a reflink would save is not counted on.
func (vm *VM) snapshotSpace(h *home, parent string, memory int64) error {
	need := memory + stateReserve
	for i := range h.seen.Drives {
		d := &h.seen.Drives[i]
		if d.IsReadOnly || d.Socket != "" {
			continue
		}
		path := d.PathOnHost
		if !filepath.IsAbs(path) {
			path = h.folder.seen(path)
		}
		used, err := drive.DataSize(path)
		if err != nil {
			return fmt.Errorf("drive %s: %w", d.DriveID, err)
		}
		need += used
	}
	if parent == vm.manager.snapshotsDir() {
		if err := vm.options.checkQuota("snapshots", vm.options.SnapshotQuota, func() int64 { return diskUsage(parent) }, need); err != nil {
			return err
		}
	}
	return drive.CheckSpace(parent, need)
}

// OpenSnapshot reads the manifest of the snapshot in dir. SnapshotIncompatible when there is none, or none that this
// program understands.
func OpenSnapshot(dir string) (*Snapshot, error) {
	failed := func(err error) (*Snapshot, error) {
		return nil, &Error{Code: SnapshotIncompatible, Op: "open snapshot", Err: err}
	}
	text, err := readBounded(filepath.Join(dir, snapshotManifest), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return failed(fmt.Errorf("%s holds no snapshot: %w", dir, err))
	}
	if err != nil {
		return failed(err)
	}
	var snapshot Snapshot
	if err := json.Unmarshal(text, &snapshot); err != nil {
		return failed(fmt.Errorf("%s: %w", filepath.Join(dir, snapshotManifest), err))
	}
	if snapshot.SchemaVersion != 1 {
		return failed(fmt.Errorf("%s has schema version %d, and this program knows 1", dir, snapshot.SchemaVersion))
	}
	return &snapshot, nil
}

// Emulated tells whether the snapshot is one of the emulator's: nothing else loads it.
func (s *Snapshot) Emulated() bool { return s.VMM != firecrackerAppName }

// firecrackerAppName is what Firecracker calls itself (InstanceInfo.AppName).
const firecrackerAppName = "Firecracker"
