package firecracker

import "golang.org/x/sys/unix"

// replaceCall has a thread that stopped on its way into a system call make another one.
func replaceCall(tid, number int) error {
	var registers unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &registers); err != nil {
		return err
	}
	registers.Orig_rax = uint64(number)
	return unix.PtraceSetRegs(tid, &registers)
}

// callResult is what the system call returned out of which a thread stopped: -errno for an error.
func callResult(tid int) (int64, error) {
	var registers unix.PtraceRegs
	err := unix.PtraceGetRegs(tid, &registers)
	return int64(registers.Rax), err
}
