package firecracker

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The sets of registers (include/uapi/linux/elf.h).
const (
	generalRegisters = 1     // NT_PRSTATUS
	callRegister     = 0x404 // NT_ARM_SYSTEM_CALL: the number of the system call, an int
)

// replaceCall has a thread that stopped on its way into a system call make another one.
func replaceCall(tid, number int) error {
	call := int32(number)
	set := unix.Iovec{Base: (*byte)(unsafe.Pointer(&call)), Len: uint64(unsafe.Sizeof(call))}
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SETREGSET, uintptr(tid), callRegister, uintptr(unsafe.Pointer(&set)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// callResult is what the system call returned out of which a thread stopped: -errno for an error.
func callResult(tid int) (int64, error) {
	var registers unix.PtraceRegsArm64
	err := unix.PtraceGetRegSetArm64(tid, generalRegisters, &registers)
	return int64(registers.Regs[0]), err
}
