package smartvm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/drive"
	"smartvm/firecracker"
)

// RestoreOptions say how a snapshot is loaded.
type RestoreOptions struct {
	// Paused leaves the guest standing still; by default it runs on.
	Paused bool
	// TAPs gives interfaces other host devices, by interface id. Two restores of one snapshot cannot share a TAP. Since
	// Firecracker 1.12.
	TAPs map[string]string
	// NetNS is the network namespace to run in, as [Config] has it. Default: the snapshot's. /proc/1/ns/net is the host's.
	NetNS string
	// TrackDirtyPages, for a later snapshot with a Base.
	TrackDirtyPages bool
}

// Restore makes the VM continue from a snapshot instead of booting; from Created. The configuration is the snapshot's, but
// for the id. The snapshot is only read, and can be restored many times at once: drives are cloned, the memory is mapped
// privately and must stay as it is while the VM lives. A guest with an agent gets the time and fresh entropy as soon as it
// runs. In a jail it has no part in the files that the snapshot's VM wrote its log, its metrics or its serial port to: log
// and serial port go where they go by default.
//
// SnapshotIncompatible, before anything is made, when the snapshot cannot load here: another kind or version of VMM,
// another CPU, a drive that is gone or has changed.
func (vm *VM) Restore(ctx context.Context, dir string, options RestoreOptions) error {
	const op = "restore"
	dir, err := filepath.Abs(dir)
	if err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	defer vm.markStarting()()
	if state := vm.State(); state != Created && state != Configuring {
		return vm.stateError(op, state, []State{Created})
	}
	snapshot, err := OpenSnapshot(dir)
	if err != nil {
		return vm.fail(op, SnapshotIncompatible, err)
	}
	binary, err := vm.options.vmm()
	if err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	if err := snapshot.fits(ctx, dir, vm, binary); err != nil {
		return vm.fail(op, SnapshotIncompatible, err)
	}
	config, err := snapshot.givenHere(vm, options)
	if err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	early, err := vm.startMonitor()
	if err != nil {
		return vm.fail(op, InvalidState, fmt.Errorf("start the monitor: %w", err))
	}
	defer early.giveBack()
	h, err := vm.acquire(ctx, op)
	if err != nil {
		return err
	}
	defer h.release()
	if err := h.require(ctx, op, Created); err != nil {
		return err
	}
	then := journalRunning
	if options.Paused {
		then = journalPaused
	}
	return h.bringUp(ctx, op, bringing{
		prepared: prepared{binary, early}, then: then, config: config, command: snapshot.Command.clone(),
		stage: func(ctx context.Context, home *home) error {
			home.seen = *config.clone()
			return vm.restoreHome(ctx, home, snapshot, dir)
		},
		configure: func(ctx context.Context, in *instance, home *home) error {
			return vm.load(ctx, in, home, snapshot, options)
		},
		stageStep: stepRestoreStage, tellStep: stepRestoreLoad,
	})
}

// givenHere is the configuration of the VM that is restored, if this host can hold to it.
func (s *Snapshot) givenHere(vm *VM, options RestoreOptions) (*Config, error) {
	limits := s.Config.Limits
	if err := errors.Join(limits.checkHost(vm.options.DataDir), limits.checkProcess(vm.options.jailed())); err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	config, err := s.given(vm.id, options)
	if err != nil {
		return nil, err
	}
	var missing faults
	config.checkNetwork(vm.options.jailed(), func(key string, err error) {
		if err != nil {
			missing.add("%s: %w", key, err)
		}
	})
	return config, missing.err()
}

// given is the configuration for the record of a VM that is restored, with the TAPs and the namespace that it gets.
func (s *Snapshot) given(id string, options RestoreOptions) (*Config, error) {
	c := s.Config.clone()
	c.ID = id
	if netns := netNSPath(options.NetNS); netns != "" {
		abs, err := filepath.Abs(netns)
		if err != nil {
			return nil, err
		}
		c.NetNS = abs
	}
	for i := range c.NetworkInterfaces {
		iface := &c.NetworkInterfaces[i]
		iface.HostDevName = cmp.Or(options.TAPs[iface.IfaceID], iface.HostDevName)
	}
	return c, nil
}

