package guest

import (
	"fmt"

	"smartvm/internal/lazyregexp"
)

// Overlay says what lies on top of a root drive, so that it need not be written to.
type Overlay struct {
	kind  string
	index int
}

// OverlayNone writes to the root drive itself.
func OverlayNone() Overlay { return Overlay{} }

// OverlayMemory keeps changes in the guest's memory; they are gone when it stops.
func OverlayMemory() Overlay { return Overlay{kind: "memory"} }

// OverlayDrive keeps changes on another drive, which must hold an ext4 file system. The index is the drive's place among
// all drives of the VM in the order in which the guest sees them: the root drive is 0, the others follow in the order in
// which they were configured.
func OverlayDrive(index int) Overlay { return Overlay{kind: "drive", index: index} }

// Boot is what our init shall do at boot. The zero value lets it run from its initramfs, or from the root drive as it is.
//
// The root drive itself is not here: Firecracker, and the emulator, append `root=/dev/vda` (or `root=PARTUUID=…`) and
// `ro` or `rw` for it themselves. Addresses come as `ip=` arguments from the network.
type Boot struct {
	Overlay  Overlay
	FSType   string // the root drive's file system; "" lets init try those that the kernel has
	Hostname string // "" keeps the kernel's, or the image's /etc/hostname
	Image    bool   // hand over to the image's own /sbin/init, with the agent as a service
}

var (
	hostnamePattern = lazyregexp.New(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$`)
	fstypePattern   = lazyregexp.New(`^[a-z0-9][a-z0-9_.-]{0,31}$`)
)

// The most drives that have a letter, vda to vdz.
const maxDrives = 26

// BootArgs returns our init's kernel arguments, in a fixed order. They go before those that others append. What a
// command gets (arguments, environment, user) never travels here: every user of the guest can read its command line.
func BootArgs(b Boot) ([]string, error) {
	var args []string
	switch b.Overlay.kind {
	case "memory":
		args = append(args, "smartvm.overlay=memory")
	case "drive":
		if b.Overlay.index < 1 || b.Overlay.index >= maxDrives {
			return nil, fmt.Errorf("guest: overlay on drive %d: it must be 1 to %d, 0 is the root drive", b.Overlay.index, maxDrives-1)
		}
		args = append(args, fmt.Sprintf("smartvm.overlay=vd%c", 'a'+b.Overlay.index))
	}
	if b.FSType != "" {
		if !fstypePattern.MatchString(b.FSType) {
			return nil, fmt.Errorf("guest: %q is no file system's name", b.FSType)
		}
		args = append(args, "rootfstype="+b.FSType)
	}
	if b.Hostname != "" {
		if !hostnamePattern.MatchString(b.Hostname) {
			return nil, fmt.Errorf("guest: %q is no host name: 1 to 64 letters, digits, dots and dashes", b.Hostname)
		}
		args = append(args, "smartvm.hostname="+b.Hostname)
	}
	if b.Image {
		args = append(args, "smartvm.init=image")
	}
	return args, nil
}
