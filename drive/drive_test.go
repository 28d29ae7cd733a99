package drive

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestStagedName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ id, source, want string }{
		{"rootfs", "/images/debian.ext4", "rootfs-debian.ext4"},
		{"rootfs", "debian.ext4", "rootfs-debian.ext4"},
		{"data", "/images/with space & ü.img", "data-with_space____.img"},
		{"data", "", "data-drive.img"},
		{"data", "/", "data-drive.img"},
		{"data", "/images/", "data-drive.img"},
		{"data", ".", "data-drive.img"},
		{"data", "/images/..", "data-drive.img"},
		{"../../x", "/etc/passwd", ".._.._x-passwd"},
		{"", "a", "item-a"},
		{"data", "new\nline", "data-new_line"},
	} {
		if got := StagedName(c.id, c.source); got != c.want {
			t.Errorf("StagedName(%q, %q) = %q, want %q", c.id, c.source, got, c.want)
		}
	}
}

func TestAStagedNameIsAlwaysOneFileInTheFolder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := StagedName(rapid.String().Draw(t, "id"), rapid.String().Draw(t, "source"))
		if len(name) > maxStagedName || strings.Trim(name, ".") == "" || strings.ContainsAny(name, "/\x00\n") {
			t.Fatalf("%q", name)
		}
	})
}

func TestTwoDrivesNeverShareAStagedName(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[A-Za-z0-9_]{1,300}`)
		source := rapid.StringMatching(`[a-z./-]{0,300}`)
		a, b := id.Draw(t, "a"), id.Draw(t, "b")
		nameA, nameB := StagedName(a, source.Draw(t, "source of a")), StagedName(b, source.Draw(t, "source of b"))
		if a != b && nameA == nameB {
			t.Fatalf("%q and %q are both %q", a, b, nameA)
		}
	})
}