// leaveFiles has a VM in a jail write none of the files that the snapshot's VM wrote its log, its metrics and the guest's
// serial port to: they are another user's. One that had them in its jail names none that is anywhere else.
func (h *home) leaveFiles() {
	foreign := func(path string) bool { return path != "" && (h.folder.jail != nil || !filepath.IsAbs(path)) }
	if l := h.seen.Logger; l != nil && foreign(l.LogPath) {
		h.seen.Logger = nil
	}
	if m := h.seen.Metrics; m != nil && foreign(m.MetricsPath) {
		h.seen.Metrics = nil
	}
	if s := h.seen.Serial; s != nil && foreign(s.SerialOutPath) {
		s.SerialOutPath = ""
	}
}

// load sends the one request that a restore is. The monitor greets the guest.
func (vm *VM) load(ctx context.Context, in *instance, h *home, snapshot *Snapshot, options RestoreOptions) error {
	if err := sendObservers(ctx, in.client, &h.seen, vmmConfig(&h.seen)); err != nil {
		return err
	}
	request := firecracker.SnapshotLoad{
		SnapshotPath: filepath.Join(snapshotLink, snapshotState),
		MemBackend: &firecracker.MemoryBackend{
			BackendType: firecracker.BackendFile, BackendPath: filepath.Join(snapshotLink, snapshotMemory),
		},
		ResumeVM: !options.Paused, TrackDirtyPages: options.TrackDirtyPages,
	}
	for id, tap := range options.TAPs {
		request.NetworkOverrides = append(request.NetworkOverrides, firecracker.NetworkOverride{IfaceID: id, HostDevName: tap})
	}
	if err := in.client.LoadSnapshot(ctx, request); err != nil {
		return err
	}
	// The files are open or mapped now; the name is free for the VM's own snapshots.
	if err := h.unlinkSnapshot(); err != nil {
		return vm.fail("restore", InvalidState, err)
	}
	return nil
}

// fits reports all that keeps the snapshot from loading with this VMM on this host.
func (s *Snapshot) fits(ctx context.Context, dir string, vm *VM, binary string) error {
	build, err := vm.builds.of(ctx, binary)
	if err != nil {
		return err
	}
	format := build.snapshots
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if build.Name != s.VMM {
		fault("it was made by %s, and %s is %s; they cannot load each other's snapshots", s.VMM, binary, build.Name)
	} else if want, err := firecracker.ParseVersion(s.SnapshotVersion); err != nil {
		faults = append(faults, err)
	} else if want.Major != format.Major || want.Minor > format.Minor {
		fault("its format is %s (%s %s), and %s loads %d.0 to %d.%d", s.SnapshotVersion, s.VMM, s.VMMVersion, binary, format.Major, format.Major, format.Minor)
	}
	if s.Arch != vm.options.Arch {
		fault("it is of a %s machine, and this is %s", s.Arch, vm.options.Arch)
	}
	if host := hostFacts(); !vm.options.Emulate && s.CPUModel != host.cpuModel {
		fault("it was made on a CPU %q, and this is %q", s.CPUModel, host.cpuModel)
	}
	for _, name := range []string{snapshotState, snapshotMemory} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			fault("a part is missing: %w", err)
		}
	}
	for _, d := range s.Drives {
		faults = append(faults, d.unchanged(dir))
	}
	return errors.Join(faults...)
}

// unchanged checks the file that a restored drive will be made of.
func (d SnapshotDrive) unchanged(dir string) error {
	path := d.Source
	if d.Copy != "" {
		path = filepath.Join(dir, filepath.Base(d.Copy))
	}
	stat, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("drive %s is missing: %w", d.DriveID, err)
	case stat.Size() != d.Size:
		return fmt.Errorf("drive %s: %s has %d bytes, and had %d", d.DriveID, path, stat.Size(), d.Size)
	case d.Copy == "" && !stat.ModTime().Equal(d.ModTime):
		return fmt.Errorf("drive %s: %s was changed at %s, after the snapshot was made", d.DriveID, path, stat.ModTime().Format(time.RFC3339))
	}
	return nil
}

