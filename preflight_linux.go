package smartvm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"smartvm/drive"
	"smartvm/internal/cpuarch"
)

// checkFiles reports everything on this host that would keep the VM from starting: files that are missing, of the
// wrong kind or not to be opened, and memory that is not there. The VMM opens the files again, so this is no guard but
// a clear error before anything is made. Like validate it reports all faults as one error of code [InvalidConfig].
func (c *Config) checkFiles(o *Options) error {
	arch := o.Arch
	v := validation{arch: arch}
	report := func(key string, err error) {
		if err != nil {
			v.faults.add("%s: %w", key, err)
		}
	}
	report("bootSource.kernelImagePath", checkKernel(c.BootSource.KernelImagePath, arch))
	if c.BootSource.InitrdPath != "" {
		report("bootSource.initrdPath", checkInitrd(c.BootSource.InitrdPath))
	}
	for i := range c.Drives {
		d, key := &c.Drives[i], fmt.Sprintf("drives[%d]", i)
		if d.Socket != "" {
			report(key+".socket", checkSocket(d.Socket))
			continue
		}
		if d.BlankMiB != 0 {
			continue
		}
		report(key+".pathOnHost", drive.CheckSource(d.PathOnHost, !d.IsReadOnly && !d.isEphemeral(true)))
	}
	for i := range c.Pmem {
		report(fmt.Sprintf("pmem[%d].pathOnHost", i), drive.CheckSource(c.Pmem[i].PathOnHost, !c.Pmem[i].ReadOnly))
	}
	c.checkNetwork(o.jailed(), report)
	report("limits", c.Limits.checkHost(o.DataDir))
	report("limits", c.Limits.checkProcess(o.jailed()))
	report("limits", c.checkOutputs())
	v.hostMemory(c.MachineConfig.MemSizeMiB)
	return v.faults.err()
}

// hostMemory refuses more memory than the host has in all. Less than that may still be too much: other VMs use some.
func (v *validation) hostMemory(want int) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return
	}
	if has := int64(uint64(info.Totalram) * uint64(info.Unit) >> 20); int64(want) > has {
		v.add("machineConfig.memSizeMib", "is %d, but this host has %d MiB", want, has)
	}
}

// openRegular opens a file that must be a regular one with something in it. O_NONBLOCK: a FIFO must not hold us up.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("%w: give the user with id %d access to it and to the folders above it", err, os.Geteuid())
		}
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = fmt.Errorf("%s is a folder", path)
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is no regular file", path)
	case info.Size() == 0:
		err = fmt.Errorf("%s is empty", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func checkInitrd(path string) error {
	f, err := openRegular(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func checkSocket(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is no socket: start the vhost-user back end first", path)
	}
	return nil
}

func checkKernel(path, arch string) error {
	f, err := openRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 1024)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if fault := kernelFault(head[:n], arch); fault != "" {
		return fmt.Errorf("%s %s", path, fault)
	}
	return nil
}

// kernelFault says why Firecracker would not boot a kernel that begins with head: it takes an ELF file on x86_64 and
// an Image on aarch64. What people take by mistake is called by its name.
func kernelFault(head []byte, arch string) string {
	const unpacked = "smartvm image build takes the kernel out of a distribution's package"
	magicAt := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	isELF := magicAt(0, elf.ELFMAG) && len(head) >= 20
	isImage := magicAt(56, "ARM\x64") // Documentation/arch/arm64/booting.rst
	switch {
	case arch == cpuarch.X8664 && isELF:
		return elfFault(head)
	case arch == cpuarch.AArch64 && isImage:
		return ""
	case isImage:
		return "is a kernel for aarch64, the VM is " + arch
	case isELF:
		return "is an ELF file: on aarch64 the VMM needs the kernel's `Image`"
	case magicAt(0x202, "HdrS"): // Documentation/arch/x86/boot.rst
		return "is a compressed kernel (bzImage): the VMM needs the uncompressed `vmlinux`; " + unpacked
	case magicAt(0, "\x1f\x8b"), magicAt(0, "\x28\xb5\x2f\xfd"), magicAt(0, "\xfd7zXZ"), magicAt(0, "\x02\x21\x4c\x18"):
		return "is compressed: unpack it first"
	case arch == cpuarch.AArch64:
		return "is no kernel: want an `Image` for aarch64; " + unpacked
	default:
		return "is no kernel: want an uncompressed ELF `vmlinux`; " + unpacked
	}
}

// elfFault looks at what Firecracker's loader looks at, and at the machine, which it does not: a kernel for another one
// would start and do nothing.
func elfFault(head []byte) string {
	const machineOffset = 18 // e_machine of elf(5)
	machine := elf.Machine(binary.LittleEndian.Uint16(head[machineOffset:]))
	switch {
	case !bytes.Equal(head[elf.EI_CLASS:elf.EI_DATA+1], []byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)}):
		return "is no 64-bit kernel for x86_64"
	case machine != elf.EM_X86_64:
		return fmt.Sprintf("is an ELF file for %s, the VM is x86_64", machine)
	}
	return ""
}
