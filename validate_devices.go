package smartvm

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ownDrivePrefix begins the ids of the drives that a VM gets beside those of its configuration.
const ownDrivePrefix = "smartvm_"

func (v *validation) drives(drives []Drive) {
	ids, root := seen{}, ""
	for i := range drives {
		d, key := &drives[i], fmt.Sprintf("drives[%d]", i)
		v.deviceID(key+".driveId", d.DriveID, ids)
		if strings.HasPrefix(d.DriveID, ownDrivePrefix) {
			v.add(key+".driveId", "must not begin with %s, is %q: those are our own", ownDrivePrefix, d.DriveID)
		}
		if d.IsRootDevice {
			if root != "" {
				v.add(key+".isRootDevice", "is true, but %s is the root drive already: there can be one", root)
			} else {
				root = key
			}
		}
		if d.PartUUID != "" && !partUUID.MatchString(d.PartUUID) {
			v.add(key+".partUuid", "must be hex digits and `-`, is %q", d.PartUUID)
		}
		v.oneOf(key+".cacheType", d.CacheType, "Unsafe", "Writeback")
		if d.Socket != "" {
			v.vhostUser(key, d)
			continue
		}
		if d.BlankMiB != 0 {
			v.blank(key, d)
		} else {
			v.path(key+".pathOnHost", d.PathOnHost)
		}
		v.oneOf(key+".ioEngine", d.IOEngine, "Sync", "Async")
		v.rateLimiter(key+".rateLimiter", d.RateLimiter)
	}
}

// The sizes of an empty drive in MiB: what ext4 needs at least, and the most that package drive formats (below 16 TiB).
const minBlankMiB, maxBlankMiB = 4, 16<<20 - 1

// blank checks a drive that is made empty.
func (v *validation) blank(key string, d *Drive) {
	if d.BlankMiB < minBlankMiB || d.BlankMiB > maxBlankMiB {
		v.add(key+".blankMib", "must be %d to %d, is %d", minBlankMiB, maxBlankMiB, d.BlankMiB)
	}
	v.excludes(key, "blankMib", []option{
		{"pathOnHost", d.PathOnHost != ""},
		{"isReadOnly", d.IsReadOnly},
		{"ephemeral", d.Ephemeral != nil},
	})
}

// option is a key that is set or not.
type option struct {
	key string
	set bool
}

// excludes reports the options that are set although they do not go with the key named by.
func (v *validation) excludes(key, by string, others []option) {
	for _, other := range others {
		if other.set {
			v.add(key+"."+other.key, "and %s exclude each other", by)
		}
	}
}

// vhostUser checks a drive whose back end is another process, which then decides all that these keys would say.
func (v *validation) vhostUser(key string, d *Drive) {
	v.socketPath(key+".socket", d.Socket)
	v.excludes(key, "socket", []option{
		{"pathOnHost", d.PathOnHost != ""},
		{"blankMib", d.BlankMiB != 0},
		{"isReadOnly", d.IsReadOnly},
		{"rateLimiter", d.RateLimiter != nil},
		{"ioEngine", d.IOEngine != ""},
		{"ephemeral", d.Ephemeral != nil && *d.Ephemeral},
	})
}

func (v *validation) pmem(devices []Pmem, drives []Drive) {
	ids := seen{}
	rootDrive := slices.IndexFunc(drives, func(d Drive) bool { return d.IsRootDevice })
	root := ""
	if rootDrive >= 0 {
		root = fmt.Sprintf("drives[%d]", rootDrive)
	}
	for i := range devices {
		p, key := &devices[i], fmt.Sprintf("pmem[%d]", i)
		v.deviceID(key+".id", p.ID, ids)
		v.path(key+".pathOnHost", p.PathOnHost)
		v.rateLimiter(key+".rateLimiter", p.RateLimiter)
		if p.RootDevice {
			if root != "" {
				v.add(key+".rootDevice", "is true, but %s is the root device already: there can be one", root)
			} else {
				root = key
			}
		}
	}
}

