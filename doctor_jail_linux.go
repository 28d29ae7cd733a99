package smartvm

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"smartvm/firecracker"
	"smartvm/internal/cgroup"
)

// checkSeccomp tries whether the VMM's seccomp filters hold anything: it is started without a VM, in a folder of its own.
func (m *Manager) checkSeccomp(ctx context.Context) Check {
	check := Check{Name: "seccomp", Status: CheckWarn}
	options := m.options
	options.Emulate = false
	path, err := options.vmm()
	if err != nil {
		check.Message = "without Firecracker there is nothing to filter"
		return check
	}
	held, err := trySeccomp(ctx, path, options)
	switch {
	case errors.Is(err, firecracker.ErrSeccompUntried):
		check.Status, check.Message = CheckOK, fmt.Sprintf("%s has a seccomp filter; what it holds is not known: %v", path, err)
	case err != nil:
		check.Message, check.Fix = err.Error(), "install a Firecracker that runs on this host"
	case held == firecracker.SeccompHolds:
		check.Status, check.Message = CheckOK, "Firecracker's threads are held to the system calls that they need"
	default:
		check.Message = path + " was built without seccomp filters: whoever takes it over from a guest can make every system call of its user's"
		check.Fix = "take the binaries of a Firecracker release; a build of your own must be a release build for musl (tools/devtool build --release)"
		if options.noSeccomp() {
			check.Message = "--no-seccomp is among the VMM's arguments: whoever takes it over from a guest can make every system call of its user's"
			check.Fix = "leave --no-seccomp out"
		}
	}
	return check
}

func trySeccomp(ctx context.Context, path string, o Options) (held firecracker.Seccomp, err error) {
	dir, err := os.MkdirTemp("", "smartvm-doctor-") // mode 0700
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	console, err := firecracker.NewConsole(filepath.Join(dir, "console")) // so that a VMM that fails can say why
	if err != nil {
		return "", err
	}
	console.Drain(io.Discard)
	defer func() { err = errors.Join(err, console.Close()) }()
	return firecracker.TrySeccomp(ctx, firecracker.Command{Path: path, Dir: dir, Socket: "firecracker.sock", Args: o.seccompArgs(),
		Console: console, AllowVersions: o.AllowVersions})
}

// seccompArgs are those of the VMM's arguments that are about its filters.
func (o Options) seccompArgs() []string {
	for i, arg := range o.VMMArgs {
		if arg == "--seccomp-filter" && i+1 < len(o.VMMArgs) {
			return o.VMMArgs[i : i+2]
		}
	}
	if o.noSeccomp() {
		return []string{"--no-seccomp"}
	}
	return nil
}

func (o Options) noSeccomp() bool { return slices.Contains(o.VMMArgs, "--no-seccomp") }

// checkJailer looks for the jailer, which only root can use.
func (m *Manager) checkJailer(ctx context.Context) Check {
	check := Check{Name: "jailer", Status: CheckWarn, Fix: "put `jailer` of the same release beside Firecracker, or set SMARTVM_JAILER"}
	options := m.options
	options.Emulate = false
	vmm, err := options.vmm()
	if err != nil {
		check.Message = "without Firecracker there is nothing to jail"
		return check
	}
	if os.Geteuid() != 0 {
		check.Status, check.Message, check.Fix = CheckOK, "not root: Firecracker runs as this user, without a jail", ""
		return check
	}
	check.Status = CheckFail
	path, err := options.jailer(vmm)
	if err != nil {
		check.Message = err.Error()
		return check
	}
	jailer, err := firecracker.JailerVersion(ctx, path)
	if err != nil {
		check.Message = err.Error()
		return check
	}
	if build, err := firecracker.BinaryVersion(ctx, vmm); err == nil && build.Version != jailer {
		check.Message = fmt.Sprintf("the jailer at %s is of version %s, and Firecracker of %s", path, jailer, build.Version)
		return check
	}
	if interpreter, err := interpreterOf(vmm); err != nil || interpreter != "" {
		check.Message = fmt.Sprintf("Firecracker at %s is linked dynamically (it wants %s), and there is no library in a jail", vmm, interpreter)
		if err != nil {
			check.Message = err.Error()
		}
		check.Fix = "take the binaries of a Firecracker release: they are static"
		return check
	}
	return Check{Name: "jailer", Status: CheckOK, Message: fmt.Sprintf("jailer %s at %s", jailer, path)}
}

// interpreterOf is what a program has the kernel run in its place, to link it: "" for a static one.
func interpreterOf(path string) (string, error) {
	file, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	defer file.Close()
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP {
			text, err := io.ReadAll(io.LimitReader(part.Open(), 4096))
			return strings.TrimRight(string(text), "\x00"), err
		}
	}
	return "", nil
}

// checkCgroups tells which limits this host can hold VMs to.
func checkCgroups() Check {
	if os.Geteuid() != 0 {
		return Check{Name: "cgroup", Status: CheckOK, Message: "not root: VMs have no limits of their own on this host's CPU and memory"}
	}
	hierarchy, err := cgroup.Mounted()
	if err != nil {
		return Check{Name: "cgroup", Status: CheckWarn, Message: "VMs cannot have limits: no cgroup v2 hierarchy is mounted", Fix: "mount -t cgroup2 none /sys/fs/cgroup"}
	}
	return checkHierarchy(hierarchy)
}

func checkHierarchy(hierarchy string) Check {
	use := map[string]string{"cpu": "limits.cpus", "memory": "limits.memoryMib", "pids": "limits.pids", "io": "limits.readBps, writeBps, readIops and writeIops"}
	var has, lost []string
	var first error
	for _, controller := range []string{"cpu", "memory", "pids", "io"} {
		if err := cgroup.CheckControllers(hierarchy, controller); err != nil {
			lost = append(lost, fmt.Sprintf("%s (%s)", controller, use[controller]))
			first = cmp.Or(first, err)
		} else {
			has = append(has, controller)
		}
	}
	if first == nil {
		return Check{Name: "cgroup", Status: CheckOK, Message: fmt.Sprintf("cgroup v2 at %s, with %s", hierarchy, strings.Join(has, ", "))}
	}
	cause, fix, _ := strings.Cut(first.Error(), "; ")
	return Check{Name: "cgroup", Status: CheckWarn, Message: fmt.Sprintf("not to be had for VMs: %s; %s", strings.Join(lost, ", "), cause), Fix: fix}
}
