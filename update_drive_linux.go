package smartvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"smartvm/drive"
	"smartvm/firecracker"
)

// UpdateDrive puts another file behind a drive. The guest keeps the drive's name and learns of a new size; it must not
// have the drive mounted. The file is used as it is, never staged. What was staged for the drive before stays the VM's.
// Running or Paused.
func (vm *VM) UpdateDrive(ctx context.Context, driveID, pathOnHost string) error {
	const op = "update drive"
	return vm.change(ctx, op, liveStates(), func(h *held, in *instance) error {
		if err := drive.CheckSource(pathOnHost, false); err != nil {
			return vm.fail(op, DriveStageFailed, err)
		}
		path, err := filepath.Abs(pathOnHost)
		if err != nil {
			return err
		}
		s := swap{held: h, in: in, id: driveID, path: path, seen: path}
		for i := range h.rec.Home.Seen.Drives {
			if d := &h.rec.Home.Seen.Drives[i]; d.DriveID == driveID {
				s.old, s.write = d.PathOnHost, !d.IsReadOnly
			}
		}
		for i := range h.rec.Home.OnHost.Drives {
			if d := &h.rec.Home.OnHost.Drives[i]; d.DriveID == driveID {
				s.oldPath = d.PathOnHost
			}
		}
		if s.write {
			if err := h.rec.Config.Limits.fitsFile(path); err != nil {
				return vm.fail(op, DriveStageFailed, err)
			}
		}
		if h.rec.Jail != nil {
			s.seen = filepath.Join(drivesDir, driveID+"-"+newID()[:8])
			h.folder.noteMount = h.intendMount
		}
		return s.run(ctx)
	})
}

// swap is the exchange of the file behind a drive. In a jail the new one gets a name there, and the old one's is taken away
// afterwards: the VMM has the file open. Names that may have to be taken away are on record before they are made.
type swap struct {
	*held
	in            *instance
	id            string
	path, oldPath string // on the host
	seen, old     string // as the VMM has it; old is "" for a drive that the VMM does not know, which it says
	write         bool
}

func (s *swap) run(ctx context.Context) error {
	hook := s.vm.options.hook
	if err := hook.take(stepSwapNote, s.intend); err != nil {
		return s.vm.fail("update drive", InvalidState, err)
	}
	if err := hook.take(stepSwapLend, s.lend); err != nil {
		return s.vm.fail("update drive", DriveStageFailed, errors.Join(err, s.dropUnused()))
	}
	err := hook.take(stepSwapVMM, func() error {
		return s.in.client.PatchDrive(ctx, firecracker.DriveUpdate{DriveID: s.id, PathOnHost: s.seen})
	})
	if err != nil {
		return errors.Join(err, s.dropUnused())
	}
	if err := hook.take(stepSwapRecord, s.record); err != nil {
		return s.vm.fail("update drive", InvalidState, errors.Join(fmt.Errorf("what the drive has now could not be noted: %w", err), s.back(ctx)))
	}
	s.vm.take(s.rec)
	if err := hook.take(stepSwapDrop, s.dropUnused); err != nil {
		return s.vm.fail("update drive", InvalidState, fmt.Errorf("the drive has the new file, and the old one stays in the jail until the VM ends: %w", err))
	}
	return nil
}

// intend puts on record which name is about to be made.
func (s *swap) intend() error {
	if s.rec.Jail == nil {
		return nil
	}
	s.rec.Home.Unused = append(s.rec.Home.Unused, s.seen)
	return s.save()
}

// lend gives the file its name in a jail, and holds the VM to its limits on the disk that the file lies on.
func (s *swap) lend() error {
	if s.rec.Jail != nil {
		if err := s.folder.lend(s.path, s.seen, s.write); err != nil {
			return err
		}
	}
	return s.boundDiskOf(s.folder.onHost(s.seen))
}

// record puts on record what the drive has now, and that the old name is of no use any more.
func (s *swap) record() error {
	home, jail := s.rec.Home, s.rec.Jail
	before := slices.Clone(home.Unused)
	var mounts []jailMount
	if jail != nil {
		mounts = slices.Clone(jail.Mounts)
		home.Unused = slices.DeleteFunc(home.Unused, func(name string) bool { return name == s.seen })
		if s.old != "" && !home.staged(s.folder.seen(s.old)) {
			home.Unused = append(home.Unused, s.old)
			jail.Mounts = slices.DeleteFunc(jail.Mounts, func(m jailMount) bool { return m.Name == s.old }) // not at the next start
		}
	}
	s.name(s.seen, s.path)
	err := s.save()
	if err != nil {
		home.Unused = before
		if jail != nil {
			jail.Mounts = mounts
		}
		s.name(s.old, s.oldPath)
	}
	return err
}

// name writes the drive's names into the record.
func (s *swap) name(seen, onHost string) {
	for config, path := range map[*Config]string{&s.rec.Home.Seen: seen, &s.rec.Home.OnHost: onHost} {
		for i := range config.Drives {
			if config.Drives[i].DriveID == s.id {
				config.Drives[i].PathOnHost = path
			}
		}
	}
}

// back has the VMM take the old file again.
func (s *swap) back(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteLimit)
	defer cancel()
	err := s.in.client.PatchDrive(ctx, firecracker.DriveUpdate{DriveID: s.id, PathOnHost: s.old})
	if err != nil {
		return fmt.Errorf("the VMM keeps the new file until the VM ends: %w", err) // settle takes its name away
	}
	return s.dropUnused()
}

// staged tells whether a file was staged for the VM: it is the VM's, as long as the VM is.
func (r *homeRecord) staged(path string) bool {
	return slices.ContainsFunc(r.Drives, func(d StagedDrive) bool { return d.Path == path })
}

// dropUnused takes the names away from the jail that are of no use any more, and what is mounted there.
func (h *held) dropUnused() error {
	if h.rec.Jail == nil || h.rec.Home == nil {
		return nil
	}
	var errs []error
	for _, name := range h.rec.Home.Unused {
		if !filepath.IsLocal(name) || filepath.Dir(name) != drivesDir { // it is a record's word
			continue
		}
		path := h.folder.seen(name)
		err := unmount(path)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		h.rec.Jail.Mounts = slices.DeleteFunc(h.rec.Jail.Mounts, func(m jailMount) bool { return m.Name == name })
	}
	return errors.Join(errs...)
}
