package emulator

import (
	"net"
	"os"

	"smartvm/emulator/machine"
	"smartvm/emulator/serde"
)

// vsockConfig is the body of PUT /vsock, and its place in GET /vm/config, where the deprecated id never shows.
type vsockConfig struct {
	CID  uint32 `json:"guest_cid"`
	Path string `json:"uds_path"`

	id *string
}

func decodeVsock(v *vsockConfig) serde.Decode {
	return serde.Struct("VsockDeviceConfig",
		serde.Default("vsock_id", serde.Option(&v.id, serde.String)),
		serde.Required("guest_cid", serde.Uint32(&v.CID)),
		serde.Required("uds_path", serde.String(&v.Path)))
}

// vsock is the configured socket, bound from PUT on.
type vsock struct {
	vsockConfig
	listener net.Listener
}

func (v *vsock) close() { _ = v.listener.Close() }

func (v *vsock) spec() *machine.Vsock {
	if v == nil {
		return nil
	}
	return &machine.Vsock{CID: v.CID, Path: v.Path, Listener: v.listener}
}

// bindVsock binds the host's end. Its file outlives the process, as with Firecracker.
func bindVsock(cfg vsockConfig) (*vsock, error) {
	const words = "Error binding to the host-side Unix socket: "
	if err := socketPathFault(cfg.Path); err != nil {
		return nil, prefix(words, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: cfg.Path})
	if err != nil {
		return nil, osFault(words, err)
	}
	l.SetUnlinkOnClose(false)
	return &vsock{vsockConfig: cfg, listener: l}, nil
}

// putVsock sets the one vsock device.
type putVsock struct {
	onlyBeforeStart
	cfg vsockConfig
}

func parsePutVsock(body []byte) (action, string, error) {
	var a putVsock
	err := decode(body, decodeVsock(&a.cfg))
	deprecation := ""
	if a.cfg.id != nil {
		deprecation = "PUT /vsock: vsock_id field is deprecated."
	}
	return a, deprecation, err
}

func (a putVsock) beforeStart(c *controller) (any, error) {
	c.bootPath = true
	return nil, prefix("Vsock config error: Cannot create backend for vsock device: ", c.vm.setVsock(a.cfg))
}

// setVsock replaces the device. The old one is gone even if the new one cannot be made.
func (vm *resources) setVsock(cfg vsockConfig) error {
	if old := vm.vsock; old != nil {
		vm.vsock = nil
		err := os.Remove(old.Path)
		old.close()
		if err != nil {
			return osFault("Error binding to the host-side Unix socket: ", err)
		}
	}
	v, err := bindVsock(cfg)
	vm.vsock = v
	return err
}
