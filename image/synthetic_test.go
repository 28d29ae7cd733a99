package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"smartvm/internal/cpuarch"
)

// The tests' own kernels, modules and packages: small, and as the real ones are built.

const testRelease = "6.1.0-99-cloud-test"

// elfFile makes an ELF file with a segment that holds text, and with sections by name.
func elfFile(kind elf.Type, machine elf.Machine, text string, sections map[string]string, segments ...elf.ProgType) []byte {
	const headerSize, progSize, sectSize = 64, 56, 64
	names := []string{""}
	data := map[string]string{"": "", ".shstrtab": ""}
	maps.Copy(data, sections)
	names = append(names, slices.Sorted(maps.Keys(sections))...)
	names = append(names, ".shstrtab")
	strtab, nameAt := "", map[string]uint32{}
	for _, name := range names {
		nameAt[name] = uint32(len(strtab))
		strtab += name + "\x00"
	}
	data[".shstrtab"] = strtab
	if text != "" {
		segments = append(segments, elf.PT_LOAD)
	}
	at := uint64(headerSize + progSize*len(segments))
	body := text
	var heads []elf.Section64
	for i, name := range names {
		h := elf.Section64{Name: nameAt[name], Off: at + uint64(len(body)), Size: uint64(len(data[name]))}
		switch {
		case name == ".shstrtab":
			h.Type = uint32(elf.SHT_STRTAB)
		case i > 0:
			h.Type = uint32(elf.SHT_PROGBITS)
		}
		body += data[name]
		heads = append(heads, h)
	}
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(kind), Machine: uint16(machine), Version: 1, Phoff: headerSize, Shoff: at + uint64(len(body)),
		Ehsize: headerSize, Phentsize: progSize, Phnum: uint16(len(segments)), Shentsize: sectSize, Shnum: uint16(len(heads)), Shstrndx: uint16(len(heads) - 1)}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	binary.Write(&b, binary.LittleEndian, h)
	for _, kind := range segments {
		binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(kind), Off: at, Filesz: uint64(len(text)), Memsz: uint64(len(text)), Paddr: 1 << 20})
	}
	b.WriteString(body)
	for _, head := range heads {
		binary.Write(&b, binary.LittleEndian, head)
	}
	return b.Bytes()
}

var machines = map[string]elf.Machine{cpuarch.X8664: elf.EM_X86_64, cpuarch.AArch64: elf.EM_AARCH64}

// testVmlinux is an x86_64 kernel; extra makes one kernel differ from another.
func testVmlinux(extra string) []byte {
	text := strings.Repeat("\x90\x90\xc3\x00", 64<<10) + "Linux version %s (%s)\x00Linux version " + testRelease + " (debian-kernel@lists.debian.org)\x00" + extra
	return elfFile(elf.ET_EXEC, elf.EM_X86_64, text, nil)
}

// testImage is an aarch64 kernel.
func testImage() []byte {
	b := make([]byte, 200<<10)
	copy(b, "MZ")
	copy(b[0x38:], "ARM\x64")
	return append(b, "Linux version "+testRelease+" (debian-kernel@lists.debian.org)\x00"...)
}

// testModule is a kernel module.
func testModule(arch, release, info string) []byte {
	modinfo := "license=GPL\x00" + info + "\x00vermagic=" + release + " SMP preempt mod_unload modversions \x00"
	return elfFile(elf.ET_REL, machines[arch], "", map[string]string{".modinfo": modinfo})
}

// testProgram is a static program.
func testProgram(arch, text string) []byte {
	return elfFile(elf.ET_EXEC, machines[arch], text, nil)
}

