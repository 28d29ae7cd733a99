package smartvm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"smartvm/drive"
	"smartvm/guest"
)

// overlayDriveID is the id of the drive that we add for the writable layer over a root drive.
const overlayDriveID = "smartvm_overlay"

// home is what a VM keeps from its first start to its clean-up: what lies staged in its folder. It is what a stopped VM
// starts again with.
type home struct {
	folder folder

	seen   Config // as the VMM sees it: paths relative to the folder
	onHost Config // the same, with paths of the host
	drives []StagedDrive

	restored string // the snapshot that it was made of: there is no kernel in it to boot again
}

// Blank is the method of a drive that was made empty; the others are package drive's.
const Blank drive.Method = "blank"

// StagedDrive tells how a drive was prepared.
type StagedDrive struct {
	DriveID string       `json:"driveId"`
	Method  drive.Method `json:"method"`
	Source  string       `json:"source,omitempty"`
	Path    string       `json:"path"`    // what the guest writes to
	Written int64        `json:"written"` // bytes that were written for it
}

// loadHome returns the home that the record tells of.
func loadHome(f folder, r *homeRecord) *home {
	return &home{folder: f, seen: *r.Seen.clone(), onHost: *r.OnHost.clone(), drives: r.Drives, restored: r.Restored}
}

func (h *home) record() *homeRecord {
	return &homeRecord{Seen: h.seen, OnHost: h.onHost, Drives: h.drives, Restored: h.restored}
}

// stageFunc is drive.Stage, or what tells beforehand how that will come out.
type stageFunc func(context.Context, drive.Request) (drive.Staged, error)

// furnish gives everything that the VMM needs a name in the VM's folder.
func (vm *VM) furnish(ctx context.Context, op string, h *home, stage stageFunc) error {
	if len(h.seen.Drives)+len(h.seen.Pmem) > 0 {
		if err := h.folder.mkdir(drivesDir); err != nil {
			return vm.fail(op, DriveStageFailed, err)
		}
	}
	if err := h.linkBootFiles(); err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	if err := h.stageDrives(ctx, vm.options, stage); err != nil {
		return vm.fail(op, DriveStageFailed, err)
	}
	if err := h.placeSockets(); err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	if err := h.folder.giveToVM(); err != nil {
		return vm.fail(op, DriveStageFailed, err)
	}
	guestArgs, err := h.guestArgs(vm.key)
	if err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	for _, config := range []*Config{&h.seen, &h.onHost} {
		config.BootSource.BootArgs = bootArgs(config.BootSource.BootArgs, vm.options.Arch, guestArgs)
	}
	return nil
}

func (h *home) linkBootFiles() error {
	boot := &h.seen.BootSource
	if err := h.folder.link(boot.KernelImagePath, kernelName); err != nil {
		return err
	}
	boot.KernelImagePath = kernelName
	if boot.InitrdPath != "" {
		if err := h.folder.link(boot.InitrdPath, initrdName); err != nil {
			return err
		}
		boot.InitrdPath = initrdName
	}
	for i := range h.seen.Pmem {
		pmem := &h.seen.Pmem[i]
		name := filepath.Join(drivesDir, "pmem-"+drive.StagedName(pmem.ID, pmem.PathOnHost))
		if err := h.folder.lend(pmem.PathOnHost, name, !pmem.ReadOnly); err != nil {
			return err
		}
		pmem.PathOnHost = name
	}
	return nil
}

// stageDrives gives each drive a name inside the folder: a copy of its own where it is ephemeral, a link otherwise.
func (h *home) stageDrives(ctx context.Context, o Options, stage stageFunc) error {
	dir := drivesDir
	if h.seen.EphemeralStorage == "memory" {
		dir = filepath.Join(runLink, drivesDir)
		if err := h.folder.mkdir(dir); err != nil {
			return err
		}
	}
	for i := range h.seen.Drives {
		if err := h.stageDrive(ctx, o, i, dir, stage); err != nil {
			return fmt.Errorf("drive %s: %w", h.seen.Drives[i].DriveID, err)
		}
	}
	return h.addOverlay(ctx, dir)
}

func (h *home) stageDrive(ctx context.Context, o Options, i int, dir string, stage stageFunc) error {
	seen, onHost := &h.seen.Drives[i], &h.onHost.Drives[i]
	if seen.Socket != "" {
		name := filepath.Join(drivesDir, seen.DriveID+".sock")
		if err := h.folder.link(seen.Socket, name); err != nil {
			return err
		}
		seen.Socket = name
		return nil
	}
	source := seen.PathOnHost
	name := drive.StagedName(seen.DriveID, source)
	if seen.BlankMiB != 0 {
		size := int64(seen.BlankMiB) << 20
		seen.PathOnHost, seen.BlankMiB = filepath.Join(dir, name), 0
		onHost.PathOnHost, onHost.BlankMiB = h.folder.seen(seen.PathOnHost), 0
		h.drives = append(h.drives, StagedDrive{DriveID: seen.DriveID, Method: Blank, Path: onHost.PathOnHost})
		return h.blank(ctx, seen.PathOnHost, size)
	}
	if !seen.isEphemeral(!o.WritableDrivesInPlace) {
		seen.PathOnHost = filepath.Join(drivesDir, name)
		return h.folder.lend(source, seen.PathOnHost, !seen.IsReadOnly)
	}
	staged, err := stage(ctx, drive.Request{
		Source: source, Dir: h.folder.seen(dir), Name: name,
		AllowOverlay: seen.IsRootDevice && h.seen.Guest != nil,
	})
	if err != nil {
		return err
	}
	record := StagedDrive{DriveID: seen.DriveID, Method: staged.Method, Source: source, Path: staged.Path, Written: staged.Written}
	if staged.Method == drive.Overlay {
		// The source stays where it is and is only read; what the guest writes goes to the drive behind it.
		seen.IsReadOnly, onHost.IsReadOnly = true, true
		seen.PathOnHost = filepath.Join(drivesDir, name)
		if err := h.folder.link(source, seen.PathOnHost); err != nil {
			return err
		}
		record.Path = staged.Upper
		h.appendOverlay(staged.Upper, filepath.Join(dir, filepath.Base(staged.Upper)))
	} else {
		seen.PathOnHost, onHost.PathOnHost = filepath.Join(dir, name), staged.Path
	}
	h.drives = append(h.drives, record)
	return nil
}