func (v *validation) interfaces(interfaces []NetworkInterface) {
	ids, taps, macs := seen{}, seen{}, seen{}
	for i := range interfaces {
		n, key := &interfaces[i], fmt.Sprintf("networkInterfaces[%d]", i)
		v.deviceID(key+".ifaceId", n.IfaceID, ids)

		name := key + ".hostDevName"
		switch {
		case n.HostDevName == "":
			v.add(name, "is missing: name an existing TAP of the host")
		case !validInterfaceName(n.HostDevName):
			v.add(name, "must be the name of a TAP: at most %d bytes without white space and `/`, is %q", maxIfaceName, n.HostDevName)
		default:
			v.unique(name, n.HostDevName, taps)
		}

		if n.GuestMAC != "" {
			mac, fault := parseMAC(n.GuestMAC)
			if fault != "" {
				v.add(key+".guestMac", "%s, is %q", fault, n.GuestMAC)
			} else {
				v.unique(key+".guestMac", mac.String(), macs)
			}
		}
		if n.MTU != 0 && (n.MTU < minMTU || n.MTU > maxMTU) {
			v.add(key+".mtu", "must be %d to %d, is %d", minMTU, maxMTU, n.MTU)
		}
		v.rateLimiter(key+".rxRateLimiter", n.RxRateLimiter)
		v.rateLimiter(key+".txRateLimiter", n.TxRateLimiter)
	}
}

// validInterfaceName follows dev_valid_name of the kernel's net/core/dev.c.
func validInterfaceName(name string) bool {
	return len(name) <= maxIfaceName && name != "." && name != ".." && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool {
			return r == '/' || r == ':' || unicode.IsSpace(r) || unicode.IsControl(r)
		})
}

// parseMAC takes the one form that Firecracker takes; net.ParseMAC knows several more.
func parseMAC(s string) (net.HardwareAddr, string) {
	mac, err := net.ParseMAC(s)
	switch {
	case err != nil || len(mac) != 6 || len(s) != 17 || strings.Contains(s, "-"):
		return nil, "must be six bytes in hex with `:` between"
	case mac[0]&1 != 0:
		return nil, "must be unicast: the lowest bit of the first byte says multicast"
	case !slices.ContainsFunc(mac, func(b byte) bool { return b != 0 }):
		return nil, "must not be all zero"
	}
	return mac, ""
}

func (v *validation) vsock(s *Vsock) {
	if s == nil {
		return
	}
	if s.GuestCID < 3 {
		v.add("vsock.guestCid", "must be >= 3, is %d: 0 to 2 have fixed meanings", s.GuestCID)
	}
	if s.GuestCID == cidAny {
		v.add("vsock.guestCid", "must be below %d, which means any", uint32(cidAny))
	}
	if s.UDSPath != "" {
		v.socketPath("vsock.udsPath", s.UDSPath)
	}
}

func (v *validation) balloon(b *Balloon, memory int) {
	if b == nil {
		return
	}
	if memory == 0 {
		memory = DefaultMemSizeMiB
	}
	switch {
	case b.AmountMiB < 0:
		v.add("balloon.amountMib", "must be >= 0, is %d", b.AmountMiB)
	case b.AmountMiB > memory:
		v.add("balloon.amountMib", "must be at most the VM's memory of %d, is %d", memory, b.AmountMiB)
	}
	if b.StatsPollingIntervalS < 0 || b.StatsPollingIntervalS > maxStatsInterval {
		v.add("balloon.statsPollingIntervalS", "must be 0 to %d, is %d", maxStatsInterval, b.StatsPollingIntervalS)
	}
}

