package agent

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"smartvm/internal/agentwire"
)

// Restore makes a guest that was restored from a snapshot one of its own: it sets the clock, and mixes the host's
// entropy into the kernel's generator and reseeds that (random(4)), as clones of a snapshot have the same state.
func Restore(r agentwire.Resume) error {
	if len(r.Entropy) > 0 {
		if err := reseed(r.Entropy); err != nil {
			return err
		}
	}
	if r.Now.IsZero() {
		return nil
	}
	now := unix.NsecToTimespec(r.Now.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// poolInfo is struct rand_pool_info of linux/random.h.
type poolInfo struct {
	bits, bytes int32
	data        [agentwire.MaxEntropy]byte
}

func reseed(entropy []byte) error {
	random, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("reseed: %w", err)
	}
	defer random.Close()
	info := poolInfo{bits: int32(8 * len(entropy)), bytes: int32(len(entropy))}
	copy(info.data[:], entropy)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, random.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return fmt.Errorf("reseed: RNDADDENTROPY: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, random.Fd(), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return fmt.Errorf("reseed: RNDRESEEDCRNG: %w", errno)
	}
	return nil
}
