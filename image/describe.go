package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"unicode/utf8"
)

// headSize is how much of a file tells what it is: btrfs has its signature as far in as 64 KiB.
const headSize = 0x10048

// readHead reads a file's beginning, filled up with zeros to headSize.
func readHead(src io.ReaderAt, size int64) ([]byte, error) {
	head := make([]byte, headSize)
	n := min(size, headSize)
	if n <= 0 {
		return head, nil
	}
	if _, err := src.ReadAt(head[:n], 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read the file's beginning: %w", err)
	}
	return head, nil
}

// formatOf tells a kernel's format by its beginning. A bzImage and an Image may both begin with EFI's "MZ".
func formatOf(head []byte) Format {
	switch {
	case at(head, headerMagicOffset, "HdrS") && binary.LittleEndian.Uint16(head[bootFlagOffset:]) == 0xaa55:
		return FormatBzImage
	case at(head, 0x38, "ARM\x64"): // Documentation/arch/arm64/booting.rst
		return FormatImage
	case at(head, 0, "MZ") && at(head, 4, "zimg"): // drivers/firmware/efi/libstub/zboot-header.S
		return formatZboot
	case at(head, 0, elfMagic):
		return FormatELF
	case isImageGzip(head):
		return FormatImageGzip
	}
	return formatNone
}

const elfMagic = "\x7fELF"

// isImageGzip reports whether head begins gzip data that unpacks to an arm64 Image.
func isImageGzip(head []byte) bool {
	if codecOf(head) != gzipped {
		return false
	}
	zr, err := decompress(gzipped, bytes.NewReader(head))
	if err != nil {
		return false
	}
	defer zr.Close()
	var start [0x40]byte
	_, err = io.ReadFull(zr, start[:])
	return err == nil && at(start[:], 0x38, "ARM\x64")
}

// describe says what a file that is no kernel is, from its beginning.
func describe(head []byte, size int64) string {
	if size == 0 {
		return "empty"
	}
	for _, known := range []struct {
		offset int
		magic  string
		what   string
	}{
		{0x438, "\x53\xef", "an ext4 filesystem"},
		{0, "hsqs", "a squashfs filesystem"},
		{1024, "\xe2\xe1\xf5\xe0", "an erofs filesystem"},
		{0, "XFSB", "an XFS filesystem"},
		{0x10040, "_BHRfS_M", "a btrfs filesystem"},
		{0x8001, "CD001", "an ISO 9660 image"},
		{0, "QFI\xfb", "a qcow2 disk image"},
		{0, "070701", "a cpio archive (an initrd?)"},
		{0, "!<arch>\ndebian-binary", "a Debian package"},
		{257, "ustar", "a tar archive"},
		{0, "PK\x03\x04", "a zip archive"},
		{0, "#!", "a script"},
		{0, "MZ", "an EFI or Windows program"},
		{510, "\x55\xaa", "a disk image or boot sector"},
	} {
		if at(head, known.offset, known.magic) {
			return known.what
		}
	}
	if c := codecOf(head); c != "" {
		return fmt.Sprintf("data compressed with %s (an initrd?)", c)
	}
	sample := head[:min(size, 512)]
	if len(bytes.Trim(sample, "\x00")) == 0 {
		return "zeros at its beginning"
	}
	if utf8.Valid(sample) && bytes.IndexFunc(sample, func(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' }) < 0 {
		return "text"
	}
	return fmt.Sprintf("a file of an unknown kind (it begins with % x)", sample[:min(len(sample), 8)])
}

func at(b []byte, offset int, magic string) bool {
	return len(b) >= offset+len(magic) && string(b[offset:offset+len(magic)]) == magic
}
