package emulator

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linux is the system of this process.
type linux struct{}

// openTAP follows devices/virtio/net/tap.rs.
func (linux) openTAP(name string) (*os.File, string, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", osFault("Couldn't open /dev/net/tun: ", err)
	}
	device, err := attachTAP(fd, name)
	if err != nil {
		_ = unix.Close(fd)
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), device), device, nil
}

func attachTAP(fd int, name string) (string, error) {
	if len(name) >= unix.IFNAMSIZ {
		return "", errors.New("Invalid interface name")
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return "", fmt.Errorf("Error while creating ifreq structure: %s. Invalid TUN/TAP Backend provided by %s. "+
			"Check our documentation on setting up the network devices.", osText(err), name)
	}
	const virtioNetHeader = 12 // sizeof(struct virtio_net_hdr_v1)
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, virtioNetHeader); err != nil {
		return "", osFault("Error while setting size of the vnet header: ", err)
	}
	return request.Name(), nil
}

// openOutput follows utils::open_file_nonblock.
func (linux) openOutput(path string) (io.WriteCloser, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return nil, errNUL
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return nil, err
	}
	return &output{fd: fd}, nil
}

// output is a file that never makes its writer wait. (An os.File would: the runtime's poller waits for a full FIFO.)
type output struct{ fd int }

func (o *output) Write(b []byte) (int, error) {
	for written := 0; ; {
		n, err := unix.Write(o.fd, b[written:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return written, err
		}
		if written += n; written == len(b) {
			return written, nil
		}
	}
}

func (o *output) Close() error { return unix.Close(o.fd) }

// cpu reads /proc/cpuinfo up to the end of the first processor.
func (linux) cpu() cpuModel {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return cpuModel{}
	}
	defer f.Close()
	var m cpuModel
	for lines := bufio.NewScanner(f); lines.Scan() && lines.Text() != ""; {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		n, _ := strconv.Atoi(value)
		switch strings.TrimSpace(key) {
		case "vendor_id":
			m.vendor = value
		case "cpu family":
			m.family = n
		case "model":
			m.model = n
		case "stepping":
			m.stepping = n
		}
	}
	return m
}

// abort ends the process by SIGABRT, as Rust's panic does in Firecracker. Go's runtime would print its stacks instead,
// so its handler is taken away first.
func abort() {
	var byDefault [4]uint64 // struct sigaction of the kernel, all zero: SIG_DFL
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGABRT), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	_ = unix.Kill(unix.Getpid(), unix.SIGABRT)
	select {}
}
