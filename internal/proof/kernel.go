package proof

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"testing"
)

// WriteKernel writes Kernel to a file.
func WriteKernel(tb testing.TB, path string) {
	tb.Helper()
	if err := os.WriteFile(path, Kernel(), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// Kernel returns the smallest kernel that Firecracker boots on x86_64: an ELF executable with one segment at 1 MiB
// that halts for ever. Its note names the same place as PVH entry (XEN_ELFNOTE_PHYS32_ENTRY), as a Linux kernel's does.
// Nothing ever comes up with it.
func Kernel() []byte {
	const (
		entry, codeAt = 0x100000, 0x1000
		headerSize    = 64
		segmentSize   = 56
		noteAt        = headerSize + 2*segmentSize
	)
	header := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: entry, Phoff: headerSize, Ehsize: headerSize, Phentsize: segmentSize, Phnum: 2, Shentsize: 64,
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	code := []byte{0xf4, 0xeb, 0xfd} // hlt; jmp -3
	note := struct {
		NameSize, ValueSize, Type uint32
		Name                      [4]byte
		Entry                     uint64
	}{4, 8, 18, [4]byte{'X', 'e', 'n'}, entry}
	noteSize := uint64(binary.Size(note))
	segments := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: codeAt, Vaddr: entry, Paddr: entry,
			Filesz: uint64(len(code)), Memsz: 0x1000, Align: 0x1000},
		{Type: uint32(elf.PT_NOTE), Flags: uint32(elf.PF_R), Off: noteAt, Vaddr: entry, Paddr: entry,
			Filesz: noteSize, Memsz: noteSize, Align: 4},
	}
	var file bytes.Buffer
	for _, part := range []any{header, segments, note} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			panic(err) // these structs have a fixed size
		}
	}
	file.Write(make([]byte, codeAt-file.Len()))
	file.Write(code)
	return file.Bytes()
}
