package qemu

import (
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace of a test's own.
type namespace struct{ handle netns.NsHandle }

// newNamespace makes it, with a bridge at 10.9.0.1. A thread that was in it is not used again.
func newNamespace(t testing.TB) namespace {
	t.Helper()
	var ns namespace
	inThread(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		ns.handle, err = netns.Get()
		return err
	})
	t.Cleanup(func() { ns.handle.Close() })
	ns.do(t, func() error {
		// An address of its own: a bridge takes its lowest port's else, and a clone would know another's.
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 9, 1}}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		address := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 9, 0, 1), Mask: net.CIDRMask(24, 32)}}
		if err := netlink.AddrAdd(bridge, address); err != nil {
			return err
		}
		return netlink.LinkSetUp(bridge)
	})
	return ns
}

// tap attaches to a TAP in the namespace as Firecracker does, and joins it to the bridge.
func (ns namespace) tap(t testing.TB, name string) *os.File {
	t.Helper()
	var file *os.File
	ns.do(t, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), name)
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return err
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(link, bridge.(*netlink.Bridge)); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	t.Cleanup(func() { file.Close() })
	return file
}

func (ns namespace) do(t testing.TB, f func() error) {
	t.Helper()
	inThread(t, func() error {
		if err := netns.Set(ns.handle); err != nil {
			return err
		}
		return f()
	})
}

// inThread runs f in a thread that ends with it.
func inThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
