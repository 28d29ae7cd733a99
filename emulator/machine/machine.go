// Package machine is the seam between the emulator's API and what stands behind it: a machine that can be started,
// paused, changed, saved and loaded. The API (package emulator) checks every request as Firecracker does and keeps the
// configuration; a machine only ever sees requests that were accepted.
//
// There are two: null (package emulator/null), which holds files and TAPs open as Firecracker would and runs no guest,
// and QEMU's microvm (package emulator/qemu).
package machine

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
)

// Spec is all that a machine needs to start. Paths are as the client gave them, relative to the emulator's working
// folder. Slices are in the order in which the guest shall see the devices: the root drive comes first.
type Spec struct {
	VCPUs     int
	MemoryMiB int
	SMT       bool

	Kernel string // ELF vmlinux
	Initrd string // "" for none
	// Args is the whole kernel command line but for what the machine itself has to add (the console's or the clock's
	// needs). `root=…` and `ro`/`rw` are in it already, as Firecracker appends them.
	Args string

	Drives     []Drive
	Interfaces []Interface
	Vsock      *Vsock
	Balloon    *Balloon
	Entropy    bool

	SerialIn  *os.File  // guest's serial input; nil for none
	SerialOut io.Writer // guest's serial output; never nil
}

// Drive is a virtio block device backed by a file or a block device.
type Drive struct {
	ID        string
	Path      string
	ReadOnly  bool
	Writeback bool // cache_type Writeback: the guest's flushes reach the disk
	Async     bool // io_engine Async
}

// Interface is a virtio network device on an existing TAP. The API has opened the TAP already, as Firecracker does when
// it is configured, and the machine takes the descriptor over.
type Interface struct {
	ID  string
	TAP *os.File // IFF_TAP|IFF_NO_PI|IFF_VNET_HDR, already attached to Device
	// Device is the TAP's name, MAC the guest's address ("" = the guest picks one), MTU 0 for the default.
	Device string
	MAC    string
	MTU    int
}

// Vsock is the hybrid socket: the API has bound Listener at Path already. The machine accepts `CONNECT <port>` there and
// dials `<Path>_<port>` for connections that the guest opens.
type Vsock struct {
	CID      uint32
	Path     string
	Listener net.Listener // owned by the machine from Start or Load on
}

// Balloon is the balloon as configured.
type Balloon struct {
	AmountMiB     int
	DeflateOnOOM  bool
	StatsInterval int // seconds, 0 = no statistics
	FreePageHint  bool
	FreePageRept  bool
}

// BalloonStats is what the guest's driver reported last; a nil field was not reported.
type BalloonStats struct {
	ActualMiB                                                         int
	SwapIn, SwapOut, MajorFaults, MinorFaults, FreeMemory             *int64
	TotalMemory, AvailableMemory, DiskCaches, HugetlbAllocs, HugetlbF *int64
}

// End tells how a machine ended.
type End struct {
	// Rebooted: the guest asked for a reset, as reboot=k and panic=1 do. Firecracker exits with 0 then.
	Rebooted bool
	// Err is why it ended otherwise: QEMU died, hung, or broke its protocol.
	Err error
}

// ErrNotActivated is what SetBalloon returns while no driver in the guest uses the balloon.
var ErrNotActivated = errors.New("the guest's balloon driver is not up")

// Machine is one virtual machine. Its methods are called one at a time.
type Machine interface {
	// Start starts the guest. A machine that failed to start has released what it made and may be started again.
	Start(ctx context.Context, spec Spec) error
	// Load starts a machine from what Save wrote, paused. spec is what the API kept beside the state, with the overrides
	// of the load request applied and TAPs and the vsock listener opened anew. Memory is mapped privately: the file at
	// memoryPath stays as it is, and may be loaded many times at once.
	Load(ctx context.Context, spec Spec, state io.Reader, memoryPath string) error
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Save writes the state of the paused machine to state, and its memory to the file memoryPath (raw, sparse, made anew
	// or overwritten). The machine stays paused and usable.
	Save(ctx context.Context, state io.Writer, memoryPath string) error
	CtrlAltDel(ctx context.Context) error
	// SetDrive puts another file behind a drive of the running machine.
	SetDrive(ctx context.Context, id, path string) error
	// SetBalloon sets the balloon's target; ErrNotActivated if the guest's driver is not up.
	SetBalloon(ctx context.Context, amountMiB int) error
	SetBalloonInterval(ctx context.Context, seconds int) error
	BalloonStats(ctx context.Context) (BalloonStats, error)
	// Ended is closed when the machine ended by itself or broke; End then says how.
	Ended() <-chan struct{}
	End() End
	// Close ends the machine and releases everything. Safe to call more than once.
	Close() error
}

// Warner is told, once per subject, what was accepted and has no effect.
type Warner func(format string, args ...any)
