package firecracker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
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
	// NewPIDNS makes the VMM process 1 of a PID namespace of its own. The jailer is its parent then, and ends at once: the caller
	// must be a child subreaper (PR_SET_CHILD_SUBREAPER of prctl(2)), or nobody is told how the VMM ends. As process 1 has no
	// handler for it, SIGTERM does nothing (pid_namespaces(7)): see [Ladder.Without].
	NewPIDNS bool
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
	if j.NewPIDNS {
		args = append(args, "--new-pid-ns")
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

// forked waits for a jailer that forks, and finds the VMM by the file that the jailer wrote its id to: nobody else was there yet
// who could. After an error there may be a VMM nevertheless, as when the disk was too full for that file.
func (j Jail) forked(jailer *os.Process, command Command) (*os.Process, error) {
	limit := time.AfterFunc(SocketTimeout, func() { _ = jailer.Kill() })
	defer limit.Stop()
	state, err := jailer.Wait()
	if err != nil {
		return nil, err
	}
	if !state.Success() {
		return nil, fmt.Errorf("the jailer did not start the VMM (%v): %s", state, lastLines(command.lastOutput()))
	}
	execName, err := ExecName(command.Path)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(command.Dir, execName+".pid"))
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return nil, err
	}
	// Of a process that is no child of ours the kernel says ECHILD. Ours is not reaped before, so its id is nobody else's.
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
		return nil, fmt.Errorf("the VMM %d is not ours; whoever runs it must be a child subreaper: %w", pid, err)
	}
	return os.FindProcess(pid)
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
