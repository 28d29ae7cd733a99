package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/guest"
	"smartvm/internal/kvm"
	"smartvm/internal/portmux"
	"smartvm/internal/tsc"
)

// maxMemoryMiB bounds the host's memory; with QEMU's own, and the code that TCG makes, it stays below 4 GiB.
const (
	maxMemoryMiB = 3072
	tcgBufferMiB = 512
)

// maxSocketPath is the longest path of a Unix socket (sun_path in unix(7)).
const maxSocketPath = 107

// firstFD is the agent's port, as QEMU inherits it.
const firstFD = 3

// machine is the host's QEMU.
type machine struct {
	cpus, memoryMiB int
	kvm             bool
	kvmModule       string // what the host itself loads
	tscKHz          int
	kernel, initrd  string
	args            []string // more kernel arguments
	drives          []labDrive
	console         string // files
	monitor         string // a socket
}

// labDrive is one of the host's drives, by the file that is behind it.
type labDrive struct {
	path     string
	writable bool
}

// qemuArgs returns QEMU's arguments.
func (m machine) qemuArgs() []string {
	args := []string{
		"-M", "q35,vmport=off", "-nodefaults", "-no-user-config", "-display", "none", "-nic", "none",
		"-no-reboot", // the end of the host is the end of QEMU
		"-m", strconv.Itoa(m.memoryMiB) + "M", "-smp", strconv.Itoa(m.cpus),
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	}
	line := append([]string{"console=ttyS0", "panic=1", "mitigations=off", "quiet", "loglevel=4"}, m.args...)
	if m.kvm {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		args = append(args, "-accel", fmt.Sprintf("tcg,thread=multi,tb-size=%d", tcgBufferMiB), "-cpu", "max")
		line = append(line, fmt.Sprintf("tsc_early_khz=%d", m.tscKHz))
	}
	args = append(args, "-kernel", m.kernel, "-initrd", m.initrd, "-append", strings.Join(line, " "))
	for i, d := range m.drives {
		name := fmt.Sprintf("drive%d", i)
		args = append(args, "-drive", fmt.Sprintf("if=none,id=%s,format=raw,readonly=%s,cache=unsafe,file=%s",
			name, onOff(!d.writable), noCommas(d.path)),
			"-device", "virtio-blk-pci,drive="+name)
	}
	if len(m.monitor) <= maxSocketPath { // for a person who wants to know what a host that hangs does
		args = append(args, "-chardev", "socket,id=monitor,server=on,wait=off,path="+noCommas(m.monitor), "-mon", "chardev=monitor,mode=readline")
	}
	return append(args,
		"-chardev", "file,id=console,append=on,path="+noCommas(m.console), "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", firstFD), "-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=agent,name="+portmux.PortName,
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
	)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// noCommas writes a path as a value in QEMU's lists.
func noCommas(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// hostKVM returns the module of this machine's KVM, if that runs guests: the lab's CPU is this machine's then, and all is
// far faster. The lab needs KVM to be nestable. "" is no such KVM.
func hostKVM(ctx context.Context) string {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	_, flags, _ := strings.Cut(string(cpuinfo), "\nflags")
	flags, _, _ = strings.Cut(flags, "\n")
	has := strings.Fields(flags)
	module := ""
	switch {
	case slices.Contains(has, "vmx"):
		module = "kvm_intel"
	case slices.Contains(has, "svm"):
		module = "kvm_amd"
	}
	if module == "" || kvm.Probe(ctx, kvm.DefaultPath).State != kvm.Usable {
		return ""
	}
	return module
}

// measure fills in what depends on this machine.
func (m *machine) measure(ctx context.Context, sample tsc.Sample) (err error) {
	if m.kvmModule = hostKVM(ctx); m.kvmModule != "" {
		m.kvm = true
		return nil
	}
	m.kvmModule = "kvm_amd" // TCG's CPU is one of AMD's
	m.tscKHz, err = sample.KHz()
	return err
}

// process is a running QEMU.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended and is reaped
	err  error         // how it ended; good after done
}

// startProcess starts a program that does not outlive this one.
//
// If this process is killed, the kernel kills the program: the parent-death signal. It comes when the *thread* ends that
// started the child; so the goroutine that does is locked to its thread and stays there until the child has ended. If this
// process is stopped or hangs, the bound on the program's CPU time ends it.
func startProcess(binary string, args []string, dir string, output *os.File, files []*os.File, cpuTime time.Duration) (*process, error) {
	p := &process{done: make(chan struct{}), log: output.Name()}
	p.cmd = exec.Command(binary, args...)
	p.cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir}
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.ExtraFiles = files
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // a Ctrl-C is for us
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		if err == nil {
			seconds := uint64(cpuTime/time.Second) + 1
			err = unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_CPU, &unix.Rlimit{Cur: seconds, Max: seconds}, nil)
			if err != nil {
				p.cmd.Process.Kill()
				p.cmd.Wait()
			}
		}
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	return p, nil
}

// kill ends the program and waits for that.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// ended says how the program ended, with its last words.
func (p *process) ended() error {
	words, _ := os.ReadFile(p.log)
	return fmt.Errorf("QEMU ended (%v) %s", p.cmd.ProcessState, strings.TrimSpace(string(words)))
}

// socketpair makes a stream socket with our end and the child's.
func socketpair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	theirs, file := os.NewFile(uintptr(fds[1]), "agent"), os.NewFile(uintptr(fds[0]), "agent")
	defer file.Close() // FileConn has a copy
	ours, err := net.FileConn(file)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return ours.(*net.UnixConn), theirs, nil
}

// awaitUp waits until the host's agent says that it is up.
func awaitUp(ctx context.Context, port *portmux.Host) error {
	stop := context.AfterFunc(ctx, func() { port.Close() })
	defer stop()
	for {
		conn, number, err := port.Accept()
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		if number != guest.UpPort {
			conn.Close()
			continue
		}
		_, err = guest.ReadUp(ctx, conn)
		return err
	}
}
