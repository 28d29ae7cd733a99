package smartvm

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/internal/cpuarch"
)

// elfKernel is the beginning of a kernel for x86_64, as far as it is looked at.
func elfKernel() []byte {
	b := make([]byte, 4096)
	copy(b, "\x7fELF\x02\x01\x01")
	b[18] = 62 // EM_X86_64
	return b
}

func with(b []byte, offset int, text string) []byte {
	copy(b[offset:], text)
	return b
}

func TestKernelsAreCalledByTheirName(t *testing.T) {
	t.Parallel()
	blank := func() []byte { return make([]byte, 1024) }
	image := with(blank(), 56, "ARM\x64")
	for name, c := range map[string]struct {
		head []byte
		arch string
		want string // a part of the fault; empty: none
	}{
		"vmlinux":                 {elfKernel(), cpuarch.X8664, ""},
		"Image":                   {image, cpuarch.AArch64, ""},
		"Image on x86_64":         {image, cpuarch.X8664, "is a kernel for aarch64, the VM is x86_64"},
		"vmlinux on aarch64":      {elfKernel(), cpuarch.AArch64, "is an ELF file: on aarch64 the VMM needs the kernel's `Image`"},
		"an ELF file for aarch64": {with(elfKernel(), 18, "\xb7"), cpuarch.X8664, "is an ELF file for EM_AARCH64, the VM is x86_64"},
		"a 32-bit ELF file":       {with(elfKernel(), 4, "\x01"), cpuarch.X8664, "is no 64-bit kernel"},
		"bzImage":                 {with(blank(), 0x202, "HdrS"), cpuarch.X8664, "is a compressed kernel (bzImage)"},
		"gzip":                    {with(blank(), 0, "\x1f\x8b"), cpuarch.X8664, "is compressed: unpack it first"},
		"Image.gz":                {with(blank(), 0, "\x1f\x8b"), cpuarch.AArch64, "is compressed: unpack it first"},
		"a text":                  {[]byte("hello"), cpuarch.X8664, "is no kernel: want an uncompressed ELF `vmlinux`"},
		"a text on aarch64":       {[]byte("hello"), cpuarch.AArch64, "is no kernel: want an `Image`"},
		"half a magic":            {[]byte("\x7fEL"), cpuarch.X8664, "is no kernel"},
		"a magic and no more":     {[]byte("\x7fELF"), cpuarch.X8664, "is no kernel"},
	} {
		got := kernelFault(c.head, c.arch)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// hostFiles makes the files of a configuration that passes.
func hostFiles(t *testing.T) (*Config, string) {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for name, data := range map[string][]byte{"kernel": elfKernel(), "initrd": []byte("x"), "root": []byte("x"), "pmem": []byte("x"), "empty": nil, "text": []byte("hello")} {
		if err := os.WriteFile(in(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(in("folder"), 0o700), unix.Mkfifo(in("fifo"), 0o600), unix.Mknod(in("socket"), unix.S_IFSOCK|0o600, 0)); err != nil {
		t.Fatal(err)
	}
	return &Config{
		BootSource:    BootSource{KernelImagePath: in("kernel"), InitrdPath: in("initrd")},
		MachineConfig: MachineConfig{MemSizeMiB: 16},
		Drives:        []Drive{{DriveID: "root", PathOnHost: in("root")}, {DriveID: "remote", Socket: in("socket")}},
		Pmem:          []Pmem{{ID: "p", PathOnHost: in("pmem")}},
	}, dir
}

func TestCheckFilesTakesWhatIsThere(t *testing.T) {
	t.Parallel()
	c, _ := hostFiles(t)
	if err := c.checkFiles(&Options{Arch: cpuarch.X8664}); err != nil {
		t.Error(err)
	}
}

func TestCheckFilesSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		change func(c *Config, dir string)
		want   string
	}{
		{func(c *Config, dir string) { c.BootSource.KernelImagePath = dir + "/missing" }, "bootSource.kernelImagePath: open DIR/missing: no such file or directory"},
		{func(c *Config, dir string) { c.BootSource.KernelImagePath = dir + "/folder" }, "bootSource.kernelImagePath: DIR/folder is a folder"},
		{func(c *Config, dir string) { c.BootSource.KernelImagePath = dir + "/fifo" }, "bootSource.kernelImagePath: DIR/fifo is no regular file"},
		{func(c *Config, dir string) { c.BootSource.KernelImagePath = dir + "/empty" }, "bootSource.kernelImagePath: DIR/empty is empty"},
		{func(c *Config, dir string) { c.BootSource.KernelImagePath = dir + "/text" }, "bootSource.kernelImagePath: DIR/text is no kernel: want an uncompressed ELF `vmlinux`; smartvm image build takes the kernel out of a distribution's package"},
		{func(c *Config, dir string) { c.BootSource.InitrdPath = dir + "/missing" }, "bootSource.initrdPath: open DIR/missing: no such file or directory"},
		{func(c *Config, dir string) { c.BootSource.InitrdPath = dir + "/empty" }, "bootSource.initrdPath: DIR/empty is empty"},
		{func(c *Config, dir string) { c.Drives[0].PathOnHost = dir + "/missing" }, "drives[0].pathOnHost: cannot use DIR/missing as a drive: no such file or directory: check the path"},
		{func(c *Config, dir string) { c.Drives[0].PathOnHost = dir + "/folder" }, "drives[0].pathOnHost: DIR/folder is a folder: a drive needs a file with a filesystem image, or a block device"},
		{func(c *Config, dir string) { c.Drives[0].PathOnHost = dir + "/empty" }, "drives[0].pathOnHost: cannot use DIR/empty as a drive: it is empty (0 bytes): a drive needs a filesystem image"},
		{func(c *Config, dir string) { c.Drives[1].Socket = dir + "/text" }, "drives[1].socket: DIR/text is no socket: start the vhost-user back end first"},
		{func(c *Config, dir string) { c.Drives[1].Socket = dir + "/missing" }, "drives[1].socket: stat DIR/missing: no such file or directory"},
		{func(c *Config, dir string) {
			c.NetworkInterfaces = []NetworkInterface{{IfaceID: "eth0", HostDevName: "svm-no-such-if"}}
		}, `networkInterfaces[0].hostDevName: there is no TAP "svm-no-such-if" on this host: make one (ip tuntap add svm-no-such-if mode tap)`},
		{func(c *Config, dir string) {
			c.NetworkInterfaces = []NetworkInterface{{IfaceID: "eth0", HostDevName: "lo"}}
		}, `networkInterfaces[0].hostDevName: there is no TAP "lo" on this host: make one (ip tuntap add lo mode tap)`},
		{func(c *Config, dir string) { c.Pmem[0].PathOnHost = dir + "/folder" }, "pmem[0].pathOnHost: DIR/folder is a folder: a drive needs a file with a filesystem image, or a block device"},
	} {
		c, dir := hostFiles(t)
		row.change(c, dir)
		err := c.checkFiles(&Options{Arch: cpuarch.X8664})
		if want := strings.ReplaceAll(row.want, "DIR", dir) + " (INVALID_CONFIG)"; err == nil || err.Error() != want {
			t.Errorf("\n got %v\nwant %s", err, want)
		}
	}
}

func TestCheckFilesRefusesMoreMemoryThanTheHostHas(t *testing.T) {
	t.Parallel()
	c, _ := hostFiles(t)
	c.MachineConfig.MemSizeMiB = math.MaxInt32
	err := c.checkFiles(&Options{Arch: cpuarch.X8664})
	if !errors.Is(err, InvalidConfig) || !strings.Contains(err.Error(), "machineConfig.memSizeMib is 2147483647, but this host has ") {
		t.Errorf("got %v", err)
	}
}

func TestCheckFilesReportsEveryFaultAndItsCause(t *testing.T) {
	t.Parallel()
	c, dir := hostFiles(t)
	c.BootSource.KernelImagePath, c.Drives[0].PathOnHost = dir+"/missing", dir+"/folder"
	err := c.checkFiles(&Options{Arch: cpuarch.X8664})
	if err == nil || !strings.HasPrefix(err.Error(), "2 faults\n") || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