func (v *validation) mmds(m *MMDS, interfaces []NetworkInterface) {
	if m == nil {
		return
	}
	v.oneOf("mmds.version", m.Version, "V1", "V2")
	if len(m.NetworkInterfaces) == 0 {
		v.add("mmds.networkInterfaces", "is missing: name at least one interface")
	}
	named := seen{}
	for i, id := range m.NetworkInterfaces {
		key := fmt.Sprintf("mmds.networkInterfaces[%d]", i)
		if !slices.ContainsFunc(interfaces, func(n NetworkInterface) bool { return n.IfaceID == id }) {
			v.add(key, "names an interface that does not exist: %q", id)
		} else {
			v.unique(key, id, named)
		}
	}
	if m.IPv4Address != "" {
		// RFC 3927 reserves the first and the last 256 addresses.
		a, err := netip.ParseAddr(m.IPv4Address)
		if err != nil || !a.Is4() || !a.IsLinkLocalUnicast() || a.As4()[2] == 0 || a.As4()[2] == 255 {
			v.add("mmds.ipv4Address", "must be in 169.254.1.0 to 169.254.254.255, is %q", m.IPv4Address)
		}
	}
}

// outputs checks the devices and files that the guest and the VMM write to, and the guest's randomness.
func (v *validation) outputs(c *Config) {
	if c.Entropy != nil {
		v.rateLimiter("entropy.rateLimiter", c.Entropy.RateLimiter)
	}
	if c.Serial != nil {
		v.optionalPath("serial.serialOutPath", c.Serial.SerialOutPath)
		v.tokenBucket("serial.rateLimiter", c.Serial.RateLimiter)
	}
	if l := c.Logger; l != nil {
		v.optionalPath("logger.logPath", l.LogPath)
		levels := []string{"Off", "Error", "Warning", "Info", "Debug", "Trace"}
		if l.Level != "" && !slices.ContainsFunc(levels, func(s string) bool { return strings.EqualFold(s, l.Level) }) {
			v.oneOf("logger.level", l.Level, levels...)
		}
		if strings.ContainsFunc(l.Module, notPrintableASCII) {
			v.add("logger.module", "must be printable ASCII, is %q", l.Module)
		}
	}
	if c.Metrics != nil {
		v.path("metrics.metricsPath", c.Metrics.MetricsPath)
	}
}

func (v *validation) guest(g *Guest) {
	if g == nil {
		return
	}
	v.oneOf("guest.init", g.Init, "smartvm", "image")
	if g.Hostname != "" && !hostname.MatchString(g.Hostname) {
		v.add("guest.hostname", "must be letters, digits, `-` and `.`, at most 64, is %q", g.Hostname)
	}
	if g.RootFSType != "" && !fsType.MatchString(g.RootFSType) {
		v.add("guest.rootFsType", "must be the name of a filesystem, such as ext4, is %q", g.RootFSType)
	}
}

func (v *validation) deviceCount(c *Config) {
	n := len(c.Drives) + len(c.Pmem) + len(c.NetworkInterfaces)
	for _, there := range []bool{c.Vsock != nil, c.Balloon != nil, c.Entropy != nil, c.MemoryHotplug != nil} {
		if there {
			n++
		}
	}
	if limit, ok := maxVirtioDevices[v.arch]; ok && n > limit {
		v.faults.add("%d virtio devices (drives, pmem, networkInterfaces, vsock, balloon, entropy, memoryHotplug) are too many: %s has room for %d", n, v.arch, limit)
	}
}

func (v *validation) rateLimiter(key string, r *RateLimiter) {
	if r != nil {
		v.tokenBucket(key+".bandwidth", r.Bandwidth)
		v.tokenBucket(key+".ops", r.Ops)
	}
}

func (v *validation) tokenBucket(key string, b *TokenBucket) {
	if b == nil {
		return
	}
	for _, f := range []struct {
		key   string
		value int64
	}{{"size", b.Size}, {"refillTime", b.RefillTime}, {"oneTimeBurst", b.OneTimeBurst}} {
		if f.value < 0 {
			v.add(key+"."+f.key, "must be >= 0, is %d", f.value)
		}
	}
}
