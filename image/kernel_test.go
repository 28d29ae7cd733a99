package image

import (
	"bytes"
	"debug/elf"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"smartvm/internal/cpuarch"
)

func TestKernelsAreUnpackedToWhatFirecrackerBoots(t *testing.T) {
	t.Parallel()
	vmlinux, arm := testVmlinux(""), testImage()
	x86 := Kernel{Format: FormatELF, Arch: cpuarch.X8664, Release: testRelease, Size: int64(len(vmlinux))}
	arm64 := Kernel{Format: FormatImage, Arch: cpuarch.AArch64, Release: testRelease, Size: int64(len(arm))}
	for name, c := range map[string]struct {
		file, want []byte
		is         Kernel
	}{
		"vmlinux":      {vmlinux, vmlinux, x86},
		"bzImage lz4":  {testBzImage(t, lz4Legacy, vmlinux), vmlinux, x86},
		"bzImage zstd": {testBzImage(t, zstded, vmlinux), vmlinux, x86},
		"bzImage gzip": {testBzImage(t, gzipped, vmlinux), vmlinux, x86},
		"Image":        {arm, arm, arm64},
		"Image.gz":     {pack(t, gzipped, arm), arm, arm64},
	} {
		dst := newFile(t)
		got, err := ExtractKernel(t.Context(), dst, bytes.NewReader(c.file), int64(len(c.file)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(c.is, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
		written, err := os.ReadFile(dst.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(written, c.want) {
			t.Errorf("%s: %d bytes come out, not the kernel's %d", name, len(written), len(c.want))
		}
	}
}

func TestABzImageTellsItsReleaseWithoutBeingUnpacked(t *testing.T) {
	t.Parallel()
	file := testBzImage(t, lz4Legacy, testVmlinux(""))
	got, err := InspectKernel(bytes.NewReader(file), int64(len(file)))
	want := Kernel{Format: FormatBzImage, Arch: cpuarch.X8664, Release: testRelease, Size: int64(len(file))}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if got.Bootable() {
		t.Error("a bzImage is called bootable")
	}
}

// helloXz is "hello-kernel\n" packed by xz.
const helloXz = "/Td6WFoAAATm1rRGAgAhARwAAAAQz1jMAQAMaGVsbG8ta2VybmVsCgAAAACnMhQ1naeqRgABJQ1xGcS2H7bzfQEAAAAABFla"

func TestAPayloadThatIsNoKernelIsRefusedAfterUnpacking(t *testing.T) {
	t.Parallel()
	payload, err := base64.StdEncoding.DecodeString(helloXz)
	if err != nil {
		t.Fatal(err)
	}
	file := bzImage(payload, len("hello-kernel\n"), false)
	_, err = ExtractKernel(t.Context(), newFile(t), bytes.NewReader(file), int64(len(file)))
	var not *NotKernelError
	if !errors.As(err, &not) || not.What != "text" {
		t.Errorf("got %v", err)
	}
}

func TestDamagedBzImagesAreRefused(t *testing.T) {
	t.Parallel()
	vmlinux := testVmlinux("")
	good := testBzImage(t, lz4Legacy, vmlinux)
	edit := func(offset int, value uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[offset:], value)
		return b
	}
	old := bytes.Clone(good)
	binary.LittleEndian.PutUint16(old[bootVersionOffset:], 0x207)
	packed := pack(t, lz4Legacy, vmlinux)
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"cut off":           {good[:len(good)/2], "cut off"},
		"offset too large":  {edit(payloadOffsetOffset, 0xffffffff), "cut off"},
		"length too large":  {edit(payloadLengthOffset, 0xffffffff), "cut off"},
		"length of nothing": {edit(payloadLengthOffset, 0), "cut off"},
		"old protocol":      {old, "2.07"},
		"more than it says": {bzImage(packed, len(vmlinux)-1, false), "more than"},
		"less than it says": {bzImage(packed, len(vmlinux)+1, false), "announces"},
		"says too much":     {bzImage(packed, maxKernel+1, false), "bytes"},
		"bzip2":             {bzImage([]byte("BZh91AY&SY    "), 100, false), "bzip2"},
		"lzma":              {bzImage([]byte("\x5d\x00\x00\x00\x04    "), 100, false), "lzma"},
		"lzo":               {bzImage([]byte("\x89LZO\x00\r\n\x1a\n  "), 100, false), "lzo"},
		"unknown":           {bzImage([]byte("????????????"), 100, false), "unknown"},
		"damaged lz4":       {bzImage(append(packed[:40:40], bytes.Repeat([]byte{0xff}, 400)...), len(vmlinux), false), "bzImage"},
	} {
		_, err := ExtractKernel(t.Context(), newFile(t), bytes.NewReader(c.file), int64(len(c.file)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, c.want)
		}
	}
}

func TestAFileThatIsNoKernelIsNamed(t *testing.T) {
	t.Parallel()
	head := func(offset int, magic string) []byte {
		b := make([]byte, 128<<10)
		copy(b[offset:], magic)
		return b
	}
	for want, file := range map[string][]byte{
		"empty":               {},
		"a script":            []byte("#!/bin/sh\n"),
		"text":                []byte("no kernel\n"),
		"zeros":               make([]byte, 4096),
		"an ext4 filesystem":  head(0x438, "\x53\xef"),
		"a squashfs":          head(0, "hsqs"),
		"a btrfs":             head(0x10040, "_BHRfS_M"),
		"a qcow2":             head(0, "QFI\xfb"),
		"cpio":                head(0, "070701"),
		"a Debian package":    arFile(arEntry{"debian-binary", []byte("2.0\n")}),
		"a tar archive":       head(257, "ustar"),
		"boot sector":         head(510, "\x55\xaa"),
		"with zstd":           pack(t, zstded, []byte("initrd")),
		"with gzip":           pack(t, gzipped, []byte("initrd")),
		"EFI zboot":           head(0, "MZ\x00\x00zimg"),
		"a kernel module":     testModule(cpuarch.X8664, testRelease, ""),
		"an ELF program":      elfFile(elf.ET_EXEC, elf.EM_X86_64, "code", nil, elf.PT_GNU_STACK),
		"where Firecracker":   elfFile(elf.ET_EXEC, elf.EM_AARCH64, "code", nil),
		"EM_RISCV":            elfFile(elf.ET_EXEC, elf.EM_RISCV, "code", nil),
		"nothing to load":     elfFile(elf.ET_EXEC, elf.EM_X86_64, "", nil),
		"a damaged ELF":       []byte("\x7fELF\x02\x01\x01"),
		"a core dump":         elfFile(elf.ET_CORE, elf.EM_X86_64, "", nil),
		"f0 9f 92 a9 01 02 0": []byte("\xf0\x9f\x92\xa9\x01\x02\x03\x04"),
	} {
		_, err := InspectKernel(bytes.NewReader(file), int64(len(file)))
		var not *NotKernelError
		if !errors.As(err, &not) || !strings.Contains(not.What, want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestAUnikernelWithoutABannerIsAKernel(t *testing.T) {
	t.Parallel()
	file := elfFile(elf.ET_EXEC, elf.EM_X86_64, "code", nil)
	k, err := InspectKernel(bytes.NewReader(file), int64(len(file)))
	if err != nil || k.Release != "" || !k.Bootable() {
		t.Errorf("got %+v, %v", k, err)
	}
}

func TestTheReleaseIsFoundAcrossTheEdgesOfReads(t *testing.T) {
	t.Parallel()
	const banner = "Linux version " + testRelease + " (x)"
	for shift := -len(banner) - 2; shift < 4; shift++ {
		file := make([]byte, 3<<20)
		copy(file, "Linux version is not this") // what looks like it, and is not
		copy(file[(1<<20)+shift:], banner)
		if got, err := KernelRelease(bytes.NewReader(file), int64(len(file))); got != testRelease || err != nil {
			t.Fatalf("shift %d: %q, %v", shift, got, err)
		}
	}
	file := []byte("Linux version 6.1.0") // cut off: the end is not known
	if got, err := KernelRelease(bytes.NewReader(file), int64(len(file))); got != "" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzExtractKernel(f *testing.F) {
	vmlinux := testVmlinux("")[:8<<10]
	for _, seed := range [][]byte{
		testBzImage(f, lz4Legacy, vmlinux), testBzImage(f, zstded, vmlinux), testBzImage(f, gzipped, vmlinux),
		elfFile(elf.ET_EXEC, elf.EM_X86_64, "Linux version 6.1 (x)", nil), testImage()[:256], pack(f, gzipped, testImage()[:256]),
		bzImage([]byte("BZh91AY&SY    "), 100, false),
	} {
		f.Add(seed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, file []byte) {
		dst, err := os.CreateTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(dst.Name())
		defer dst.Close()
		k, err := ExtractKernel(t.Context(), dst, bytes.NewReader(file), int64(len(file)))
		if err != nil {
			return
		}
		info, err := dst.Stat()
		if err != nil || info.Size() != k.Size || !k.Bootable() || k.Arch == "" {
			t.Errorf("%+v, %v", k, err)
		}
	})
}

func newFile(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
