//go:build linux

package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"smartvm"
	"smartvm/guest"
	"smartvm/internal/bytesize"
)

// vmConfig makes the VM's configuration: the file's, with the flags on top. The image is not in it yet.
func (f *vmFlags) vmConfig() (*smartvm.Config, error) {
	config := &smartvm.Config{}
	if f.config != "" {
		var err error
		if config, err = smartvm.LoadConfig(f.config); err != nil {
			return nil, err
		}
	}
	overrule(&config.BootSource.KernelImagePath, f.kernel)
	overrule(&config.BootSource.InitrdPath, f.initrd)
	overrule(&config.MachineConfig.VCPUCount, f.cpus)
	if f.memory != "" {
		size, err := wholeMiB(f.memory)
		if err != nil {
			return nil, fmt.Errorf("--memory: %w", err)
		}
		config.MachineConfig.MemSizeMiB = size
	}
	if f.init != "" {
		if config.Guest == nil {
			config.Guest = &smartvm.Guest{}
		}
		config.Guest.Init = f.init
	}
	if err := f.addDrives(config); err != nil {
		return nil, err
	}
	for _, limit := range f.limits {
		if config.Limits == nil {
			config.Limits = &smartvm.Limits{}
		}
		if err := setLimit(config.Limits, limit); err != nil {
			return nil, fmt.Errorf("--limit %s: %w", limit, err)
		}
	}
	overrule(&config.NetNS, f.netns)
	return config, nil
}

// wholeMiB reads a size that is given to the VMM in MiB; a bare number is one.
func wholeMiB(text string) (int, error) {
	size, err := bytesize.Parse(text, bytesize.MiB)
	if err != nil {
		return 0, err
	}
	if size%bytesize.MiB != 0 || size == 0 {
		return 0, fmt.Errorf("%q is no whole number of MiB, or none at all", text)
	}
	return int(size / bytesize.MiB), nil
}

// overrule sets a value that a flag gives.
func overrule[T comparable](value *T, flag T) {
	var none T
	if flag != none {
		*value = flag
	}
}

// addDrives adds the drives of the flags. A root drive takes the place of the configuration's.
func (f *vmFlags) addDrives(config *smartvm.Config) error {
	if f.rootfs != "" {
		root, err := parseDrive(f.rootfs, "rootfs")
		if err != nil {
			return fmt.Errorf("--rootfs: %w", err)
		}
		root.IsRootDevice = true
		drives := []smartvm.Drive{root}
		for _, drive := range config.Drives {
			if !drive.IsRootDevice {
				drives = append(drives, drive)
			}
		}
		config.Drives = drives
	}
	for i, text := range f.drives {
		drive, err := parseDrive(text, fmt.Sprintf("drive%d", i+1))
		if err != nil {
			return fmt.Errorf("--drive: %w", err)
		}
		config.Drives = append(config.Drives, drive)
	}
	if f.disk != "" {
		size, err := wholeMiB(f.disk)
		if err != nil {
			return fmt.Errorf("--disk: %w", err)
		}
		config.Drives = append(config.Drives, smartvm.Drive{DriveID: "disk", BlankMiB: size})
	}
	return nil
}

// parseDrive reads PATH[:OPTION…]. Options are looked for from the end, so that a path may have colons in it; one that
// ends in `:ro` itself is given in a configuration file.
func parseDrive(text, id string) (smartvm.Drive, error) {
	drive := smartvm.Drive{DriveID: id, PathOnHost: text}
	inPlace := false
	for {
		colon := strings.LastIndexByte(drive.PathOnHost, ':')
		if colon < 0 {
			break
		}
		option := drive.PathOnHost[colon+1:]
		name, isID := strings.CutPrefix(option, "id=")
		switch {
		case option == "ro":
			drive.IsReadOnly = true
		case option == "in-place":
			inPlace = true
		case isID:
			drive.DriveID = name
		default:
			if !strings.ContainsAny(option, "/.") {
				return drive, fmt.Errorf("%q: there is no option %q; the options are ro, in-place and id=NAME", text, option)
			}
			option = ""
		}
		if option == "" {
			break
		}
		drive.PathOnHost = drive.PathOnHost[:colon]
	}
	switch {
	case drive.PathOnHost == "":
		return drive, fmt.Errorf("%q has no path", text)
	case inPlace && drive.IsReadOnly:
		return drive, fmt.Errorf("%q is ro and in-place: only one of both makes sense", text)
	case inPlace:
		ephemeral := false
		drive.Ephemeral = &ephemeral
	}
	return drive, nil
}

// needsImage tells whether the image has something to give: it was named, there is no kernel, or the command needs our
// init and the configuration has no initrd.
func (f *vmFlags) needsImage(config *smartvm.Config) bool {
	boot := config.BootSource
	return f.image != "" || boot.KernelImagePath == "" || boot.InitrdPath == "" && (len(f.command) > 0 || config.Guest != nil)
}

// imageText is what ps says that the VM was made of.
func (f *vmFlags) imageText(config *smartvm.Config, withImage bool) string {
	for i := range config.Drives {
		if config.Drives[i].IsRootDevice && config.Drives[i].PathOnHost != "" {
			return filepath.Base(config.Drives[i].PathOnHost)
		}
	}
	if withImage {
		return smartvm.DefaultImage
	}
	return filepath.Base(config.BootSource.KernelImagePath)
}

// nameGuest gives the guest the VM's name for its own, where that is a host name.
func (f *vmFlags) nameGuest(config *smartvm.Config) {
	if f.name == "" || config.Guest == nil || config.Guest.Hostname != "" {
		return
	}
	if _, err := guest.BootArgs(guest.Boot{Hostname: f.name}); err == nil {
		config.Guest.Hostname = f.name
	}
}
