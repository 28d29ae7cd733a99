package kvm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of a VM and of a vCPU: include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h.
const (
	getVCPUMmapSize     = 0xae04
	createVCPU          = 0xae41
	setTSSAddr          = 0xae47
	setUserMemoryRegion = 0x4020ae46
	run                 = 0xae80
	setRegs             = 0x4090ae82
	getSRegs            = 0x8138ae83
	setSRegs            = 0x4138ae84
)

// Offsets in struct kvm_run, and the exit reasons that the guest ends a step with.
const (
	exitReasonOffset = 8

	exitIO  = 2
	exitHLT = 5
)

// Where things are in the guest. The three pages of the TSS are for Intel CPUs that cannot run real mode as it is; the
// address is the usual one, below the BIOS at the end of 4 GiB.
const (
	codeAddress = 0x1000
	memorySize  = 0x2000
	tssAddress  = 0xfffbd000
)

// loopCode is the guest, in real mode: chunks of 10,000 instructions, each ended by an exit to the host. With the
// bound of the inner loop at 4998 a chunk is 1 + 2×4998 + 3 instructions.
var loopCode = []byte{
	0xbb, chunks, 0x00, //                             mov bx, chunks
	0xb9, innerRounds & 0xff, innerRounds >> 8, // outer: mov cx, innerRounds
	0x49,       //                              inner: dec cx
	0x75, 0xfd, //                                     jnz inner
	0xe6, 0x80, //                                     out 0x80, al
	0x4b,       //                                     dec bx
	0x75, 0xf5, //                                     jnz outer
	0xf4, //                                           hlt
}

const innerRounds = (chunkInstructions - 4) / 2

