package emulator

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
)

// Guest memory of an x86 Firecracker: below the 32-bit gap, between it and the 64-bit gap, and above (arch/x86_64/layout.rs).
const (
	gap32Start, gap32End = uint64(3 << 30), uint64(4 << 30)
	gap64Start, gap64End = uint64(256 << 30), uint64(512 << 30)
	highMemory           = uint64(1 << 20) // below it is no kernel's entry point
	pageSize             = uint64(4096)
)

// region is a range of guest memory.
type region struct{ start, size uint64 }

// memoryRegions lays out guest memory of that many bytes.
func memoryRegions(size uint64) []region {
	regions := []region{{0, min(size, gap32Start)}}
	if size <= gap32Start {
		return regions
	}
	size -= gap32Start
	middle := gap64Start - gap32End
	regions = append(regions, region{gap32End, min(size, middle)})
	if size <= middle {
		return regions
	}
	return append(regions, region{gap64End, size - middle})
}

// holds tells whether n bytes from address lie in guest memory. Regions that touch count as one.
func holds(regions []region, address, n uint64) bool {
	for _, r := range regions {
		if address >= r.start && address < r.start+r.size {
			return n <= r.start+r.size-address
		}
	}
	return false
}

// The faults of the ELF loader (crate linux_loader, loader/elf/mod.rs).
var (
	errELFHeader      = errors.New("Unable to read elf header")
	errELFMagic       = errors.New("Invalid Elf magic number")
	errELFEndian      = errors.New("Trying to load big-endian binary on little-endian machine")
	errELFPhentsize   = errors.New("Invalid program header size")
	errELFPhoff       = errors.New("Invalid program header offset")
	errELFEntry       = errors.New("Invalid entry address")
	errELFOverflow    = errors.New("Overflow occurred during an arithmetic operation")
	errELFSeekPhdr    = errors.New("Unable to seek to program header")
	errELFPhdr        = errors.New("Unable to read program header")
	errELFSeekKernel  = errors.New("Unable to seek to kernel start")
	errELFImage       = errors.New("Unable to read kernel image")
	errELFSeekNote    = errors.New("Unable to seek to note header")
	errELFNote        = errors.New("Unable to read note header")
	errELFPVH         = errors.New("Invalid PVH note header")
	errMemoryOverflow = errors.New("Kernel Loader: memory to load kernel image is not enough")
)

const (
	elfHeaderSize  = 64
	elfProgramSize = 56
	elfLoad        = 1
	elfNote        = 4
)

// checkKernel tells why a kernel cannot be loaded into memory, without loading it: it reads headers only.
func checkKernel(f *os.File, memory []region) error {
	err := loadable(f, memory)
	if err != nil && err != errMemoryOverflow {
		err = prefix("Kernel Loader: failed to load ELF kernel image: Kernel Loader: ", err)
	}
	return prefix("System configuration error: Cannot load kernel due to invalid memory configuration or invalid kernel image: ", err)
}

func loadable(f *os.File, memory []region) error {
	var header [elfHeaderSize]byte
	if readFull(f, header[:], 0) != nil {
		return errELFHeader
	}
	le := binary.LittleEndian
	entry, phoff := le.Uint64(header[24:]), le.Uint64(header[32:])
	phentsize, phnum := le.Uint16(header[54:]), le.Uint16(header[56:])
	switch {
	case string(header[:4]) != "\x7fELF":
		return errELFMagic
	case header[5] != 1: // ELFDATA2LSB
		return errELFEndian
	case phentsize != elfProgramSize:
		return errELFPhentsize
	case phoff < elfHeaderSize:
		return errELFPhoff
	case entry < highMemory:
		return errELFEntry
	case phoff > math.MaxInt64:
		return errELFSeekPhdr
	}
	headers := make([]byte, int(phnum)*elfProgramSize)
	if readFull(f, headers, phoff) != nil {
		return errELFPhdr
	}
	info, err := f.Stat()
	if err != nil {
		return errELFImage
	}
	for ; len(headers) > 0; headers = headers[elfProgramSize:] {
		if err := loadableSegment(f, headers, uint64(info.Size()), memory); err != nil {
			return err
		}
	}
	return nil
}

func loadableSegment(f *os.File, header []byte, fileSize uint64, memory []region) error {
	le := binary.LittleEndian
	kind, offset, address := le.Uint32(header), le.Uint64(header[8:]), le.Uint64(header[24:])
	inFile, inMemory := le.Uint64(header[32:]), le.Uint64(header[40:])
	if kind != elfLoad || inFile == 0 {
		if kind == elfNote {
			return checkNotes(f, offset, inFile)
		}
		return nil
	}
	switch {
	case offset > math.MaxInt64:
		return errELFSeekKernel
	case !holds(memory, address, inFile) || offset > fileSize || inFile > fileSize-offset:
		return errELFImage
	case address+inMemory < address:
		return errMemoryOverflow
	}
	return nil
}

// checkNotes looks for the note with the PVH entry point and tells what is wrong with the notes before it.
func checkNotes(f *os.File, offset, size uint64) error {
	const (
		noteHeader = 12
		xenEntry   = 18 // XEN_ELFNOTE_PHYS32_ENTRY
	)
	if offset > math.MaxInt64 {
		return errELFSeekNote
	}
	align := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	le := binary.LittleEndian
	for read := uint64(0); read < size; {
		var note [noteHeader]byte
		if readFull(f, note[:], offset+read) != nil {
			return errELFNote
		}
		name, desc := le.Uint32(note[:]), le.Uint32(note[4:])
		if le.Uint32(note[8:]) == xenEntry && name == 4 {
			var text [4]byte
			if readFull(f, text[:], offset+read+noteHeader) != nil {
				return errELFNote
			}
			if string(text[:]) == "Xen\x00" {
				if desc < 4 {
					return errELFPVH
				}
				if readFull(f, text[:], offset+read+noteHeader+4) != nil {
					return errELFNote
				}
				return nil
			}
		}
		if align(name) > math.MaxUint32 || align(desc) > math.MaxUint32 {
			return errELFOverflow
		}
		read += noteHeader + align(name) + align(desc)
	}
	return nil
}

// readFull reads at an offset that came out of a file.
func readFull(f *os.File, b []byte, offset uint64) error {
	if offset > math.MaxInt64 {
		return io.ErrUnexpectedEOF
	}
	_, err := io.ReadFull(io.NewSectionReader(f, int64(offset), int64(len(b))), b)
	return err
}

// checkInitrd tells why an initrd does not fit into the memory below the first gap.
func checkInitrd(f *os.File, memory []region) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return osFault("Error with initrd initialization: Cannot image metadata: ", err)
	case uint64(info.Size()) > memory[0].size:
		return errors.New("Error with initrd initialization: Failed to compute the initrd address..")
	case info.IsDir():
		return errors.New("Error with initrd initialization: Cannot load initrd due to an invalid image: Is a directory (os error 21).")
	case info.Size() == 0:
		return errors.New("Error with initrd initialization: Cannot load initrd due to an invalid memory configuration..")
	}
	return nil
}
