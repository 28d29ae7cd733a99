package smartvm

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"smartvm/internal/cpuarch"
)

const defaultShutdownTimeout = 5 * time.Second

// Options is what a Manager is made with. The zero value is the default everywhere.
type Options struct {
	// DataDir holds what lasts: images and, per VM, staged drives, logs and snapshots. Default: /var/lib/smartvm for root,
	// $XDG_DATA_HOME/smartvm or ~/.local/share/smartvm otherwise. It is created with mode 0700 and refused
	// (InsecurePath) when it is a symbolic link, belongs to another user or is writable by others.
	DataDir string

	// RuntimeDir holds sockets and what a reboot may take. Default: /run/smartvm for root, $XDG_RUNTIME_DIR/smartvm
	// otherwise, and <DataDir>/run where that variable is not set. It gets the same care as DataDir.
	RuntimeDir string

	// FirecrackerBinary is the VMM to run. Default: `firecracker` from $PATH. Nothing is downloaded.
	FirecrackerBinary string

	// Emulate runs VMs in the emulator instead of Firecracker: no KVM is needed and the guest is much slower. The emulator
	// is no security boundary as KVM is.
	Emulate bool

	// EmulatorBinary is the emulator to run with Emulate. Default: `firecracker-emulator` beside the running program, then
	// from $PATH.
	EmulatorBinary string

	// VMMArgs are further arguments of the VMM's command line, such as --enable-pci.
	VMMArgs []string

	// AllowVersions lists Firecracker versions that are run although they have a known CVE (UnsafeVersion otherwise).
	AllowVersions []string

	// NoJail runs the VMM as this user, with all that this user may do, where the default is a jail: as root, VMMs run under
	// Firecracker's jailer, each as a user of its own that sees no file but its VM's. Without root, and with the emulator,
	// there is no jail.
	NoJail bool

	// JailerBinary is the jailer. Default: `jailer` beside Firecracker, then from $PATH.
	JailerBinary string

	// UIDBase and UIDCount are the users (and groups) that VMs in jails run as; nobody else may have them. Default: 65536
	// from 1900000000 on.
	UIDBase, UIDCount int

	// WritableDrivesInPlace lets guests write to the drives that they are given. By default each VM writes to a staged copy
	// of its own. It is the contract's ephemeralWritableDrives turned round, and wins over a drive's own Ephemeral.
	WritableDrivesInPlace bool

	// ShutdownTimeout is how long a guest that was asked to shut down may take, before its VMM is ended. Default: 5 s.
	ShutdownTimeout time.Duration

	// Arch is x86_64 or aarch64. Default: the host's.
	Arch string

	// Supervisor is the command line of a program that supervises a VM's VMM in a process of its own: `smartvm supervise`,
	// by its path. Then a VM can outlive this process. Default: none; the VMM's console and end are taken care of in this
	// process, and are nobody's when it dies.
	Supervisor []string

	// Settle is the command line of a program that puts a VM in order whose VMM has ended; the VM's key is its last
	// argument, and DataDir and RuntimeDir reach it in SMARTVM_DATA_DIR and SMARTVM_RUNTIME_DIR: `smartvm settle`, by its
	// path. The supervisor runs it. Default: none; the next command on the VM does it.
	Settle []string

	// SnapshotQuota and DriveQuota bound the bytes on the disk that all snapshots below DataDir, and all VMs' staged
	// drives, may use. A start or a snapshot that would exceed it is refused before anything is written, and a warning goes
	// to Logger from 80 % on. Default: no bound but the disk.
	SnapshotQuota, DriveQuota int64

	// Logger gets what happens. Default: silence.
	Logger *slog.Logger

	hook stepHook // nil but in tests
}

// withDefaults returns a copy of o with every default filled in, or all that is wrong with it.
func (o Options) withDefaults() (Options, error) {
	o.AllowVersions, o.VMMArgs = slices.Clone(o.AllowVersions), slices.Clone(o.VMMArgs)
	o.Supervisor, o.Settle = slices.Clone(o.Supervisor), slices.Clone(o.Settle)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var faults []error
	switch {
	case o.ShutdownTimeout == 0:
		o.ShutdownTimeout = defaultShutdownTimeout
	case o.ShutdownTimeout < 0:
		faults = append(faults, fmt.Errorf("the shutdown time-out %v is negative", o.ShutdownTimeout))
	}
	if o.UIDBase == 0 && o.UIDCount == 0 {
		o.UIDBase, o.UIDCount = defaultUIDBase, defaultUIDCount
	}
	if o.UIDBase <= 0 || o.UIDCount <= 0 || o.UIDBase+o.UIDCount > math.MaxInt32 {
		faults = append(faults, fmt.Errorf("%d users from %d on are no range of users for VMs", o.UIDCount, o.UIDBase))
	}
	if o.SnapshotQuota < 0 || o.DriveQuota < 0 {
		faults = append(faults, errors.New("a quota is negative"))
	}
	if o.Arch == "" {
		o.Arch = cpuarch.Host()
	}
	if o.Arch != cpuarch.X8664 && o.Arch != cpuarch.AArch64 {
		faults = append(faults, fmt.Errorf("arch %q is neither x86_64 nor aarch64", o.Arch))
	}
	var err error
	if o.DataDir == "" {
		o.DataDir, err = defaultDataDir()
		faults = append(faults, err)
	}
	if o.RuntimeDir == "" {
		o.RuntimeDir = defaultRuntimeDir(o.DataDir)
	}
	for _, dir := range []*string{&o.DataDir, &o.RuntimeDir} {
		if strings.ContainsRune(*dir, 0) {
			faults = append(faults, fmt.Errorf("folder %q has a NUL byte in it", *dir))
			continue
		}
		*dir, err = filepath.Abs(*dir)
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return Options{}, &Error{Code: InvalidConfig, Op: "new manager", Err: err}
	}
	return o, nil
}

func defaultDataDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/smartvm", nil
	}
	// The XDG Base Directory Specification: a relative path in these variables is to be ignored.
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "smartvm"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no data folder: %w; set DataDir", err)
	}
	return filepath.Join(home, ".local", "share", "smartvm"), nil
}

func defaultRuntimeDir(dataDir string) string {
	if os.Geteuid() == 0 {
		return "/run/smartvm"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "smartvm")
	}
	return filepath.Join(dataDir, "run")
}
