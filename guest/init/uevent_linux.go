package main

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// deviceTimeout is how long a device that was promised may take to come up.
const deviceTimeout = 10 * time.Second

var errNoDevice = errors.New("it did not come up")

// await waits until found says so, asking again at every event of the kernel about a device (netlink(7),
// NETLINK_KOBJECT_UEVENT), and gives up after deviceTimeout.
func await(found func() bool) error {
	if found() {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return err
	}
	deadline := time.Now().Add(deviceTimeout)
	buf := make([]byte, 8<<10)
	for !found() { // once more after the socket is there: nothing is missed between
		left := time.Until(deadline)
		if left <= 0 {
			return errNoDevice
		}
		timeout := unix.NsecToTimeval(int64(left))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return err
		}
		if _, _, err := unix.Recvfrom(fd, buf, 0); err != nil && err != unix.EAGAIN && err != unix.EINTR && err != unix.ENOBUFS {
			return err
		}
	}
	return nil
}