// addOverlay gives a read-only root drive a writable layer, as our init needs one.
func (h *home) addOverlay(ctx context.Context, dir string) error {
	root := rootDrive(&h.seen)
	if h.seen.Guest == nil || h.seen.Guest.OverlayInMemory || root == nil || !root.IsReadOnly || h.hasOverlay() {
		return nil
	}
	name := filepath.Join(dir, overlayDriveID+".img")
	if err := h.blank(ctx, name, drive.DefaultOverlaySize); err != nil {
		return fmt.Errorf("writable layer over %s: %w", root.DriveID, err)
	}
	h.drives = append(h.drives, StagedDrive{DriveID: root.DriveID, Method: drive.Overlay, Source: root.PathOnHost, Path: h.folder.seen(name)})
	h.appendOverlay(h.folder.seen(name), name)
	return nil
}

// blank makes an empty drive in the folder.
func (h *home) blank(ctx context.Context, name string, size int64) error {
	if h.folder.dry {
		return nil
	}
	return drive.CreateSparse(ctx, h.folder.seen(name), size)
}

func (h *home) appendOverlay(hostPath, seenPath string) {
	h.seen.Drives = append(h.seen.Drives, Drive{DriveID: overlayDriveID, PathOnHost: seenPath})
	h.onHost.Drives = append(h.onHost.Drives, Drive{DriveID: overlayDriveID, PathOnHost: hostPath})
}

func (h *home) hasOverlay() bool {
	return len(h.seen.Drives) > 0 && h.seen.Drives[len(h.seen.Drives)-1].DriveID == overlayDriveID
}

// placeSockets makes what the VMM writes to reachable from its working folder.
func (h *home) placeSockets() error {
	if h.seen.Guest != nil && h.seen.Vsock == nil {
		h.seen.Vsock, h.onHost.Vsock = &Vsock{GuestCID: defaultGuestCID}, &Vsock{GuestCID: defaultGuestCID}
	}
	if v := h.seen.Vsock; v != nil && v.UDSPath == "" {
		v.UDSPath, h.onHost.Vsock.UDSPath = vsockSocket, h.folder.seen(vsockSocket)
	} else if v != nil {
		if err := absolute(&v.UDSPath); err != nil {
			return err
		}
		h.onHost.Vsock.UDSPath = v.UDSPath
	}
	type out struct {
		path *string
		name string
	}
	var outs []out
	if h.seen.Logger != nil {
		outs = append(outs, out{&h.seen.Logger.LogPath, "log"})
	}
	if h.seen.Metrics != nil {
		outs = append(outs, out{&h.seen.Metrics.MetricsPath, "metrics"})
	}
	if h.seen.Serial != nil {
		outs = append(outs, out{&h.seen.Serial.SerialOutPath, "serial"})
	}
	for _, o := range outs {
		if err := absolute(o.path); err != nil {
			return err
		}
		if h.folder.dry {
			continue
		}
		if err := h.folder.outFile(o.path, filepath.Join("out", o.name)); err != nil {
			return err
		}
	}
	return nil
}

// guestArgs returns what our init is told on the kernel command line.
func (h *home) guestArgs(key string) ([]string, error) {
	g := h.seen.Guest
	if g == nil {
		return nil, nil
	}
	boot := guest.Boot{Hostname: g.Hostname, FSType: g.RootFSType, Image: g.Init == "image"}
	if boot.Hostname == "" {
		boot.Hostname = key
	}
	if h.hasOverlay() {
		boot.Overlay = guest.OverlayDrive(len(h.seen.Drives) - 1) // the last one; the root drive comes first
	} else if root := rootDrive(&h.seen); root != nil && root.IsReadOnly && g.OverlayInMemory {
		boot.Overlay = guest.OverlayMemory()
	}
	return guest.BootArgs(boot)
}

// rootDrive returns the drive that the guest boots from, or nil.
func rootDrive(c *Config) *Drive {
	for i := range c.Drives {
		if c.Drives[i].IsRootDevice {
			return &c.Drives[i]
		}
	}
	return nil
}

func absolute(path *string) error {
	if *path == "" {
		return nil
	}
	abs, err := filepath.Abs(*path)
	if err != nil {
		return err
	}
	*path = abs
	return nil
}

// missing tells which of the staged drives is not there any more.
func (h *home) missing() error {
	for i := range h.onHost.Drives {
		d := &h.onHost.Drives[i]
		if d.Socket != "" {
			continue
		}
		if _, err := os.Stat(h.folder.seen(h.seen.Drives[i].PathOnHost)); err != nil && !filepath.IsAbs(h.seen.Drives[i].PathOnHost) {
			return fmt.Errorf("drive %s is not where it was left: %w; clean the VM up to start it with new drives", d.DriveID, err)
		}
	}
	return nil
}
