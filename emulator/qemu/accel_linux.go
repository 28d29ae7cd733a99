package qemu

import (
	"context"
	"os"
	"slices"
	"strings"

	"smartvm/internal/kvm"
)

// useKVM decides on KVM. Where the CPU shows no virtualization, KVM is absent or a stand-in; finding out that it is too
// slow takes longer than a tenth of a boot, so that it is not even tried.
func useKVM(ctx context.Context, accel string) bool {
	switch accel {
	case "kvm":
		return true
	case "tcg":
		return false
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !virtualizes(string(cpuinfo)) {
		return false
	}
	return kvm.Probe(ctx, kvm.DefaultPath).State == kvm.Usable
}

// virtualizes reads the flags of the first CPU.
func virtualizes(cpuinfo string) bool {
	_, flags, _ := strings.Cut(cpuinfo, "\nflags")
	flags, _, _ = strings.Cut(flags, "\n")
	has := strings.Fields(flags)
	return slices.Contains(has, "vmx") || slices.Contains(has, "svm")
}
