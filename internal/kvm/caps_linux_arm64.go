package kvm

import (
	"context"
	"runtime"
)

// requiredCapabilities are those that Firecracker 1.16 checks for on aarch64: src/vmm/src/arch/aarch64/kvm.rs.
var requiredCapabilities = []capability{
	{3, "USER_MEMORY"}, {14, "MP_STATE"}, {32, "IRQFD"}, {36, "IOEVENTFD"}, {70, "ONE_REG"}, {89, "DEVICE_CTRL"}, {102, "ARM_PSCI_0_2"},
}

// runLoop runs no guest: a paravirtual KVM that emulates instructions is known on amd64 only.
func runLoop(context.Context, int, int) Result {
	return Result{State: Usable, Detail: "KVM makes VMs and has what Firecracker needs; that a guest runs at full speed was not tried on " + runtime.GOARCH + "."}
}
