package image

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"smartvm/internal/cpuarch"
)

// Format is what a kernel file is.
type Format string

// The formats that are understood. Firecracker 1.16 boots FormatELF on x86_64 and FormatImage on aarch64; the others
// hold one of these two, and ExtractKernel unpacks them.
const (
	FormatELF       Format = "ELF"        // x86_64: vmlinux
	FormatBzImage   Format = "bzImage"    // x86_64: vmlinuz, a compressed vmlinux behind a loader
	FormatImage     Format = "Image"      // aarch64
	FormatImageGzip Format = "Image.gz"   // aarch64
	formatZboot     Format = "EFI zboot"  // aarch64: Image behind an EFI loader; not supported
	formatNone      Format = "not kernel" // anything else
)

// maxKernel bounds an unpacked kernel, in bytes. Debian's are 50 to 60 MB, one with debug information some 400 MB.
const maxKernel = 1 << 30

// Kernel says what a kernel file is.
type Kernel struct {
	Format  Format
	Arch    string // cpuarch.X8664 or cpuarch.AArch64
	Release string // as `uname -r` prints it; "" where the file does not tell without being unpacked
	Size    int64  // of the file that was looked at, in bytes
}

// Bootable reports whether Firecracker 1.16 takes the file as it is.
func (k Kernel) Bootable() bool { return k.Format == FormatELF || k.Format == FormatImage }

// NotKernelError says that a file is no kernel that could be booted, and what it is instead.
type NotKernelError struct {
	What string // "an ext4 filesystem", "empty", …
}

func (e *NotKernelError) Error() string {
	return "no kernel that Firecracker could boot: it is " + e.What + " (wanted: an x86_64 vmlinux or bzImage, or an aarch64 Image)"
}

// InspectKernel tells what the kernel file src of size bytes is. It unpacks nothing. A file that is no kernel is a
// *NotKernelError.
func InspectKernel(src io.ReaderAt, size int64) (Kernel, error) {
	head, err := readHead(src, size)
	if err != nil {
		return Kernel{}, err
	}
	k := Kernel{Format: formatOf(head), Size: size}
	switch k.Format {
	case FormatELF:
		k.Arch = cpuarch.X8664
		k.Release, err = inspectELF(src, size)
	case FormatBzImage:
		k.Arch = cpuarch.X8664
		k.Release = bzImageRelease(src, head)
		_, err = readBzImage(src, size, head)
	case FormatImage:
		k.Arch = cpuarch.AArch64
		k.Release, err = KernelRelease(src, size)
	case FormatImageGzip:
		k.Arch = cpuarch.AArch64
	case formatZboot:
		err = &NotKernelError{What: "an EFI zboot image, whose loader needs EFI: give the Image that it was made from"}
	default:
		err = &NotKernelError{What: describe(head, size)}
	}
	if err != nil {
		return Kernel{}, err
	}
	return k, nil
}

// KernelFile is what ExtractKernel writes to: an *os.File opened for reading and writing, empty.
type KernelFile interface {
	io.Writer
	io.ReaderAt
}

// ExtractKernel writes to dst the kernel that the file src of size bytes holds, in the form that Firecracker boots: the
// ELF out of a bzImage, the Image out of an Image.gz; an ELF or Image as it is. It says what it has written. A file that
// is no kernel is a *NotKernelError; dst holds no kernel after any error.
func ExtractKernel(ctx context.Context, dst KernelFile, src io.ReaderAt, size int64) (Kernel, error) {
	in, err := InspectKernel(src, size)
	if err != nil {
		return Kernel{}, err
	}
	var written int64
	switch in.Format {
	case FormatBzImage:
		written, err = extractBzImage(ctx, dst, src, size)
	case FormatImageGzip:
		written, err = extractGzip(ctx, dst, src, size)
	default:
		written, err = copyContext(ctx, dst, io.NewSectionReader(src, 0, size))
	}
	if err != nil {
		return Kernel{}, fmt.Errorf("unpack the %s: %w", in.Format, err)
	}
	out, err := InspectKernel(dst, written)
	if err != nil {
		return Kernel{}, fmt.Errorf("unpack the %s: the result is %w", in.Format, err)
	}
	if !out.Bootable() {
		return Kernel{}, fmt.Errorf("unpack the %s: the result is a %s again", in.Format, out.Format)
	}
	return out, nil
}

