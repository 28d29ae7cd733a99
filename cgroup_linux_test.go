package smartvm

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/internal/cgroup"
	"smartvm/internal/cpuarch"
)

func TestValidateLimits(t *testing.T) {
	t.Parallel()
	limits := func(l Limits) func(*Config) {
		return func(c *Config) {
			c.MachineConfig, c.MemoryHotplug, c.Balloon, c.Limits = MachineConfig{VCPUCount: 2}, nil, nil, &l
		}
	}
	checkRows(t, cpuarch.X8664, []validationRow{
		{limits(Limits{CPUs: -1}), "limits.cpus must be 0.01 to 1024, is -1"},
		{limits(Limits{CPUs: 0.009}), "limits.cpus must be 0.01 to 1024, is 0.009"},
		{limits(Limits{CPUs: 1025}), "limits.cpus must be 0.01 to 1024, is 1025"},
		{limits(Limits{CPUs: math.NaN()}), "limits.cpus must be 0.01 to 1024, is NaN"},
		{limits(Limits{MemoryMiB: 159}), "limits.memoryMib must be at least 160, the guest's memory and 32 for its VMM, is 159"},
		{limits(Limits{MemoryMiB: -1}), "limits.memoryMib must be 160 to 4294967295, is -1"},
		{limits(Limits{PIDs: 5}), "limits.pids must be 6, the vCPUs and 4 for the VMM, to 4194304, is 5"},
		{limits(Limits{PIDs: 1<<22 + 1}), "limits.pids must be 6, the vCPUs and 4 for the VMM, to 4194304, is 4194305"},
		{limits(Limits{ReadBps: 65535}), "limits.readBps must be at least 65536 bytes a second, is 65535"},
		{limits(Limits{WriteBps: -1}), "limits.writeBps must be at least 65536 bytes a second, is -1"},
		{limits(Limits{ReadIOPS: -1}), "limits.readIops must be 1 to 4294967295 operations a second, is -1"},
		{limits(Limits{WriteIOPS: 1 << 32}), "limits.writeIops must be 1 to 4294967295 operations a second, is 4294967296"},
		{limits(Limits{FileSizeMiB: -1}), "limits.fileSizeMib must be 1 to 4294967295, is -1"},
		{func(c *Config) {
			c.MachineConfig.VCPUCount, c.Drives, c.Pmem, c.NetworkInterfaces = 2, c.Drives[:1], nil, nil
			c.MMDS, c.Limits = nil, &Limits{OpenFiles: 77}
		}, "limits.openFiles must be at least 78, for the VMM, its vCPUs and its devices, is 77"},
		{func(c *Config) {
			c.MachineConfig.MemSizeMiB, c.MemoryHotplug, c.Balloon = 256, &MemoryHotplug{TotalSizeMiB: 512}, nil
			c.Limits = &Limits{MemoryMiB: 600}
		}, "limits.memoryMib must be at least 800, the guest's memory and 32 for its VMM, is 600"},
	})
	c := goodConfig()
	least := Limits{CPUs: 0.01, MemoryMiB: 160, PIDs: 6, ReadBps: 65536, WriteBps: 65536, ReadIOPS: 1, WriteIOPS: 1, FileSizeMiB: 1}
	least.OpenFiles = 64 + 3*2 + 8*(len(c.Drives)+len(c.Pmem)+len(c.NetworkInterfaces))
	limits(least)(c)
	if err := c.validate(cpuarch.X8664); err != nil {
		t.Error(err)
	}
}

func TestLimitsAreReadAsNumbers(t *testing.T) {
	t.Parallel()
	config, err := ParseConfig("limits", []byte("limits: {cpus: 1.5, memoryMib: 600, pids: 64}\n"))
	if err != nil || *config.Limits != (Limits{CPUs: 1.5, MemoryMiB: 600, PIDs: 64}) {
		t.Errorf("got %+v, %v", config, err)
	}
	for text, want := range map[string]string{
		"0":      "limits.cpus must not be 0",
		"1e3":    "limits.cpus must be a number in decimal digits, is the number 1e3",
		".inf":   "limits.cpus must be a number in decimal digits, is the number .inf",
		"0x10":   "limits.cpus must be a number in decimal digits, is the number 0x10",
		`"1"`:    `limits.cpus must be a number in decimal digits, is the text "1"`,
		"[1]":    "limits.cpus must be a number in decimal digits, is a list",
		"1.5, a": "unknown key `a` in limits",
	} {
		_, err := ParseConfig("limits", []byte("limits: {cpus: "+text+"}\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("cpus: %s: %v", text, err)
		}
	}
}

func TestLimitsOnAHostWithoutCgroupsAreRefusedBeforeAnythingIsMade(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	for dir, err := cgroup.Mounted(); err == nil; dir, err = cgroup.Mounted() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	m := newTestManager(t, vmms()[0].options(t))
	config := smallConfig(t)
	config.Limits = &Limits{}
	start(t, m, config) // none, and so no cgroup
	config.Limits = &Limits{PIDs: 100}
	vm := create(t, m, config)
	err := vm.Start(t.Context())
	wantCode(t, err, InvalidConfig)
	if !strings.Contains(err.Error(), "limits: no cgroup v2 hierarchy is mounted; mount -t cgroup2") {
		t.Errorf("%v does not say what to do", err)
	}
	wantState(t, vm, Created)
	if _, err := os.Lstat(m.options.folderOf(vm.key).data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}
