package firecracker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Jail has a VMM run by Firecracker's jailer (docs/jailer.md): as a user of its own, with a folder for its `/`, without
// everything else of the host. It needs root.
//
// The jailer copies the binary into that folder and makes `dev` and what is in it there; all of that must not be there
// before, and nobody takes it away afterwards (see Leftovers).
type Jail struct {
	Jailer   string // the binary; of the same release as the VMM
	UID, GID int    // never 0, and no other VM's
	// Base is the folder below which the jail is, at <Base>/<the VMM binary's own name>/<id>/root: see Root.
	Base  string
	NetNS string // path of a network namespace to join; "" stays in this one
	// Cgroup is a cgroup (v2) that exists, relative to the hierarchy; "" leaves the VMM where its parent is.
	Cgroup string
	// NoFile is the most files that the VMM may have open; 0 is the jailer's own limit (2048).
	NoFile int
	// FileSize is the most bytes that a file which the VMM writes may have; 0 is no limit. The VMM ends with code 151 when it
	// would write more.
	FileSize int64
}

// ExecName is the name by which the jailer calls a VMM's binary, and its folder: the base name of what the path leads to
// in the end.
func ExecName(binary string) (string, error) {
	path, err := filepath.EvalSymlinks(binary)
	if err != nil {
		return "", err
	}
	return filepath.Base(path), nil
}

// Root is the folder that becomes the VMM's `/`.
func (j Jail) Root(execName, id string) string {
	return filepath.Join(j.Base, execName, id, "root")
}

// Leftovers are the names in a jail's root that the jailer made there.
func Leftovers(execName string) []string {
	return []string{execName, execName + ".pid", "dev", "old_root", "sys"}
}

// args is the jailer's command line, up to where the VMM's own begins.
func (j Jail) args(binary, id string) []string {
	args := []string{
		"--id", id, "--exec-file", binary, "--uid", strconv.Itoa(j.UID), "--gid", strconv.Itoa(j.GID),
		"--chroot-base-dir", j.Base, "--cgroup-version", "2",
	}
	if j.NetNS != "" {
		args = append(args, "--netns", j.NetNS)
	}
	// Without --cgroup and with a parent that exists, the jailer moves itself there (jailer/src/env.rs). One that does not
	// exist is passed over, and so is the default, named after the binary.
	if j.Cgroup != "" {
		args = append(args, "--parent-cgroup", j.Cgroup)
	}
	if j.NoFile > 0 {
		args = append(args, "--resource-limit", "no-file="+strconv.Itoa(j.NoFile))
	}
	if j.FileSize > 0 {
		args = append(args, "--resource-limit", "fsize="+strconv.FormatInt(j.FileSize, 10))
	}
	return append(args, "--")
}

// check refuses what the jailer would, and what would be no jail.
func (j Jail) check(c Command) error {
	execName, err := ExecName(c.Path)
	switch {
	case err != nil:
		return err
	case os.Geteuid() != 0:
		return errors.New("a jail needs root")
	case j.UID <= 0 || j.GID <= 0:
		return fmt.Errorf("a jail of uid %d and gid %d is none", j.UID, j.GID)
	case c.ID == "":
		return errors.New("a jail needs an id")
	case filepath.Clean(c.Dir) != j.Root(execName, c.ID):
		return fmt.Errorf("the VMM's folder is %s, and the jail's %s", c.Dir, j.Root(execName, c.ID))
	}
	return nil
}