// The fields of the x86 setup header that are used here: Documentation/arch/x86/boot.rst in the kernel's source.
const (
	setupSectsOffset    = 0x1f1 // length of the real-mode part in sectors, without the first; 0 means 4
	bootFlagOffset      = 0x1fe // 0xaa55
	headerMagicOffset   = 0x202 // "HdrS"
	bootVersionOffset   = 0x206 // 0x208 brought the payload's fields
	releaseOffset       = 0x20e // where the release is, less 0x200
	payloadOffsetOffset = 0x248 // counted from the end of the real-mode part
	payloadLengthOffset = 0x24c
	setupHeaderEnd      = 0x250
	sector              = 512
)

// payload is where a bzImage keeps its vmlinux.
type payload struct {
	codec    codec
	data     *io.SectionReader
	unpacked int64 // size that the file says
}

// readBzImage finds and checks the payload. head is the file's beginning.
func readBzImage(src io.ReaderAt, size int64, head []byte) (payload, error) {
	if version := binary.LittleEndian.Uint16(head[bootVersionOffset:]); version < 0x208 {
		return payload{}, fmt.Errorf("the bzImage has boot protocol %d.%02d, from before Linux 2.6.26: it does not say where its vmlinux is",
			version>>8, version&0xff)
	}
	length := int64(binary.LittleEndian.Uint32(head[payloadLengthOffset:]))
	start := setupSize(head) + int64(binary.LittleEndian.Uint32(head[payloadOffsetOffset:]))
	const trailer = 4
	if length <= trailer || start+length > size {
		return payload{}, fmt.Errorf("the bzImage is cut off or damaged: its vmlinux would be at bytes %d to %d of %d", start, start+length, size)
	}
	var magic [8]byte
	if _, err := src.ReadAt(magic[:min(length, 8)], start); err != nil {
		return payload{}, fmt.Errorf("read the bzImage: %w", err)
	}
	c := codecOf(magic[:])
	switch c {
	case gzipped, xzed, zstded, lz4Legacy:
	case "":
		return payload{}, fmt.Errorf("the bzImage's vmlinux is compressed in an unknown way (it begins with % x)", magic)
	default:
		return payload{}, fmt.Errorf("the bzImage's vmlinux is compressed with %s, which is not supported: gzip, xz, zstd and lz4 are", c)
	}
	// The last four bytes are the unpacked size. All but gzip, which has it there anyway, got it appended by the
	// kernel's build (size_append in scripts/Makefile.lib), and a zstd decoder trips over it.
	var tail [trailer]byte
	if _, err := src.ReadAt(tail[:], start+length-trailer); err != nil {
		return payload{}, fmt.Errorf("read the bzImage: %w", err)
	}
	if c != gzipped {
		length -= trailer
	}
	p := payload{codec: c, data: io.NewSectionReader(src, start, length), unpacked: int64(binary.LittleEndian.Uint32(tail[:]))}
	if p.unpacked > maxKernel {
		return payload{}, fmt.Errorf("the bzImage is damaged: it says that its vmlinux has %d bytes", p.unpacked)
	}
	return p, nil
}

// setupSize is the length of the real-mode part in bytes.
func setupSize(head []byte) int64 {
	sects := int64(head[setupSectsOffset])
	if sects == 0 {
		sects = 4
	}
	return (sects + 1) * sector
}

// bzImageRelease reads the release out of the real-mode part; "" when it is not there.
func bzImageRelease(src io.ReaderAt, head []byte) string {
	offset := int64(binary.LittleEndian.Uint16(head[releaseOffset:]))
	if offset == 0 || offset+0x200 >= setupSize(head) {
		return ""
	}
	buf := make([]byte, maxRelease+1)
	n, _ := src.ReadAt(buf, offset+0x200) // what is missing shows as no release
	release, _ := cutRelease(buf[:n])
	return release
}

