package smartvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"smartvm/internal/cgroup"
	"smartvm/record"
)

// kindCgroup is a resource in a journal: the VM's cgroup; name: its folder, identity: what tells it from another VM's.
const kindCgroup = "cgroup"

// cgroupParent is the cgroup below which those of the VMs are. It stays, until the host's boot ends.
const cgroupParent = "smartvm"

// cgroupOf is a VM's cgroup, relative to the hierarchy.
func cgroupOf(key string) string { return filepath.Join(cgroupParent, key) }

// grouped tells whether there are limits that a cgroup holds. The others are the jail's.
func (l *Limits) grouped() bool {
	if l == nil {
		return false
	}
	c := *l
	c.OpenFiles, c.FileSizeMiB = 0, 0
	return c != Limits{}
}

// io are the limits on disks.
func (l *Limits) io() cgroup.IO {
	return cgroup.IO{ReadBytes: l.ReadBps, WriteBytes: l.WriteBps, ReadOps: l.ReadIOPS, WriteOps: l.WriteIOPS}
}

// bounds are the limits as the kernel has them.
func (l *Limits) bounds(disks []string) cgroup.Limits {
	return cgroup.Limits{CPUs: l.CPUs, Memory: int64(l.MemoryMiB) << 20, PIDs: l.PIDs, IO: l.io(), Devices: disks}
}

// disks are those that the limits on disks are for: the one with the data folder, which must be one that can be bounded, and
// where a VM's files lie that are used in place. Of those one that has no disk is passed over: nothing of it can be bounded.
func (l *Limits) disks(dataDir string, files []string) ([]string, error) {
	if l.io() == (cgroup.IO{}) {
		return nil, nil
	}
	dir, err := nearestFolder(dataDir)
	if err != nil {
		return nil, err
	}
	disk, err := cgroup.DiskOf(dir)
	if err != nil {
		return nil, fmt.Errorf("the data folder: %w; have it on ext4 or XFS (DataDir, SMARTVM_DATA_DIR), or do without readBps, writeBps, readIops and writeIops", err)
	}
	disks := []string{disk}
	for _, file := range files {
		disk, err := cgroup.DiskOf(file)
		var none *cgroup.NoDiskError
		switch {
		case errors.As(err, &none):
		case err != nil:
			return nil, err
		case !slices.Contains(disks, disk):
			disks = append(disks, disk)
		}
	}
	return disks, nil
}

// checkHost tells why this host cannot hold a VM to these limits.
func (l *Limits) checkHost(dataDir string) error {
	if !l.grouped() {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("only root makes cgroups; run smartvm as root, or do without limits")
	}
	hierarchy, err := cgroup.Mounted()
	if err != nil {
		return err
	}
	disks, err := l.disks(dataDir, nil)
	if err != nil {
		return err
	}
	return cgroup.Check(hierarchy, l.bounds(disks))
}

// makeCgroup makes the VM's cgroup, where its configuration has limits.
func (h *held) makeCgroup() error {
	limits := h.rec.Config.Limits
	if !limits.grouped() {
		return nil
	}
	disks, err := limits.disks(h.folder.data, h.filesInUse())
	if err != nil {
		return err
	}
	hierarchy, err := cgroup.Mounted()
	if err != nil {
		return err
	}
	path := cgroupOf(h.vm.key)
	h.jour.Cgroup = filepath.Join(hierarchy, path)
	h.journal.Intend(kindCgroup, h.jour.Cgroup)
	if err := h.note(); err != nil {
		return err
	}
	id, err := cgroup.Make(hierarchy, path, limits.bounds(disks))
	if err != nil {
		return err
	}
	h.journal.Complete(kindCgroup, h.jour.Cgroup, id)
	return nil // noted with what is spawned next
}

// filesInUse are what the VMM reads and writes: the files behind its drives, by the names that it has for them, and the
// snapshot that its memory comes from.
func (h *held) filesInUse() (files []string) {
	seen := &h.rec.Home.Seen
	for i := range seen.Drives {
		if seen.Drives[i].Socket == "" {
			files = append(files, h.folder.onHost(seen.Drives[i].PathOnHost))
		}
	}
	for i := range seen.Pmem {
		files = append(files, h.folder.onHost(seen.Pmem[i].PathOnHost))
	}
	if h.rec.Home.Restored != "" {
		files = append(files, h.rec.Home.Restored)
	}
	return files
}

// boundDiskOf holds a VM that runs to its limits on the disk of a file that it gets now.
func (h *held) boundDiskOf(path string) error {
	limits := h.rec.Config.Limits
	if h.jour.Cgroup == "" || limits.io() == (cgroup.IO{}) {
		return nil
	}
	disk, err := cgroup.DiskOf(path)
	var none *cgroup.NoDiskError
	if errors.As(err, &none) {
		return nil
	}
	if err != nil {
		return err
	}
	return cgroup.BoundDisk(h.jour.Cgroup, disk, limits.io())
}

// letDisksGo lifts the limits on disks of a VM that is about to be killed: its VMM ends only when the kernel has written what
// it waits for. What cannot be lifted costs time.
func letDisksGo(dir string) {
	if dir != "" {
		_ = cgroup.UnboundDisks(dir)
	}
}

// wantInCgroup makes sure that the VMM is held to its limits: the jailer passes over a cgroup that it does not find.
func (h *held) wantInCgroup(pid int) error {
	if h.jour.Cgroup == "" {
		return nil
	}
	in, err := cgroup.Has(h.jour.Cgroup, pid)
	if err == nil && !in {
		err = fmt.Errorf("the VMM (process %d) is not in its cgroup %s, so nothing would hold it to its limits", pid, h.jour.Cgroup)
	}
	return err
}

// removeCgroups removes the cgroups that a journal names.
func removeCgroups(ctx context.Context, journal *record.Record) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	var errs []error
	for _, r := range journal.Resources {
		if r.Kind == kindCgroup {
			errs = append(errs, cgroup.Remove(ctx, r.Name, r.Identity))
		}
	}
	return errors.Join(errs...)
}

// limitsMet says which of a cgroup's limits made themselves felt, for the note of a VM's end.
func limitsMet(dir string) (text string, outOfMemory bool) {
	if dir == "" {
		return "", false
	}
	events := cgroup.EventsOf(dir)
	var met []string
	if events.OOMKills > 0 {
		met = append(met, fmt.Sprintf("the VM's memory limit (%d MiB) was reached, and the kernel killed it: raise limits.memoryMib", cgroup.MemoryMax(dir)>>20))
	}
	if events.PIDs > 0 {
		met = append(met, fmt.Sprintf("%d times it could not make a thread or a process, for its limit (limits.pids)", events.PIDs))
	}
	return strings.Join(met, "; "), events.OOMKills > 0
}
