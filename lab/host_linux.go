package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/guest"
	"smartvm/image"
	"smartvm/internal/portmux"
	"smartvm/internal/tsc"
)

// Time-outs of the host's life.
const (
	bootTimeout  = 2 * time.Minute // 3 s on a machine that does nothing else
	setUpTimeout = time.Minute     // of one command
)

// What QEMU and the host say, below Options.Dir.
const (
	logName     = "qemu.log"
	consoleName = "console.log"
)

// The scratch drive is made with each host and is gone with it. It takes space as it is filled only.
const (
	scratchName  = "scratch.xfs"
	scratchBytes = 16 << 30
)

// Options are how a host is made.
type Options struct {
	Dir      string // what is kept, and what a run leaves to look at: build/lab
	Bundle   string // the folder of the default image: build/image
	Packages string // a cache of Debian's packages: build/data/packages
	CPUs     int    // 1 is the one that is safe under TCG
	// Limit bounds the host's whole life.
	Limit time.Duration
	// Payload is what the host gets, by path below lab.Payload: files and folders of this machine; "" is an empty folder.
	Payload map[string]string
	// Log is told what takes long.
	Log func(format string, args ...any)
}

// Host is a running lab.
type Host struct {
	options Options
	qemu    string
	machine machine
	lock    *os.File

	*life // since the last boot
	close sync.Once
}

// life is a host between boot and power cut.
type life struct {
	agent   *guest.Agent
	port    *portmux.Host
	process *process
	hush    context.CancelFunc
	beats   sync.WaitGroup
}

// UnavailableError says that this machine cannot have the lab as it is, whatever is changed in the tree: something is not
// installed, or packages cannot be got.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string { return "the lab cannot run here: " + e.Err.Error() }

