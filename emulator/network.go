package emulator

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"smartvm/emulator/machine"
	"smartvm/emulator/serde"
)

// interfaceConfig is the body of PUT /network-interfaces/{id}, and an element of GET /vm/config.
type interfaceConfig struct {
	ID        string       `json:"iface_id"`
	Device    string       `json:"host_dev_name"`
	MAC       *string      `json:"guest_mac"` // lower case
	MTU       *uint16      `json:"mtu"`
	RXLimiter *rateLimiter `json:"rx_rate_limiter"`
	TXLimiter *rateLimiter `json:"tx_rate_limiter"`
}

func decodeInterface(i *interfaceConfig) serde.Decode {
	return serde.Struct("NetworkInterfaceConfig",
		serde.Required("iface_id", serde.String(&i.ID)),
		serde.Required("host_dev_name", serde.String(&i.Device)),
		serde.Optional("guest_mac", serde.Option(&i.MAC,
			func(p *string) serde.Decode { return serde.Parsed(p, parseMAC) })),
		serde.Optional("mtu", serde.Option(&i.MTU, serde.Uint16)),
		limiterField("rx_rate_limiter", &i.RXLimiter),
		limiterField("tx_rate_limiter", &i.TXLimiter))
}

// parseMAC reads six pairs of hexadecimal digits. As Rust's parser takes a plus sign, so does this one.
func parseMAC(s string) (string, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 6 {
		return "", errMAC
	}
	for i, p := range parts {
		digits := strings.TrimPrefix(p, "+")
		n, err := strconv.ParseUint(digits, 16, 8)
		if len(p) != 2 || err != nil || strings.ContainsRune(digits, '_') {
			return "", errMAC
		}
		parts[i] = fmt.Sprintf("%02x", n)
	}
	return strings.Join(parts, ":"), nil
}

var errMAC = serde.Fail("The provided MAC address is invalid.")

// netInterface is a configured interface, attached to its TAP from PUT on.
type netInterface struct {
	interfaceConfig
	tap *os.File
	// mmds tells whether the guest reaches the metadata service through this interface.
	mmds bool
}

func (n *netInterface) close() { _ = n.tap.Close() }

func (n *netInterface) spec() machine.Interface {
	s := machine.Interface{ID: n.ID, TAP: n.tap, Device: n.Device}
	if n.MAC != nil {
		s.MAC = *n.MAC
	}
	if n.MTU != nil {
		s.MTU = int(*n.MTU)
	}
	return s
}

// openInterface attaches to the TAP. An empty name or one with a `%d` makes the kernel choose; its choice is shown.
func (c *controller) openInterface(cfg interfaceConfig) (*netInterface, error) {
	tap, name, err := c.system.openTAP(cfg.Device)
	if err != nil {
		return nil, prefix("Could not create the network device: Open tap device failed: ", err)
	}
	if cfg.MTU != nil && *cfg.MTU < 68 {
		_ = tap.Close()
		return nil, fmt.Errorf("Could not create the network device: MTU %d is out of range [68, 65535]", *cfg.MTU)
	}
	cfg.Device = name
	cfg.RXLimiter, cfg.TXLimiter = cfg.RXLimiter.effective(), cfg.TXLimiter.effective()
	if cfg.RXLimiter != nil || cfg.TXLimiter != nil {
		c.warn("rate limits")
	}
	return &netInterface{interfaceConfig: cfg, tap: tap}, nil
}

// putInterface adds or replaces an interface; after the start it plugs one in.
type putInterface struct{ cfg interfaceConfig }

func parsePutInterface(body []byte, id *string) (action, string, error) {
	var a putInterface
	if err := checkID(id); err != nil {
		return nil, "", err
	}
	if err := decode(body, decodeInterface(&a.cfg)); err != nil {
		return nil, "", err
	}
	return a, "", checkInterfaceID(*id, a.cfg.ID)
}

func checkInterfaceID(path, body string) error {
	if path == body {
		return nil
	}
	return fmt.Errorf("The id from the path [%s] does not match the id from the body [%s]!", path, body)
}

func (a putInterface) beforeStart(c *controller) (any, error) {
	c.bootPath = true
	return nil, prefix("Network config error: ", c.insertInterface(a.cfg))
}

// insertInterface replaces an interface of the same id first, and loses it if the new one cannot be made. The last
// interface takes the place of the replaced one, as Firecracker's swap_remove does it.
func (c *controller) insertInterface(cfg interfaceConfig) error {
	vm := &c.vm
	if err := vm.checkMAC(cfg.MAC, cfg.ID); err != nil {
		return err
	}
	if at := slices.IndexFunc(vm.interfaces, func(n *netInterface) bool { return n.ID == cfg.ID }); at >= 0 {
		vm.interfaces[at].close()
		last := len(vm.interfaces) - 1
		vm.interfaces[at] = vm.interfaces[last]
		vm.interfaces = vm.interfaces[:last]
	}
	n, err := c.openInterface(cfg)
	if err != nil {
		return err
	}
	vm.interfaces = append(vm.interfaces, n)
	return nil
}

// checkMAC refuses an address that an interface other than except has.
func (vm *resources) checkMAC(mac *string, except string) error {
	for _, n := range vm.interfaces {
		if mac != nil && n.MAC != nil && *n.MAC == *mac && n.ID != except {
			return errors.New("The MAC address is already in use: " + *mac)
		}
	}
	return nil
}

func (a putInterface) afterStart(c *controller) (any, error) {
	return nil, c.hotplug(kindInterface, a.cfg.ID, func() error {
		if err := c.vm.checkMAC(a.cfg.MAC, ""); err != nil {
			return prefix("Network config error: ", err)
		}
		n, err := c.openInterface(a.cfg)
		if err != nil {
			return prefix("Network config error: ", err)
		}
		c.vm.interfaces = append(c.vm.interfaces, n)
		return nil
	})
}

func (vm *resources) netInterface(id string) *netInterface {
	for _, n := range vm.interfaces {
		if n.ID == id {
			return n
		}
	}
	return nil
}

// patchInterface changes an interface's limits.
type patchInterface struct {
	onlyAfterStart
	id     string
	rx, tx *rateLimiter
}

func parsePatchInterface(body []byte, id *string) (action, string, error) {
	var a patchInterface
	if err := checkID(id); err != nil {
		return nil, "", err
	}
	err := decode(body, serde.Struct("NetworkInterfaceUpdateConfig",
		serde.Required("iface_id", serde.String(&a.id)),
		limiterField("rx_rate_limiter", &a.rx),
		limiterField("tx_rate_limiter", &a.tx)))
	if err != nil {
		return nil, "", err
	}
	return a, "", checkInterfaceID(*id, a.id)
}

func (a patchInterface) afterStart(c *controller) (any, error) {
	n := c.vm.netInterface(a.id)
	if n == nil {
		return nil, prefix("Network config error: Unable to update the net device: ", errNoSuchDevice)
	}
	n.RXLimiter, n.TXLimiter = n.RXLimiter.updated(a.rx), n.TXLimiter.updated(a.tx)
	c.warn("rate limits")
	return nil, nil
}
