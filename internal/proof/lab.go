package proof

import (
	"os"
	"testing"
)

// Lab marks the test as one that runs in the lab (package lab): a Linux host of its own in QEMU, with KVM, kernel
// WireGuard, nftables, reflinks and QEMU, where the test is root and may do as it likes. `go test` skips it; `make lab` runs
// it there, and so does the end of `make test`. The report counts the skip of `go test` unless it saw that very test in the
// lab.
//
// The tests of a file that calls Lab, or one of the functions below, are what the lab runs. So call it in the tests' own
// file.
func Lab(tb testing.TB) {
	tb.Helper()
	mark(tb, LevelLab)
	if os.Getenv("SMARTVM_LAB") == "" {
		tb.Skip("proof: lab: runs in the lab (make lab)")
	}
}

// LabFirecracker marks the test as one that needs a real Firecracker in the lab, and returns its path.
func LabFirecracker(tb testing.TB) string { return labBinary(tb, "SMARTVM_FIRECRACKER") }

// LabJailer marks the test as one that needs Firecracker's jailer in the lab, and returns its path.
func LabJailer(tb testing.TB) string { return labBinary(tb, "SMARTVM_JAILER") }

func labBinary(tb testing.TB, variable string) string {
	tb.Helper()
	Lab(tb)
	path := os.Getenv(variable)
	if path == "" {
		tb.Skipf("proof: lab: %s names no binary", variable)
	}
	return path
}

// LabVMM marks the test as one that boots a VM in the lab, and returns the VMM to do it with: the real Firecracker where
// there is one, else the emulator, whose guests run on the lab's KVM.
func LabVMM(tb testing.TB) (path string, emulator bool) {
	tb.Helper()
	Lab(tb)
	if path := os.Getenv("SMARTVM_FIRECRACKER"); path != "" {
		return path, false
	}
	return Emulator(tb), true
}

// LabLong marks the test as one that runs in the lab, but for the short run at the end of `make test`.
func LabLong(tb testing.TB) {
	tb.Helper()
	Lab(tb)
	if testing.Short() {
		tb.Skip("proof: lab: takes long, not in the short run (make lab)")
	}
}

// LabPowerCut marks the test as one that runs in the lab twice: before a power cut of the whole host, and after the host has
// booted again with the same data folder and scratch drive; it tells which. Memory is empty then, /run too. Tests that come before
// it are over, and all of its kind run on the same host; `make test` leaves them out.
func LabPowerCut(tb testing.TB) (after bool) {
	tb.Helper()
	LabLong(tb)
	return os.Getenv("SMARTVM_LAB_POWER_CUT") != ""
}
