package emulator

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// A state file is the emulator's own container; Firecracker cannot load it, nor the emulator Firecracker's:
//
//	8 bytes   stateMagic
//	4 bytes   length of the header, little endian
//	          the header: a savedVM as JSON
//	          what the machine wrote
//	32 bytes  SHA-256 of everything before
const (
	stateMagic = "SMVMEMU\x01"
	// stateFormat changes when an older emulator cannot read the header any more.
	stateFormat = 1
	// maxState bounds a state file. QEMU's is some 100 kB; guest memory is not in it.
	maxState = 64 << 20
)

// savedVM is the API's part of a snapshot.
type savedVM struct {
	Format  int    `json:"format"`
	Version string `json:"version"`
	Machine string `json:"machine"` // null or qemu: each loads its own only

	Config vmConfig `json:"config"`
	// Hotplugged devices and PCI come back as they were.
	PCI bool `json:"pci"`
	// Balloon is what the balloon's device remembers beside its configuration; nil in older states.
	Balloon *savedBalloon `json:"balloon,omitempty"`
}

// writeState writes a state file; save writes the machine's part.
func writeState(f io.Writer, vm savedVM, save func(io.Writer) error) error {
	header, err := json.Marshal(vm)
	if err != nil {
		return err
	}
	sum := sha256.New()
	w := io.MultiWriter(f, sum)
	prologue := binary.LittleEndian.AppendUint32([]byte(stateMagic), uint32(len(header)))
	if _, err := w.Write(append(prologue, header...)); err != nil {
		return err
	}
	if err := save(w); err != nil {
		return err
	}
	_, err = f.Write(sum.Sum(nil))
	return err
}

// The faults of a state file, in Firecracker's words where it has such a fault.
var (
	errStateShort = errors.New("IO Error: File too short to contain CRC")
	errStateSum   = errors.New("CRC64 validation failed")
)

// readState reads a state file and returns the machine's part. machine is the name of the one that shall load it.
func readState(path, machine string) (savedVM, io.Reader, error) {
	var vm savedVM
	f, err := openFile(path, true)
	if err != nil {
		return vm, nil, osFault("Failed to open snapshot file: ", err)
	}
	defer f.Close()
	const words = "Failed to load snapshot state from file: "
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return vm, nil, osFault(words+"IO Error: ", err)
	}
	blob, err := vm.parse(data, machine)
	return vm, blob, prefix(words, err)
}

func (vm *savedVM) parse(data []byte, machine string) (io.Reader, error) {
	const prologue = len(stateMagic) + 4
	switch {
	case len(data) > maxState:
		return nil, fmt.Errorf("Snapshot size exceeds limit of %d bytes", maxState)
	case len(data) < 8:
		return nil, errStateShort
	case !bytes.HasPrefix(data, []byte(stateMagic)):
		if isFirecrackerState(data) {
			return nil, errors.New("An error occurred during bitcode serialization: this is a state of Firecracker " +
				"itself, which the Firecracker emulator cannot load; restore it with Firecracker")
		}
		return nil, errors.New("An error occurred during bitcode serialization: bitcode error") // as Firecracker says of any other file
	case len(data) < prologue+sha256.Size:
		return nil, errStateShort
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if want := sha256.Sum256(body); !bytes.Equal(want[:], sum) {
		return nil, errStateSum
	}
	n := binary.LittleEndian.Uint32(body[len(stateMagic):])
	body = body[prologue:]
	if uint64(n) > uint64(len(body)) {
		return nil, errStateShort
	}
	if err := json.Unmarshal(body[:n], vm); err != nil {
		return nil, fmt.Errorf("An error occurred during bitcode serialization: %w", err)
	}
	switch {
	case vm.Format != stateFormat:
		return nil, fmt.Errorf("Invalid data version: %d.0.0", vm.Format)
	case vm.Machine != machine:
		return nil, fmt.Errorf("Invalid data version: this is a state of the emulator's machine %q, and this one is %q", vm.Machine, machine)
	}
	return bytes.NewReader(body[n:]), nil
}

// isFirecrackerState recognises a state file of Firecracker on x86 by its magic number (SNAPSHOT_MAGIC_ID), which
// bitcode puts behind one byte of its own.
func isFirecrackerState(data []byte) bool {
	const magic, at = 0x0710198486640000, 1
	return len(data) >= at+8 && binary.LittleEndian.Uint64(data[at:]) == magic
}

// createOutput makes or empties the file of a snapshot's state.
func createOutput(path string) (*os.File, error) {
	if bytes.IndexByte([]byte(path), 0) >= 0 {
		return nil, errNUL
	}
	return os.Create(path)
}