func extractBzImage(ctx context.Context, dst io.Writer, src io.ReaderAt, size int64) (int64, error) {
	head, err := readHead(src, size)
	if err != nil {
		return 0, err
	}
	p, err := readBzImage(src, size, head)
	if err != nil {
		return 0, err
	}
	zr, err := decompress(p.codec, p.data)
	if err != nil {
		return 0, err
	}
	defer zr.Close()
	n, err := copyContext(ctx, dst, bounded(zr, p.unpacked))
	if errors.Is(err, errTooLarge) {
		return n, fmt.Errorf("damaged: more than the %d bytes that its end announces", p.unpacked)
	}
	if err != nil {
		return n, err
	}
	if n != p.unpacked {
		return n, fmt.Errorf("damaged: %d bytes where its end announces %d", n, p.unpacked)
	}
	return n, nil
}

func extractGzip(ctx context.Context, dst io.Writer, src io.ReaderAt, size int64) (int64, error) {
	zr, err := decompress(gzipped, io.NewSectionReader(src, 0, size))
	if err != nil {
		return 0, err
	}
	defer zr.Close()
	return copyContext(ctx, dst, bounded(zr, maxKernel))
}

// inspectELF checks that an ELF file is a kernel that an x86_64 Firecracker loads, and returns its release.
func inspectELF(src io.ReaderAt, size int64) (release string, err error) {
	f, err := elf.NewFile(io.NewSectionReader(src, 0, size))
	if err != nil {
		return "", &NotKernelError{What: "a damaged ELF file: " + err.Error()}
	}
	defer f.Close()
	switch {
	case f.Type == elf.ET_REL:
		return "", &NotKernelError{What: "an ELF object file (a kernel module?)"}
	case f.Type == elf.ET_CORE:
		return "", &NotKernelError{What: "a core dump"}
	case f.Machine == elf.EM_AARCH64:
		return "", &NotKernelError{What: "an ELF file for aarch64, where Firecracker boots an Image"}
	case f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64:
		return "", &NotKernelError{What: fmt.Sprintf("an ELF file for another machine (%v)", f.Machine)}
	}
	loads, program := 0, false
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_LOAD:
			loads++
		case elf.PT_INTERP, elf.PT_TLS, elf.PT_GNU_STACK:
			program = true // a kernel has none of these
		}
	}
	if loads == 0 {
		return "", &NotKernelError{What: "an ELF file with nothing to load"}
	}
	release, err = KernelRelease(src, size)
	if release == "" && program && err == nil {
		return "", &NotKernelError{What: "an ELF program"}
	}
	return release, err
}

// maxRelease is the longest release: __NEW_UTS_LEN in the kernel's uapi/linux/utsname.h.
const maxRelease = 64

// KernelRelease finds in an unpacked kernel the release that `uname -r` will print: what stands behind "Linux version"
// in its banner. A kernel without one, such as a unikernel, gives "". A module fits if its vermagic ([ModuleRelease])
// names the same release.
func KernelRelease(src io.ReaderAt, size int64) (string, error) {
	banner := []byte("Linux version ")
	overlap := len(banner) + maxRelease + 1
	buf := make([]byte, 1<<20)
	for offset := int64(0); offset < size; offset += int64(len(buf) - overlap) {
		n, err := src.ReadAt(buf[:min(int64(len(buf)), size-offset)], offset)
		if err != nil && err != io.EOF {
			return "", fmt.Errorf("look for the kernel's release: %w", err)
		}
		for rest := buf[:n]; ; {
			_, after, found := bytes.Cut(rest, banner)
			if !found {
				break
			}
			if release, ok := cutRelease(after); ok {
				return release, nil
			}
			rest = after
		}
		if n < len(buf) {
			break
		}
	}
	return "", nil
}

// cutRelease returns the release that b begins with: printable, from a digit to a blank.
func cutRelease(b []byte) (string, bool) {
	b = b[:min(len(b), maxRelease+1)]
	end := bytes.IndexByte(b, ' ')
	if end <= 0 || b[0] < '0' || b[0] > '9' {
		return "", false
	}
	for _, c := range b[:end] {
		if c <= ' ' || c > '~' || c == '/' {
			return "", false
		}
	}
	return string(b[:end]), true
}

// copyContext is io.Copy that ends when ctx does.
func copyContext(ctx context.Context, dst io.Writer, src io.Reader) (int64, error) {
	buf := make([]byte, 256<<10)
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, ctx.Err()
		}
		n, err := src.Read(buf)
		if n > 0 {
			w, werr := dst.Write(buf[:n])
			total += int64(w)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
