package kvm

// requiredCapabilities are those that Firecracker 1.16 checks for: src/vmm/src/arch/x86_64/kvm.rs.
var requiredCapabilities = []capability{
	{0, "IRQCHIP"}, {3, "USER_MEMORY"}, {4, "SET_TSS_ADDR"}, {7, "EXT_CPUID"}, {14, "MP_STATE"}, {32, "IRQFD"}, {33, "PIT2"},
	{35, "PIT_STATE2"}, {36, "IOEVENTFD"}, {39, "ADJUST_CLOCK"}, {41, "VCPU_EVENTS"}, {50, "DEBUGREGS"}, {55, "XSAVE"}, {56, "XCRS"},
}
