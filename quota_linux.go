package smartvm

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"smartvm/drive"
	"smartvm/internal/bytesize"
)

// QuotaError is something that would need more of the disk than a quota leaves. It is unix.EDQUOT.
type QuotaError struct {
	What              string // "snapshots", "staged drives"
	Quota, Used, Need int64  // bytes
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("the quota for %s is %s, %s are used, and up to %s more are needed; remove some, or raise the quota",
		e.What, bytesize.String(e.Quota), bytesize.String(e.Used), bytesize.String(e.Need))
}

// Is makes it the kernel's error of the same meaning.
func (e *QuotaError) Is(target error) bool { return target == unix.EDQUOT }

// quotaWarning is the share of a quota, in percent, from which on a warning is given.
const quotaWarning = 80

// checkQuota tells whether need more bytes fit; without a quota nothing is counted.
func (o Options) checkQuota(what string, quota int64, used func() int64, need int64) error {
	if quota == 0 {
		return nil
	}
	have := used()
	if have+need > quota {
		return &QuotaError{What: what, Quota: quota, Used: have, Need: need}
	}
	if (have+need)*100 >= quota*quotaWarning {
		o.Logger.Warn("a quota is nearly used up", "what", what, "quota", bytesize.String(quota), "used", bytesize.String(have+need))
	}
	return nil
}

// driveQuota checks what staging this VM's drives may write. What a reflink or an overlay would save is not counted on.
func (vm *VM) driveQuota() error {
	if vm.options.DriveQuota == 0 {
		return nil
	}
	var need int64
	for i := range vm.given.Drives {
		d := &vm.given.Drives[i]
		if d.PathOnHost == "" || !d.isEphemeral(!vm.options.WritableDrivesInPlace) {
			continue
		}
		size, err := drive.DataSize(d.PathOnHost)
		if err != nil {
			return fmt.Errorf("drive %s: %w", d.DriveID, err)
		}
		need += size
	}
	return vm.options.checkQuota("staged drives", vm.options.DriveQuota, func() int64 {
		vms := filepath.Join(vm.options.DataDir, vmsDir)
		entries, err := os.ReadDir(vms)
		if err != nil {
			return 0
		}
		var used int64
		for _, entry := range entries {
			for _, work := range []string{workDir, jailDir} {
				used += diskUsage(filepath.Join(vms, entry.Name(), work))
			}
		}
		return used
	}, need)
}