// Unwrap returns what is amiss.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Start makes a host and waits until it is ready. There is one at a time in a folder: a second one waits.
//
// The host ends by Close, when ctx or the Limit ends, and in any case with this process.
func Start(ctx context.Context, o Options) (*Host, error) {
	sample := tsc.Take()
	if runtime.GOARCH != "amd64" {
		return nil, &UnavailableError{fmt.Errorf("it needs an amd64 machine, this is %s", runtime.GOARCH)}
	}
	qemu, err := findProgram("qemu-system-x86_64", "qemu-system-x86")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := o.takeLock(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{logName, consoleName} { // each boot adds to them
		if err := os.RemoveAll(filepath.Join(o.Dir, name)); err != nil {
			return nil, errors.Join(err, lock.Close())
		}
	}
	h := &Host{options: o, qemu: qemu, lock: lock}
	if h.machine, err = o.machine(ctx); err == nil {
		err = h.machine.measure(ctx, sample)
	}
	if err == nil {
		err = o.scratch(ctx)
	}
	if err == nil {
		err = h.up(ctx, freshSteps)
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// PowerCut ends the host as a power cut does, and boots it again, with the scratch drive as it was: what was not synced is
// lost, everything in memory is.
func (h *Host) PowerCut(ctx context.Context) error {
	h.down()
	return h.up(ctx, nil)
}

// up boots the host, and sets it up; more is what only a fresh one needs.
func (h *Host) up(ctx context.Context, more []string) error {
	if err := h.boot(ctx); err != nil {
		return err
	}
	h.beat()
	return h.setUp(ctx, more)
}

// down ends the host at once.
func (h *Host) down() {
	h.hush()
	h.beats.Wait()
	h.process.kill()
	h.port.Close()
}

// takeLock waits for the folder. The lock is gone with this process, the file stays.
func (o Options) takeLock(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(o.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return f, nil
	}
	o.Log("lab: another lab runs in %s: waiting for its end", o.Dir)
	locked := make(chan error, 1)
	go func() { locked <- unix.Flock(int(f.Fd()), unix.LOCK_EX) }()
	select {
	case err = <-locked:
	case <-ctx.Done():
		return nil, ctx.Err() // the goroutine keeps f
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// machine makes the drives and describes the machine.
func (o Options) machine(ctx context.Context) (machine, error) {
	bundle, err := image.Open(ctx, o.Bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return machine{}, &UnavailableError{fmt.Errorf("there is no default image, whose kernel it boots: %w (make image)", err)}
	}
	if err != nil {
		return machine{}, fmt.Errorf("the lab boots the default image's kernel: %w (make image)", err)
	}
	root, err := o.root(ctx, bundle)
	if err != nil {
		return machine{}, err
	}
	payload, err := o.payload(ctx)
	if err != nil {
		return machine{}, err
	}
	return machine{
		cpus: o.CPUs, memoryMiB: maxMemoryMiB, kernel: bundle.Kernel, initrd: bundle.Initrd,
		args:    []string{"root=/dev/vda", "rootfstype=squashfs", "smartvm.overlay=memory", "smartvm.hostname=lab"},
		drives:  []labDrive{{path: root}, {path: payload}, {path: filepath.Join(o.Dir, scratchName), writable: true}},
		console: filepath.Join(o.Dir, consoleName), monitor: filepath.Join(o.Dir, "monitor"),
	}, nil
}

// scratch makes the empty drive.
func (o Options) scratch(ctx context.Context) error {
	mkfs, err := findProgram("mkfs.xfs", "xfsprogs")
	if err != nil {
		return err
	}
	path := filepath.Join(o.Dir, scratchName)
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(path, scratchBytes); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, mkfs, "-q", "-f", "-m", "reflink=1", path).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.xfs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// payload makes the drive with what is tried.
func (o Options) payload(ctx context.Context) (string, error) {
	path := filepath.Join(o.Dir, "payload.squashfs")
	s, err := newSquashfs(ctx, path)
	if err != nil {
		return "", err
	}
	fill := func() error {
		for _, name := range slices.Sorted(maps.Keys(o.Payload)) {
			if err := s.any(name, o.Payload[name]); err != nil {
				return err
			}
		}
		return nil
	}
	return path, s.commit(fill())
}

// boot starts QEMU and waits for the host's agent.
func (h *Host) boot(ctx context.Context) error {
	o, m := h.options, h.machine
	output, err := os.OpenFile(filepath.Join(o.Dir, logName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer output.Close()
	os.Remove(m.monitor)
	ours, theirs, err := socketpair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	cpuTime := o.Limit * time.Duration(o.CPUs+1)
	process, err := startProcess(h.qemu, m.qemuArgs(), o.Dir, output, []*os.File{theirs}, cpuTime)
	if err != nil {
		ours.Close()
		return err
	}
	port := portmux.NewHost(ours)
	h.life = &life{process: process, port: port, agent: guest.New(port.Dial), hush: func() {}}
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if err := awaitUp(ctx, h.port); err != nil {
		select {
		case <-h.process.done:
			err = h.process.ended()
		default:
		}
		return fmt.Errorf("the lab's host does not come up: %w; its console is in %s", err, m.console)
	}
	return nil
}

// beatPeriod is how long a host stands still at most whose CPU missed an interrupt.
const beatPeriod = 250 * time.Millisecond

// beat interrupts the host from outside, now and then, as long as it lives.
//
// TCG's CPU loses an interrupt once in a while when a guest of the host's KVM is left: QEMU (target/i386/tcg, svm_helper.c,
// do_vmexit) changes the word of the CPU's pending interrupts without the lock that a timer's thread holds, which sets a
// bit in it. If that was the timer that the idle host waits for, it waits for ever. Any later interrupt makes QEMU look at
// all that are pending, so here is one: a ping to the agent. It need not be answered in time, nor at all.
func (h *Host) beat() {
	ctx, hush := context.WithCancel(context.Background())
	life := h.life
	life.hush = hush
	life.beats.Go(func() {
		ticker := time.NewTicker(beatPeriod)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-life.process.done:
				return
			case <-ticker.C:
				ping, done := context.WithTimeout(ctx, beatPeriod)
				life.agent.Ping(ping)
				done()
			}
		}
	})
}

// steps are what makes a host of the machine, in order. The modules are loaded that an administrator of such a host loads;
// the kernel loads others by itself.
var steps = []string{
	"modprobe -a tun bridge veth nf_tables wireguard overlay squashfs xfs btrfs loop vhost_vsock",
	"ip link set lo up",
	"mount -t squashfs -o ro /dev/vdb " + Payload,
	"mount -t xfs /dev/vdc " + Scratch,
	"mkdir -p " + Scratch + "/tmp " + Scratch + "/cover " + Scratch + "/smartvm/base-images",
	"chmod 0700 " + Scratch + "/smartvm " + Scratch + "/smartvm/base-images",
	"mount -o bind " + Scratch + "/smartvm /var/lib/smartvm",
}

// freshSteps are what an empty scratch drive needs besides.
var freshSteps = []string{"cp -r " + Payload + "/src/build/image /var/lib/smartvm/base-images/debian-x86_64"}

func (h *Host) setUp(ctx context.Context, more []string) error {
	for _, step := range slices.Concat([]string{"modprobe " + h.machine.kvmModule}, steps, more) {
		ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
		var said strings.Builder
		var mu sync.Mutex
		both := lockedWriter{&mu, &said}
		status, err := h.Run(ctx, guest.Command{Args: strings.Fields(step), Stdout: both, Stderr: both})
		cancel()
		if err == nil && status.ExitCode() != 0 {
			err = errors.New(status.String())
		}
		if err != nil {
			return fmt.Errorf("set the lab up: %s: %w: %s", step, err, strings.TrimSpace(said.String()))
		}
	}
	return nil
}

// lockedWriter lets two streams be one.
type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// Agent runs commands on the host, as root.
func (h *Host) Agent() *guest.Agent { return h.agent }

// Run runs a command to its end, or to ctx's.
func (h *Host) Run(ctx context.Context, cmd guest.Command) (guest.ExitStatus, error) {
	session, err := h.agent.Start(ctx, cmd)
	if err != nil {
		return guest.ExitStatus{}, err
	}
	defer session.Close()
	return session.Wait(ctx)
}

// Done is closed when the host has ended.
func (h *Host) Done() <-chan struct{} { return h.process.done }

// Close ends the host at once.
func (h *Host) Close() {
	h.close.Do(func() {
		if h.life != nil {
			h.down()
		}
		os.Remove(filepath.Join(h.options.Dir, scratchName))
		h.lock.Close()
	})
}
