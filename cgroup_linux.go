package smartvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// bounds are the limits as the kernel has them.
func (l *Limits) bounds() cgroup.Limits {
	return cgroup.Limits{CPUs: l.CPUs, Memory: int64(l.MemoryMiB) << 20, PIDs: l.PIDs}
}

// checkHost tells why this host cannot hold a VM to these limits.
func (l *Limits) checkHost() error {
	if l == nil || *l == (Limits{}) {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("only root makes cgroups; run smartvm as root, or do without limits")
	}
	hierarchy, err := cgroup.Mounted()
	if err != nil {
		return err
	}
	return cgroup.Check(hierarchy, l.bounds())
}

// makeCgroup makes the VM's cgroup, where its configuration has limits.
func (h *held) makeCgroup() error {
	limits := h.rec.Config.Limits
	if limits == nil || *limits == (Limits{}) {
		return nil
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
	id, err := cgroup.Make(hierarchy, path, limits.bounds())
	if err != nil {
		return err
	}
	h.journal.Complete(kindCgroup, h.jour.Cgroup, id)
	return nil // noted with what is spawned next
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
