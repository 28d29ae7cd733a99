//go:build unix

package firecracker

import "syscall"

// alive tells whether an idle connection can carry another request: the VMM has neither closed it nor said anything that
// nobody asked for.
func (w *wire) alive() bool {
	socket, ok := w.conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	var peeked error
	err = raw.Read(func(fd uintptr) bool {
		_, _, peeked = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	return err == nil && peeked == syscall.EAGAIN
}