// pack compresses data; for the kernel's own ways the size is appended, as its build does.
func pack(t testing.TB, c codec, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch c {
	case gzipped:
		w = gzip.NewWriter(&b)
	case zstded:
		w, _ = zstd.NewWriter(&b)
	case lz4Legacy:
		lw := lz4.NewWriter(&b)
		if err := lw.Apply(lz4.LegacyOption(true)); err != nil {
			t.Fatal(err)
		}
		w = lw
	default:
		t.Fatalf("no encoder for %s here", c)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// bzImage wraps a payload, without its size at the end, as the kernel's build does.
func bzImage(payload []byte, unpacked int, hasSize bool) []byte {
	const setupSects = 3
	b := make([]byte, (setupSects+1)*sector)
	b[setupSectsOffset] = setupSects
	copy(b, "MZ")
	binary.LittleEndian.PutUint16(b[bootFlagOffset:], 0xaa55)
	copy(b[headerMagicOffset:], "HdrS")
	binary.LittleEndian.PutUint16(b[bootVersionOffset:], 0x20f)
	binary.LittleEndian.PutUint16(b[releaseOffset:], 0x300-0x200)
	copy(b[0x300:], testRelease+" (debian-kernel@lists.debian.org) #1 SMP\x00")
	const gap = 0x2c4
	if !hasSize {
		payload = binary.LittleEndian.AppendUint32(bytes.Clone(payload), uint32(unpacked))
	}
	binary.LittleEndian.PutUint32(b[payloadOffsetOffset:], gap)
	binary.LittleEndian.PutUint32(b[payloadLengthOffset:], uint32(len(payload)))
	b = append(b, make([]byte, gap)...)
	b = append(b, payload...)
	return append(b, "signature and padding"...)
}

func testBzImage(t testing.TB, c codec, vmlinux []byte) []byte {
	return bzImage(pack(t, c, vmlinux), len(vmlinux), c == gzipped)
}

// testPackage gives the files of a kernel's package, by path.
func testPackage(t testing.TB, arch string) map[string][]byte {
	kernel := testImage()
	if arch == cpuarch.X8664 {
		kernel = testBzImage(t, lz4Legacy, testVmlinux(""))
	}
	files := map[string][]byte{
		"boot/vmlinuz-" + testRelease:                             kernel,
		"boot/config-" + testRelease:                              []byte("CONFIG_X=y\n"),
		"usr/share/doc/linux-image-" + testRelease + "/copyright": []byte("GPL-2\n"),
		"bin/busybox": testProgram(arch, "\x00[\x00[[\x00cat\x00ls\x00sh\x00modprobe\x00"),
	}
	modules := "lib/modules/" + testRelease + "/"
	files[modules+"modules.builtin"] = []byte("kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n")
	for path, info := range map[string]string{
		"kernel/drivers/virtio/virtio.ko":           "depends=",
		"kernel/drivers/virtio/virtio_ring.ko":      "depends=",
		"kernel/drivers/virtio/virtio_mmio.ko":      "depends=virtio,virtio_ring",
		"kernel/drivers/block/virtio_blk.ko":        "depends=virtio,virtio_ring\x00alias=virtio:d00000002v*",
		"kernel/drivers/char/virtio_console.ko":     "depends=virtio_ring,virtio",
		"kernel/drivers/char/virtio-rng.ko":         "depends=virtio",
		"kernel/net/vmw_vsock/vsock.ko":             "depends=",
		"kernel/net/vmw_vsock/transport_common.ko":  "depends=vsock,virtio",
		"kernel/net/vmw_vsock/transport.ko":         "depends=transport-common",
		"kernel/drivers/net/virtio_net.ko":          "depends=virtio_ring,net_failover",
		"kernel/drivers/net/net_failover.ko":        "depends=failover",
		"kernel/net/core/failover.ko":               "depends=",
		"kernel/fs/overlayfs/overlay.ko":            "depends=\x00alias=fs-overlay",
		"kernel/fs/squashfs/squashfs.ko":            "depends=\x00softdep=pre: crypto-x libx post: late\x00alias=fs-squashfs",
		"kernel/lib/libx.ko":                        "depends=",
		"kernel/drivers/net/ethernet/unwanted.ko":   "depends=nothing_that_exists",
		"kernel/drivers/net/ethernet/virtio_net.md": "",
	} {
		path = strings.Replace(path, "/transport", "/vmw_vsock_virtio_transport", 1)
		info = strings.Replace(info, "depends=transport-common", "depends=vmw-vsock-virtio-transport-common,vsock", 1)
		files[modules+path] = testModule(arch, testRelease, info)
	}
	return files
}

// debFile makes a .deb from files; more are further members of its data archive.
func debFile(t testing.TB, c codec, name string, files map[string][]byte, more ...tar.Header) []byte {
	t.Helper()
	control := tarFile(t, map[string][]byte{"./control": []byte("Package: " + name + "\nVersion: 1:6.1-2\nArchitecture: amd64\nDescription: a test\n of a package\n")})
	data := tarFile(t, files, more...)
	suffix := map[codec]string{gzipped: ".gz", zstded: ".zst", "": ""}[c]
	if c != "" {
		control, data = pack(t, c, control), pack(t, c, data)
	}
	return arFile(arEntry{"debian-binary", []byte("2.0\n")}, arEntry{"control.tar" + suffix, control}, arEntry{"data.tar" + suffix, data})
}

type arEntry struct {
	name string
	data []byte
}

func arFile(entries ...arEntry) []byte {
	b := []byte(arMagic)
	for _, e := range entries {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", e.name, 0, 0, 0, "100644", len(e.data))
		b = append(b, e.data...)
		if len(e.data)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

func tarFile(t testing.TB, files map[string][]byte, more ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[name]); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range more {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// folder writes files into a new folder and returns its path.
func folder(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// dynamicProgram is a program that needs shared libraries.
func dynamicProgram() []byte {
	return elfFile(elf.ET_DYN, elf.EM_X86_64, "code", nil, elf.PT_INTERP)
}
