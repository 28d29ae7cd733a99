package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// route speaks rtnetlink(7): the three requests that a fixed address takes.
type route struct {
	fd  int
	seq uint32
}

func openRoute() (*route, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &route{fd: fd}, nil
}

func (r *route) Close() error { return unix.Close(r.fd) }

// up sets IFF_UP (struct ifinfomsg).
func (r *route) up(index int) error {
	b := []byte{unix.AF_UNSPEC, 0, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, unix.IFF_UP) // flags
	b = binary.NativeEndian.AppendUint32(b, unix.IFF_UP) // which of them change
	return r.do(unix.RTM_NEWLINK, 0, b)
}

// address adds an address (struct ifaddrmsg). One that is there already is fine: a kernel with CONFIG_IP_PNP reads `ip=`
// itself.
func (r *route) address(index int, p netip.Prefix) error {
	b := []byte{unix.AF_INET, byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	addr := p.Addr().As4()
	b = attribute(b, unix.IFA_LOCAL, addr[:])
	b = attribute(b, unix.IFA_ADDRESS, addr[:])
	if p.Bits() < 31 {
		host := uint32(1)<<(32-p.Bits()) - 1
		broadcast := binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(addr[:])|host)
		b = attribute(b, unix.IFA_BROADCAST, broadcast)
	}
	return existing(r.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b))
}

// defaultRoute adds a default route (struct rtmsg). onlink is for a gateway outside of the interface's own network.
func (r *route) defaultRoute(index int, gateway netip.Addr, metric uint32, onlink bool) error {
	b := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST}
	var flags uint32
	if onlink {
		flags = unix.RTNH_F_ONLINK
	}
	b = binary.NativeEndian.AppendUint32(b, flags)
	addr := gateway.As4()
	b = attribute(b, unix.RTA_GATEWAY, addr[:])
	b = attribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	b = attribute(b, unix.RTA_PRIORITY, binary.NativeEndian.AppendUint32(nil, metric))
	return existing(r.do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b))
}

func existing(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// attribute appends a struct rtattr with its value, padded to four bytes.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// do sends one request and waits for the kernel's acknowledgement.
func (r *route) do(kind uint16, flags uint16, body []byte) error {
	r.seq++
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = binary.NativeEndian.AppendUint32(b, r.seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, body...)
	if err := unix.Sendto(r.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 4<<10)
	n, _, err := unix.Recvfrom(r.fd, reply, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(reply[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink: a reply that is no acknowledgement")
	}
	if code := int32(binary.NativeEndian.Uint32(reply[unix.SizeofNlMsghdr:])); code != 0 {
		return syscall.Errno(-code)
	}
	return nil
}