// restoreHome makes a home in which the snapshot finds everything under the names that it knows.
func (vm *VM) restoreHome(ctx context.Context, h *home, s *Snapshot, dir string) error {
	h.restored = dir
	h.leaveFiles()
	if err := h.linkSnapshot(dir); err != nil {
		return vm.fail("restore", InvalidState, err)
	}
	h.onHost = *h.seen.clone()
	for _, d := range s.Drives {
		if err := h.restoreDrive(ctx, d, dir); err != nil {
			return vm.fail("restore", DriveStageFailed, fmt.Errorf("drive %s: %w", d.DriveID, err))
		}
	}
	if err := h.folder.giveToVM(); err != nil {
		return vm.fail("restore", DriveStageFailed, err)
	}
	if v := h.onHost.Vsock; v != nil && !filepath.IsAbs(v.UDSPath) {
		v.UDSPath = h.folder.seen(v.UDSPath)
	}
	return nil
}

// makeFolderOf makes the folders in which a restored drive lies.
func (h *home) makeFolderOf(name string) error {
	parent := filepath.Dir(name)
	if parent == "." {
		return nil
	}
	if _, err := os.Stat(h.folder.seen(parent)); err == nil {
		return nil
	}
	if err := h.makeFolderOf(parent); err != nil {
		return err
	}
	return h.folder.mkdir(parent)
}

// linkSnapshot gives the snapshot a name that the VMM has.
func (h *home) linkSnapshot(dir string) error {
	if h.folder.jail == nil {
		return h.folder.link(dir, snapshotLink)
	}
	if err := h.folder.mkdir(snapshotLink); err != nil {
		return err
	}
	for _, name := range []string{snapshotState, snapshotMemory} {
		if err := h.folder.link(filepath.Join(dir, name), filepath.Join(snapshotLink, name)); err != nil {
			return err
		}
	}
	return nil
}

// unlinkSnapshot takes the name away. What is mapped stays mapped.
func (h *home) unlinkSnapshot() error {
	if h.folder.jail == nil {
		return os.Remove(h.folder.seen(snapshotLink))
	}
	kept := h.folder.jail.Mounts[:0]
	for _, m := range h.folder.jail.Mounts {
		if filepath.Dir(m.Name) != snapshotLink {
			kept = append(kept, m)
			continue
		}
		if err := unmount(h.folder.seen(m.Name)); err != nil {
			return err
		}
	}
	h.folder.jail.Mounts = kept
	return os.RemoveAll(h.folder.seen(snapshotLink))
}

func (h *home) restoreDrive(ctx context.Context, d SnapshotDrive, dir string) error {
	if !filepath.IsLocal(d.Path) {
		return fmt.Errorf("its path %q leaves the VM's folder: it was not staged, and two VMs must not write to one file; snapshot a VM with staged drives", d.Path)
	}
	target := h.folder.seen(d.Path)
	if err := h.makeFolderOf(d.Path); err != nil {
		return err
	}
	for i := range h.onHost.Drives {
		if h.onHost.Drives[i].DriveID == d.DriveID {
			h.onHost.Drives[i].PathOnHost = cmp.Or(d.Source, target)
		}
	}
	if d.Copy == "" {
		return h.folder.link(d.Source, d.Path)
	}
	source := filepath.Join(dir, filepath.Base(d.Copy))
	cloned, err := drive.Clone(ctx, target, source)
	if err != nil {
		return err
	}
	h.drives = append(h.drives, StagedDrive{DriveID: d.DriveID, Method: cloned.Method, Source: source, Path: target, Written: cloned.Written})
	return nil
}

// facts are what a snapshot is bound to on a host.
type facts struct{ cpuModel, kernel string }

func hostFacts() facts {
	f := facts{cpuModel: "unknown", kernel: "unknown"}
	if text, err := readBounded("/proc/cpuinfo", 1<<20); err == nil {
		for line := range strings.Lines(string(text)) {
			key, value, found := strings.Cut(line, ":")
			if found && strings.TrimSpace(key) == "model name" {
				f.cpuModel = strings.TrimSpace(value)
				break
			}
		}
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		f.kernel = unix.ByteSliceToString(name.Release[:])
	}
	return f
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}
