package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// blockDevice finds the device that `root=` names, waiting for it: /dev/…, or PARTUUID=… as Firecracker passes it.
func blockDevice(spec string) (string, error) {
	id, byID := strings.CutPrefix(spec, "PARTUUID=")
	path := spec
	found := func() bool {
		if byID {
			path = partition(id)
		}
		info, err := os.Stat(path)
		return path != "" && err == nil && info.Mode()&os.ModeDevice != 0
	}
	if !byID && !strings.HasPrefix(spec, "/dev/") {
		return "", fmt.Errorf("%q: only /dev/… and PARTUUID=… are known", spec)
	}
	if err := await(found); err != nil {
		return "", fmt.Errorf("%s: %w", spec, err)
	}
	return path, nil
}

// partition finds a partition by its PARTUUID: for GPT the UUID in its entry, for MBR the disk's signature and the
// partition's number, each in lower case.
func partition(id string) string {
	entries, err := filepath.Glob("/sys/class/block/*/partition")
	if err != nil {
		return ""
	}
	for _, entry := range entries {
		var number int
		b, err := os.ReadFile(entry)
		if err != nil {
			continue
		}
		if _, err := fmt.Sscan(string(b), &number); err != nil {
			continue
		}
		// /sys/class/block/vda1 leads to …/block/vda/vda1.
		real, err := filepath.EvalSymlinks(filepath.Dir(entry))
		if err != nil {
			continue
		}
		disk, err := os.Open("/dev/" + filepath.Base(filepath.Dir(real)))
		if err != nil {
			continue
		}
		match := strings.EqualFold(partitionID(disk, number), id)
		disk.Close()
		if match {
			return "/dev/" + filepath.Base(real)
		}
	}
	return ""
}

// partitionID reads a partition's PARTUUID from its disk, which has sectors of 512 bytes as all of Firecracker's.
func partitionID(disk interface {
	ReadAt([]byte, int64) (int, error)
}, number int) string {
	const sector = 512
	b := make([]byte, 2*sector)
	if _, err := disk.ReadAt(b, 0); err != nil {
		return ""
	}
	table := b[sector:]
	if string(table[:8]) != "EFI PART" {
		return fmt.Sprintf("%08x-%02x", binary.LittleEndian.Uint32(b[440:]), number)
	}
	start, size := binary.LittleEndian.Uint64(table[72:]), binary.LittleEndian.Uint32(table[84:])
	if number < 1 || number > 128 || size < 128 || size > 4096 || start > 1<<40 {
		return ""
	}
	entry := make([]byte, 128)
	if _, err := disk.ReadAt(entry, int64(start)*sector+int64(number-1)*int64(size)); err != nil {
		return ""
	}
	u := entry[16:32] // the first three parts are little-endian (UEFI specification, 5.3.3)
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(u), binary.LittleEndian.Uint16(u[4:]),
		binary.LittleEndian.Uint16(u[6:]), u[8:10], u[10:])
}
