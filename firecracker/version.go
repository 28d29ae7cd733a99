package firecracker

import (
	"cmp"
	"fmt"
	"strconv"

	"smartvm/internal/lazyregexp"
)

// Version is a Firecracker release: 1.16.1, or 1.17.0-dev for a build between releases.
type Version struct {
	Major, Minor, Patch int
	Pre                 string // what follows the "-"; "" for a release
}

var versionForm = lazyregexp.New(`^v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:-([0-9A-Za-z.-]{1,64}))?$`)

// ParseVersion reads "1.16.1", "v1.16.1" or "1.17.0-dev".
func ParseVersion(s string) (Version, error) {
	m := versionForm.FindStringSubmatch(s)
	if m == nil {
		return Version{}, fmt.Errorf("%.80q is not a version (want vMAJOR.MINOR.PATCH)", s)
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // at most six digits
	}
	return Version{Major: n[0], Minor: n[1], Patch: n[2], Pre: m[4]}, nil
}

// String gives the version without a leading "v".
func (v Version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	if v.Pre != "" {
		s += "-" + v.Pre
	}
	return s
}

// Compare orders versions; one between releases comes before the release that it leads to.
func (v Version) Compare(other Version) int {
	return cmp.Or(
		cmp.Compare(v.Major, other.Major),
		cmp.Compare(v.Minor, other.Minor),
		cmp.Compare(v.Patch, other.Patch),
		comparePre(v.Pre, other.Pre),
	)
}

// IsZero tells that the version is not known.
func (v Version) IsZero() bool { return v == Version{} }

func comparePre(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == "":
		return 1
	case b == "":
		return -1
	}
	return cmp.Compare(a, b)
}

// Oldest is the oldest version that is driven: requests are checked for all that came after it, and for nothing that
// came before.
func Oldest() Version { return Version{Major: 1, Minor: 12} }

// vulnerability is a hole and the versions that have it, both ends included.
type vulnerability struct {
	cve      string
	affected [][2]Version
	fixedIn  []Version
}

// vulnerabilities lists the holes of supported versions. A plain minimum would not do: fixes went to several series.
func vulnerabilities() []vulnerability {
	return []vulnerability{{
		// Out-of-bounds write in the virtio-PCI transport, CVSS 8.7.
		cve: "CVE-2026-5747",
		affected: [][2]Version{
			{{1, 13, 0, ""}, {1, 14, 3, ""}},
			{{1, 15, 0, ""}, {1, 15, 0, ""}},
		},
		fixedIn: []Version{{1, 14, 4, ""}, {1, 15, 1, ""}},
	}}
}

// CheckVersion refuses a version with a known hole (*[UnsafeVersionError]) and one older than [Oldest]
// (*[UnsupportedVersionError]), unless allow names that very version. A build between releases counts as the release
// that it leads to.
func CheckVersion(v Version, allow []string) error {
	for _, name := range allow {
		if allowed, err := ParseVersion(name); err == nil && allowed == v {
			return nil
		}
	}
	release := v
	release.Pre = ""
	if release.Compare(Oldest()) < 0 {
		return &UnsupportedVersionError{Version: v, Oldest: Oldest()}
	}
	for _, hole := range vulnerabilities() {
		for _, r := range hole.affected {
			if release.Compare(r[0]) >= 0 && release.Compare(r[1]) <= 0 {
				return &UnsafeVersionError{Version: v, CVE: hole.cve, FixedIn: hole.fixedIn}
			}
		}
	}
	return nil
}
