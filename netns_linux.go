package smartvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openNetNS opens a network namespace, and refuses what is none: namespaces are files of nsfs, which say of which kind they
// are (namespaces(7), NS_GET_NSTYPE of ioctl_ns(2)).
func openNetNS(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hold us up
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no network namespace %s: make one (ip netns add %s)", path, filepath.Base(path))
	}
	if err != nil {
		return nil, err
	}
	var stat unix.Statfs_t
	err = unix.Fstatfs(int(file.Fd()), &stat)
	if err == nil {
		kind := 0
		if stat.Type == unix.NSFS_MAGIC {
			kind, err = unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
		}
		if err == nil && kind != unix.CLONE_NEWNET {
			err = fmt.Errorf("%s is no network namespace: name one that `ip netns list` shows, or a path such as /proc/PID/ns/net", path)
		}
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// inNetNS does something in a network namespace; "" is this one.
func inNetNS(path string, do func() error) error {
	if path == "" {
		return do()
	}
	ns, err := openNetNS(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("join the network namespace %s: %w", path, err)
		}
		return do()
	})
}

// onOwnThread does something on a thread that ends with it, so that nobody ever runs in what it has changed: the runtime ends
// the thread of a goroutine that ends while it is locked to it. The process's first thread does not end, and is the one
// that /proc/self tells of: it is kept busy while another one is taken.
func onOwnThread(do func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			result <- onOwnThread(do)
			return
		}
		result <- do()
	}()
	return <-result
}

// checkNetNS tells why a VM cannot be in its network namespace.
func (c *Config) checkNetNS(jailed bool) error {
	if c.NetNS == "" {
		return nil
	}
	if !jailed {
		return errors.New("the jailer joins the namespace, and this VM is in no jail; run it as root under Firecracker and without --no-jail (NoJail), or start smartvm itself in the namespace (ip netns exec)")
	}
	ns, err := openNetNS(c.NetNS)
	if err != nil {
		return err
	}
	return ns.Close()
}

// checkNetwork looks for the VM's namespace and its TAPs in there.
func (c *Config) checkNetwork(jailed bool, report func(key string, err error)) {
	if err := c.checkNetNS(jailed); err != nil {
		report("netns", err)
		return // where its TAPs would be
	}
	if len(c.NetworkInterfaces) == 0 {
		return
	}
	report("netns", inNetNS(c.NetNS, func() error {
		for i := range c.NetworkInterfaces {
			report(fmt.Sprintf("networkInterfaces[%d].hostDevName", i), checkTAP(c.NetworkInterfaces[i].HostDevName, c.NetNS))
		}
		return nil
	}))
}

// checkTAP looks whether there is this TAP in the namespace that the calling thread is in, which is netns; tun_get_drvinfo of the
// kernel's drivers/net/tun.c says what it is. Firecracker makes one that is missing when it has the right to, which nobody
// asked for; the guest would be connected to nothing.
func checkTAP(name, netns string) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	info, err := unix.IoctlGetEthtoolDrvinfo(socket, name)
	switch {
	case err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP): // the latter is what lo says
		return fmt.Errorf("ask what %s is: %w", name, err)
	case err == nil && unix.ByteSliceToString(info.Driver[:]) == "tun" && unix.ByteSliceToString(info.Bus_info[:]) == "tap":
		return nil
	case netns == "":
		return fmt.Errorf("there is no TAP %q on this host: make one (ip tuntap add %s mode tap)", name, name)
	}
	return fmt.Errorf("there is no TAP %q in the network namespace %s: make one (ip -n %s tuntap add %s mode tap)", name, netns, filepath.Base(netns), name)
}

func giveTAPs(interfaces []NetworkInterface, uid int) error {
	for i := range interfaces {
		if tap := interfaces[i].HostDevName; tap != "" {
			if err := giveTAP(tap, uid); err != nil {
				return err
			}
		}
	}
	return nil
}

// giveTAP lets the VM's user open a TAP (TUNSETOWNER of Documentation/networking/tuntap.rst).
func giveTAP(name string, uid int) error {
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer tun.Close()
	var request struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	request.flags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	for _, call := range []struct {
		number, argument uintptr
	}{{unix.TUNSETIFF, uintptr(unsafe.Pointer(&request))}, {unix.TUNSETOWNER, uintptr(uid)}} {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, tun.Fd(), call.number, call.argument); errno != 0 {
			return fmt.Errorf("give TAP %s to uid %d: %w", name, uid, errno)
		}
	}
	return nil
}

// addNamespace adds what went through the interfaces of a VMM in another network namespace, where /sys does not lead:
// /proc/PID/net/dev (proc_pid_net(5)) has for each interface its name, eight counters of what it received, bytes first, and
// eight of what it sent.
func (s *Stats) addNamespace(pid int, interfaces []NetworkInterface) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "net", "dev"))
	if err != nil {
		return
	}
	const received, sent = 0, 8
	for line := range lines(text) {
		name, counters, found := strings.Cut(line, ":")
		fields := strings.Fields(counters)
		if !found || len(fields) <= sent {
			continue
		}
		for i := range interfaces {
			if interfaces[i].HostDevName == strings.TrimSpace(name) {
				in, _ := strconv.ParseInt(fields[received], 10, 64)
				out, _ := strconv.ParseInt(fields[sent], 10, 64)
				s.NetReceived += out // what the host sends
				s.NetSent += in
			}
		}
	}
}