// runLoop runs the loop in the VM and judges by its time. The guest runs in a goroutine of its own, so that a KVM that
// never comes back cannot hang the caller; it then keeps what it holds until it does.
func runLoop(ctx context.Context, kvm, vm int) Result {
	// The goroutine may outlive the caller's descriptors.
	fds := [2]int{-1, -1}
	for i, fd := range []int{kvm, vm} {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeAll(fds[:])
			return loopFailed(err)
		}
		fds[i] = dup
	}
	done := make(chan Result, 1)
	go func() {
		result := tryLoop(ctx, fds[0], fds[1])
		closeAll(fds[:]) // before anybody is told: with the result all is released
		done <- result
	}()
	hung := time.NewTimer(hangTimeout)
	defer hung.Stop()
	select {
	case r := <-done:
		return r
	case <-hung.C:
		return Result{State: Useless, Detail: fmt.Sprintf("A tiny guest did not come back within %v.", hangTimeout), Fix: uselessFix}
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

const uselessFix = "Use a machine whose KVM runs on the CPU: bare metal, or a VM with nested virtualization. Here, use --emulate."

func loopFailed(err error) Result {
	return Result{State: Unusable, Detail: fmt.Sprintf("KVM runs no guest: %v.", err), Fix: "Look into the kernel's log (dmesg) for what KVM says."}
}

// tryLoop runs the loop until a try is fast enough.
func tryLoop(ctx context.Context, kvm, vm int) Result {
	g, err := newGuest(kvm, vm)
	if err != nil {
		return loopFailed(err)
	}
	defer g.close()
	var best time.Duration
	deadline := time.Now().Add(loopBudget)
	for range loopTries {
		took, n, err := g.loop(ctx, deadline)
		if err != nil {
			return loopFailed(err)
		}
		if n < chunks && best == 0 {
			return Result{State: Useless, Fix: uselessFix,
				Detail: fmt.Sprintf("KVM emulates each instruction: a guest did only %d of %d in %v.", n*chunkInstructions, chunks*chunkInstructions, took.Round(time.Millisecond))}
		}
		if n == chunks && (best == 0 || took < best) {
			best = took
		}
		if n < chunks || best < LoopLimit || best >= hopeless {
			break
		}
	}
	if best >= LoopLimit {
		return Result{State: Useless, Loop: best, Fix: uselessFix,
			Detail: fmt.Sprintf("KVM emulates each instruction: a million took a guest %v, real kernels never come up.", best.Round(time.Millisecond))}
	}
	return Result{State: Usable, Loop: best, Detail: fmt.Sprintf("KVM runs a guest's million instructions in %v.", best.Round(10*time.Microsecond))}
}

// guest is a VM with one vCPU and two pages of memory.
type guest struct {
	vcpu   int
	memory []byte // the guest's, from address 0
	shared []byte // struct kvm_run
	start  [312]byte
}

// newGuest gives the VM its memory, its code and a vCPU.
func newGuest(kvm, vm int) (*guest, error) {
	g := &guest{vcpu: -1}
	if err := g.setUp(kvm, vm); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *guest) setUp(kvm, vm int) (err error) {
	if _, err = ioctl(vm, setTSSAddr, tssAddress); err != nil {
		return fmt.Errorf("KVM_SET_TSS_ADDR: %w", err)
	}
	if g.memory, err = unix.Mmap(-1, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return fmt.Errorf("map the guest's memory: %w", err)
	}
	copy(g.memory[codeAddress:], loopCode)
	region := struct {
		slot, flags                 uint32
		guestAddress, size, address uint64
	}{size: memorySize, address: uint64(uintptr(unsafe.Pointer(&g.memory[0])))}
	if err = ioctlPointer(vm, setUserMemoryRegion, unsafe.Pointer(&region)); err != nil {
		return fmt.Errorf("KVM_SET_USER_MEMORY_REGION: %w", err)
	}
	if g.vcpu, err = ioctl(vm, createVCPU, 0); err != nil {
		return fmt.Errorf("KVM_CREATE_VCPU: %w", err)
	}
	size, err := ioctl(kvm, getVCPUMmapSize, 0)
	if err != nil {
		return fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %w", err)
	}
	if g.shared, err = unix.Mmap(g.vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the vCPU's state: %w", err)
	}
	// struct kvm_sregs begins with cs: base 8 bytes, limit 4, selector 2. A CPU starts in real mode, but elsewhere.
	if err = ioctlPointer(g.vcpu, getSRegs, unsafe.Pointer(&g.start)); err != nil {
		return fmt.Errorf("KVM_GET_SREGS: %w", err)
	}
	clear(g.start[0:8])
	clear(g.start[12:14])
	return nil
}

// close releases what the guest holds.
func (g *guest) close() {
	if g.shared != nil {
		unix.Munmap(g.shared)
	}
	closeAll([]int{g.vcpu})
	if g.memory != nil {
		unix.Munmap(g.memory)
	}
}

// loop runs the loop from its start, until the deadline, and returns how long it took and how many chunks it did.
func (g *guest) loop(ctx context.Context, deadline time.Time) (took time.Duration, done int, err error) {
	if err := ioctlPointer(g.vcpu, setSRegs, unsafe.Pointer(&g.start)); err != nil {
		return 0, 0, fmt.Errorf("KVM_SET_SREGS: %w", err)
	}
	// struct kvm_regs: sixteen general registers, rip, rflags, 8 bytes each. Bit 1 of rflags is always set.
	var regs [18]uint64
	regs[16], regs[17] = codeAddress, 2
	if err := ioctlPointer(g.vcpu, setRegs, unsafe.Pointer(&regs)); err != nil {
		return 0, 0, fmt.Errorf("KVM_SET_REGS: %w", err)
	}
	begin := time.Now()
	for {
		if _, err := ioctl(g.vcpu, run, 0); err != nil {
			return 0, done, fmt.Errorf("KVM_RUN: %w", err)
		}
		took = time.Since(begin)
		switch reason := binary.NativeEndian.Uint32(g.shared[exitReasonOffset:]); reason {
		case exitHLT:
			if done != chunks {
				return took, done, fmt.Errorf("the guest ended after %d of %d steps", done, chunks)
			}
			return took, done, nil
		case exitIO:
			done++
		default:
			return took, done, fmt.Errorf("the guest ended with exit reason %d after %d of %d steps", reason, done, chunks)
		}
		if done > chunks {
			return took, done, errors.New("the guest does not end")
		}
		if err := ctx.Err(); err != nil {
			return took, done, ctx.Err()
		}
		if time.Now().After(deadline) && done < chunks {
			return took, done, nil
		}
	}
}

// ioctlPointer makes a request with a pointer as its argument.
func ioctlPointer(fd int, request uintptr, arg unsafe.Pointer) error {
	_, err := retry(func() (int, error) {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
			return -1, errno
		}
		return 0, nil
	})
	return err
}
