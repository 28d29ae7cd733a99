package smartvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/drive"
	"smartvm/firecracker"
	"smartvm/internal/cpuarch"
	"smartvm/internal/kvm"
)

// CheckStatus is how a check of the host came out.
type CheckStatus string

// A failed check means that VMs do not run here; a warning that something works less well, or not at all but is not
// always needed.
const (
	CheckOK   CheckStatus = "ok"
	CheckWarn CheckStatus = "warning"
	CheckFail CheckStatus = "failed"
)

// Check is one thing that was tried on the host, what came out, and what to do about it.
type Check struct {
	Name    string      `json:"name"`
	Status  CheckStatus `json:"status"`
	Message string      `json:"message"`
	Fix     string      `json:"fix,omitempty"`
	// Took is how long it took to find out, in nanoseconds.
	Took time.Duration `json:"took"`
}

// Doctor finds out whether this host can run VMs, by trying. Nothing is changed on the host.
func (m *Manager) Doctor(ctx context.Context) []Check {
	var checks []Check
	for _, try := range []func() Check{
		func() Check { return checkKVM(ctx) },
		func() Check { return m.checkVMM(ctx) },
		func() Check { return m.checkSeccomp(ctx) },
		func() Check { return m.checkJailer(ctx) },
		checkCgroups,
		func() Check { return m.checkEmulator(ctx) },
		checkTUN,
		func() Check { return m.checkFolder("data folder", m.options.DataDir) },
		func() Check { return m.checkFolder("runtime folder", m.options.RuntimeDir) },
		m.checkReflink,
		func() Check { return m.checkImage(ctx) },
	} {
		began := time.Now()
		check := try()
		check.Took = time.Since(began)
		checks = append(checks, check)
	}
	return checks
}

// CheckKVM reports why Firecracker cannot run a guest on this host, or nil. It runs a guest of a million instructions.
func CheckKVM(ctx context.Context) error {
	check := checkKVM(ctx)
	if check.Status == CheckOK {
		return nil
	}
	return fmt.Errorf("%s (%s)", check.Message, strings.TrimSuffix(check.Fix, "."))
}

func checkKVM(ctx context.Context) Check {
	result := kvm.Probe(ctx, "/dev/kvm")
	check := Check{Name: "kvm", Status: CheckOK, Message: strings.TrimSuffix(result.Detail, "."), Fix: result.Fix}
	if result.State != kvm.Usable {
		check.Status = CheckFail
	}
	return check
}

func (m *Manager) checkVMM(ctx context.Context) Check {
	check := Check{Name: "firecracker", Status: CheckFail}
	options := m.options
	options.Emulate = false
	path, err := options.vmm()
	if err != nil {
		check.Message, check.Fix = err.Error(), "install Firecracker 1.15.1 or newer and put it in $PATH, or set SMARTVM_FIRECRACKER"
		return check
	}
	build, err := firecracker.BinaryVersion(ctx, path)
	if err != nil {
		check.Message, check.Fix = fmt.Sprintf("%s: %v", path, err), "install a Firecracker that runs on this host"
		return check
	}
	check.Message = fmt.Sprintf("%s %s at %s", build.Name, build.Version, path)
	if err := firecracker.CheckVersion(build.Version, m.options.AllowVersions); err != nil {
		check.Message, check.Fix = err.Error(), "install a version without known faults"
		return check
	}
	check.Status = CheckOK
	return check
}

func (m *Manager) checkEmulator(ctx context.Context) Check {
	check := Check{Name: "emulator", Status: CheckWarn, Fix: "make build; apt-get install qemu-system-x86"}
	path, err := m.options.emulator()
	if err != nil {
		check.Message = err.Error()
		return check
	}
	if _, err := firecracker.BinaryVersion(ctx, path); err != nil {
		check.Message = err.Error()
		return check
	}
	if m.options.Arch != cpuarch.X8664 {
		check.Message, check.Fix = "the emulator runs on x86_64 only", ""
		return check
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		check.Message = fmt.Sprintf("%s needs qemu-system-x86_64: %v", path, err)
		return check
	}
	return Check{Name: "emulator", Status: CheckOK, Message: path + " with QEMU; it is slow, and no security boundary as KVM is"}
}

func checkTUN() Check {
	const path = "/dev/net/tun"
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Check{Name: "tun", Status: CheckWarn, Message: path + " is missing: VMs have no network", Fix: "modprobe tun"}
	case err != nil:
		return Check{Name: "tun", Status: CheckWarn, Message: err.Error() + ": VMs have no network", Fix: "give this user the right to open it"}
	}
	file.Close()
	return Check{Name: "tun", Status: CheckOK, Message: path + " opens"}
}

// checkFolder says what a start would find, without making the folder.
func (m *Manager) checkFolder(name, dir string) Check {
	existing, err := nearestFolder(dir)
	if err != nil {
		return Check{Name: name, Status: CheckFail, Message: err.Error(), Fix: "choose another folder"}
	}
	if existing == dir {
		if err := secureDir(dir); err != nil {
			return Check{Name: name, Status: CheckFail, Message: err.Error(), Fix: "choose another folder, or mend this one"}
		}
	}
	if err := unix.Access(existing, unix.W_OK); err != nil {
		return Check{Name: name, Status: CheckFail, Message: fmt.Sprintf("%s cannot be written: %v", existing, err), Fix: "choose a folder of your own (SMARTVM_DATA_DIR)"}
	}
	return Check{Name: name, Status: CheckOK, Message: dir}
}

func (m *Manager) checkReflink() Check {
	dir, err := nearestFolder(m.options.DataDir)
	if err == nil && dir == m.options.DataDir && drive.CanReflink(dir) {
		return Check{Name: "reflink", Status: CheckOK, Message: dir + " clones drives at no cost"}
	}
	return Check{
		Name: "reflink", Status: CheckWarn, Message: "no reflinks at " + m.options.DataDir + ": a drive that our init cannot put an overlay on is copied",
		Fix: "put the data folder on XFS or btrfs",
	}
}

func (m *Manager) checkImage(ctx context.Context) Check {
	bundle, err := m.Image(ctx, DefaultImage)
	if err != nil {
		return Check{Name: "image", Status: CheckWarn, Message: err.Error(), Fix: "smartvm image build"}
	}
	return Check{Name: "image", Status: CheckOK, Message: bundle.Kernel}
}
