package smartvm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"smartvm/firecracker"
)

// The VMMs' names in $PATH.
const (
	firecrackerName = "firecracker"
	emulatorName    = "firecracker-emulator"
)

func (o Options) vmmName() string {
	if o.Emulate {
		return emulatorName
	}
	return firecrackerName
}

// vmm finds the VMM's binary.
func (o Options) vmm() (string, error) {
	if o.Emulate {
		return o.emulator()
	}
	if o.FirecrackerBinary != "" {
		return executable(o.FirecrackerBinary)
	}
	path, err := exec.LookPath(firecrackerName)
	if err != nil {
		return "", fmt.Errorf("no Firecracker: %w; install it, name it (FirecrackerBinary, SMARTVM_FIRECRACKER), or use the emulator (Emulate, --emulate)", err)
	}
	return filepath.Abs(path)
}

func (o Options) emulator() (string, error) {
	if o.EmulatorBinary != "" {
		return executable(o.EmulatorBinary)
	}
	if self, err := os.Executable(); err == nil {
		if path, err := executable(filepath.Join(filepath.Dir(self), emulatorName)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(emulatorName)
	if err != nil {
		return "", fmt.Errorf("no emulator: %w; `make build` makes it, EmulatorBinary or SMARTVM_EMULATOR names it", err)
	}
	return filepath.Abs(path)
}

// vmmEnv is the VMM's whole environment: Firecracker needs none, the emulator looks for QEMU.
func (o Options) vmmEnv() []string {
	if o.Emulate {
		return []string{"PATH=" + os.Getenv("PATH")}
	}
	return nil
}

// logArgs has the VMM write its own log to the monitor, unless the user has it elsewhere: on its standard output, where it
// goes by default, it would stand between what the guest prints. It tells of every request by default, which nobody asked for.
func (o Options) logArgs(c *Config) []string {
	if c.Logger != nil {
		return nil
	}
	var args []string
	for _, arg := range [][]string{{"--log-path", vmmFIFO}, {"--level", "Warning"}} {
		if !slices.Contains(o.VMMArgs, arg[0]) {
			args = append(args, arg...)
		}
	}
	return args
}

// settleEnv is the environment of the program that settles a VM.
func (o Options) settleEnv(rec vmRecord) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "SMARTVM_DATA_DIR=" + o.DataDir, "SMARTVM_RUNTIME_DIR=" + filepath.Dir(rec.Runtime)}
	if o.EmulatorBinary != "" {
		env = append(env, "SMARTVM_EMULATOR="+o.EmulatorBinary)
	}
	if o.FirecrackerBinary != "" {
		env = append(env, "SMARTVM_FIRECRACKER="+o.FirecrackerBinary)
	}
	return env
}

// executable returns path made absolute, or why it cannot be run.
func executable(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("VMM binary: %w", err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("VMM binary %s is no regular file", path)
	case info.Mode().Perm()&0o111 == 0:
		return "", fmt.Errorf("VMM binary %s is not executable; chmod +x it", path)
	}
	return path, nil
}

// builds remembers what VMM binaries say of themselves: to ask one costs as much as to start it.
type builds struct {
	mu    sync.Mutex
	known map[fileIdentity]build
}

type build struct {
	firecracker.Build
	snapshots firecracker.Version // the snapshots that it writes
}

// fileIdentity changes when a file is replaced or written.
type fileIdentity struct {
	path         string
	device, node uint64
	size         int64
	changed      time.Time
}

// of asks the binary at path, or remembers.
func (b *builds) of(ctx context.Context, path string) (build, error) {
	info, err := os.Stat(path)
	if err != nil {
		return build{}, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	id := fileIdentity{path, uint64(stat.Dev), stat.Ino, info.Size(), info.ModTime()}
	b.mu.Lock()
	defer b.mu.Unlock()
	if known, ok := b.known[id]; ok {
		return known, nil
	}
	asked := build{}
	if asked.Build, err = firecracker.BinaryVersion(ctx, path); err != nil {
		return build{}, err
	}
	if asked.snapshots, err = firecracker.SnapshotVersion(ctx, path); err != nil {
		return build{}, err
	}
	if b.known == nil {
		b.known = map[fileIdentity]build{}
	}
	b.known[id] = asked
	return asked, nil
}
