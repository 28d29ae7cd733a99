package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Requests of the device and of a VM: include/uapi/linux/kvm.h.
const (
	getAPIVersion  = 0xae00
	createVM       = 0xae01
	checkExtension = 0xae03

	apiVersion = 12 // the only one since Linux 2.6.22
)

// capability is one that Firecracker checks for when it starts.
type capability struct {
	number uintptr
	name   string
}

// Probe tries the KVM at path, usually DefaultPath. It takes a few milliseconds on a good machine and at most some
// seconds on a bad one; everything is released when it returns.
func Probe(ctx context.Context, path string) Result {
	r := probe(ctx, path)
	r.Path = path
	if ctx.Err() != nil && r.State != Usable {
		return Result{State: Unknown, Path: path, Detail: "The probe was interrupted."}
	}
	return r
}

func probe(ctx context.Context, path string) Result {
	info, err := os.Stat(path)
	if err != nil {
		return openFailed(path, err)
	}
	if info.Mode()&fs.ModeCharDevice == 0 {
		return Result{State: Missing, Detail: path + " is not a device.", Fix: "Remove it and load KVM's module: " + moduleAdvice()}
	}
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0) })
	if err != nil {
		return openFailed(path, err)
	}
	defer unix.Close(fd)

	version, err := ioctl(fd, getAPIVersion, 0)
	if err != nil {
		return Result{State: Missing, Detail: fmt.Sprintf("%s is not KVM: %v.", path, err), Fix: "Load KVM's module: " + moduleAdvice()}
	}
	if version != apiVersion {
		return Result{State: Unusable, Detail: fmt.Sprintf("KVM speaks version %d of its API, %d is needed.", version, apiVersion),
			Fix: "Use a kernel of Linux 5.10 or later."}
	}
	if lacking := missingCapabilities(fd); len(lacking) > 0 {
		return Result{State: Unusable, Detail: "KVM lacks what Firecracker needs: " + strings.Join(lacking, ", ") + ".",
			Fix: "Use a kernel of Linux 5.10 or later with KVM in full."}
	}
	vm, err := ioctl(fd, createVM, 0)
	if err != nil {
		return createFailed(err)
	}
	defer unix.Close(vm)
	return runLoop(ctx, fd, vm)
}

// openFailed explains why the device could not be opened.
func openFailed(path string, err error) Result {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Result{State: Missing, Detail: "There is no " + path + ".", Fix: moduleAdvice()}
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return Result{State: Missing, Detail: path + " is there, but the kernel has no KVM behind it.", Fix: moduleAdvice()}
	case errors.Is(err, fs.ErrPermission):
		return denied(path)
	case errors.Is(err, unix.EBUSY):
		return createFailed(err)
	}
	return Result{State: Unusable, Detail: fmt.Sprintf("%s cannot be opened: %v.", path, err), Fix: moduleAdvice()}
}

// moduleAdvice says how this machine may get KVM. That the CPU shows no virtualization says only that the usual modules
// will not load.
func moduleAdvice() string {
	if runtime.GOARCH != "amd64" {
		return "Use a kernel with KVM, on a machine whose firmware starts Linux at EL2."
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "Load KVM's module (modprobe kvm_intel or kvm_amd)."
	}
	return adviceFor(string(cpuinfo))
}

// adviceFor reads the CPU's flags.
func adviceFor(cpuinfo string) string {
	_, flags, _ := strings.Cut(cpuinfo, "\nflags")
	flags, _, _ = strings.Cut(flags, "\n")
	has := strings.Fields(flags)
	switch {
	case slices.Contains(has, "vmx"):
		return "Load KVM's module: modprobe kvm_intel. If it refuses, turn on virtualization (VT-x) in the firmware."
	case slices.Contains(has, "svm"):
		return "Load KVM's module: modprobe kvm_amd. If it refuses, turn on virtualization (SVM) in the firmware."
	case slices.Contains(has, "hypervisor"):
		return "This machine is itself a VM without nested virtualization: turn that on where it is hosted, or use a bare-metal machine."
	}
	return "The CPU offers no virtualization: turn it on in the firmware (VT-x, SVM), or use another machine."
}

// denied explains why this user may not open the device.
func denied(path string) Result {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Result{State: Denied, Detail: fmt.Sprintf("This user may not open %s: %v.", path, err), Fix: "Run as root, or ask an administrator."}
	}
	a := access{path: path, mode: st.Mode, gid: int(st.Gid), group: strconv.Itoa(int(st.Gid)), user: strconv.Itoa(os.Geteuid())}
	if g, err := user.LookupGroupId(a.group); err == nil {
		a.group = g.Name
	}
	if groups, err := os.Getgroups(); err == nil {
		a.inProcess = os.Getegid() == a.gid || slices.Contains(groups, a.gid)
	}
	if u, err := user.LookupId(a.user); err == nil {
		a.user = u.Username
		if ids, err := u.GroupIds(); err == nil {
			a.inDatabase = slices.Contains(ids, strconv.Itoa(a.gid))
		}
	}
	return a.explain()
}

// access is what decides whether a user may open a device.
type access struct {
	path, user, group string
	gid               int
	mode              uint32 // st_mode
	inDatabase        bool   // the user is a member of the device's group
	inProcess         bool   // this process has the group
}

func (a access) explain() Result {
	r := Result{State: Denied, Detail: fmt.Sprintf("User %s may not open %s.", a.user, a.path)}
	switch {
	case a.mode&0o060 != 0o060:
		r.Fix = fmt.Sprintf("Its mode is %04o, which lets only its owner: as root, run `chgrp kvm %s && chmod 660 %s` and add %s to the group (usermod -aG kvm %s).",
			a.mode&0o7777, a.path, a.path, a.user, a.user)
	case a.inProcess:
		r.Fix = "The group has access and this process is in it: a security module, a container's device rules or an access list forbids it."
	case a.inDatabase:
		r.Detail = fmt.Sprintf("User %s is in the group %s, but this login is older than that.", a.user, a.group)
		r.Fix = fmt.Sprintf("Log out and in again, or run `newgrp %s`.", a.group)
	default:
		r.Fix = fmt.Sprintf("As root, run `usermod -aG %s %s`, then log out and in again.", a.group, a.user)
	}
	return r
}

// createFailed explains why no VM could be made.
func createFailed(err error) Result {
	if errors.Is(err, unix.EBUSY) {
		return Result{State: Busy, Detail: "Another hypervisor has the CPU's virtualization.",
			Fix: "Stop it and unload its modules (VirtualBox's is vboxdrv)."}
	}
	return Result{State: Unusable, Detail: fmt.Sprintf("KVM makes no VM: %v.", err), Fix: "Look into the kernel's log (dmesg) for what KVM says."}
}

// missingCapabilities lists those of Firecracker's that this KVM has not.
func missingCapabilities(fd int) []string {
	var lacking []string
	for _, c := range requiredCapabilities {
		if has, err := ioctl(fd, checkExtension, c.number); err != nil || has <= 0 {
			lacking = append(lacking, "KVM_CAP_"+c.name)
		}
	}
	return lacking
}

// ioctl makes a request with a number as its argument. A signal that arrives meanwhile (Go's runtime sends some) is no
// failure.
func ioctl(fd int, request, arg uintptr) (int, error) {
	return retry(func() (int, error) {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
		if errno != 0 {
			return -1, errno
		}
		return int(n), nil
	})
}

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != syscall.EINTR {
			return n, err
		}
	}
}
