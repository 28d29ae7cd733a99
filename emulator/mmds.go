package emulator

import (
	"errors"
	"net/netip"
	"slices"

	"smartvm/emulator/serde"
)

// defaultMMDSAddress is where a guest finds the metadata service unless configured otherwise.
const defaultMMDSAddress = "169.254.169.254"

// mmds is the metadata store and the service's configuration. The emulator keeps both; its guests do not reach it.
type mmds struct {
	limit       int
	data        any // nil until the first PUT
	initialised bool

	version    string
	address    string
	imdsCompat bool
}

var (
	errMMDSUninitialised = errors.New("The MMDS data store is not initialized.")
	errMMDSLimit         = errors.New("The MMDS patch request doesn't fit.")
)

func (m *mmds) put(data any) error {
	if len(serde.Marshal(data)) > m.limit {
		return errMMDSLimit
	}
	m.data, m.initialised = data, true
	return nil
}

func (m *mmds) patch(change any) error {
	if !m.initialised {
		return errMMDSUninitialised
	}
	merged := mergePatch(m.data, change)
	if len(serde.Marshal(merged)) > m.limit {
		return errMMDSLimit
	}
	m.data = merged
	return nil
}

// mergePatch applies a JSON merge patch (RFC 7396) and leaves target as it is.
func mergePatch(target, change any) any {
	changes, ok := change.(map[string]any)
	if !ok {
		return change
	}
	merged := map[string]any{}
	if old, ok := target.(map[string]any); ok {
		for k, v := range old {
			merged[k] = v
		}
	}
	for k, v := range changes {
		if v == nil {
			delete(merged, k)
		} else {
			merged[k] = mergePatch(merged[k], v)
		}
	}
	return merged
}

// rawJSON is an answer that is JSON already.
type rawJSON []byte

// mmdsCall is a request for the store.
type mmdsCall func(*mmds) (any, error)

func (a mmdsCall) beforeStart(c *controller) (any, error) {
	data, err := a(&c.vm.mmds)
	if errors.Is(err, errMMDSLimit) {
		return nil, prefix("MMDS limit exceeded error: ", err)
	}
	return data, prefix("MMDS error: ", err)
}

// afterStart finds the store only if an interface leads to it.
func (a mmdsCall) afterStart(c *controller) (any, error) {
	if !slices.ContainsFunc(c.vm.interfaces, func(n *netInterface) bool { return n.mmds }) {
		return nil, prefix("MMDS error: ", errMMDSUninitialised)
	}
	return a.beforeStart(c)
}

func getMMDS(m *mmds) (any, error) {
	if m.data == nil {
		return rawJSON("{}"), nil
	}
	return rawJSON(serde.Marshal(m.data)), nil
}

func parsePutMMDS(body []byte, what *string) (action, string, error) {
	switch {
	case what == nil:
		var data any
		err := decode(body, serde.Any(&data))
		return mmdsCall(func(m *mmds) (any, error) { return nil, m.put(data) }), "", err
	case *what == "config":
		return parsePutMMDSConfig(body)
	}
	return nil, "", errf("Unrecognized PUT request path `%s`.", *what)
}

func parsePatchMMDS(body []byte) (action, string, error) {
	var change any
	err := decode(body, serde.Any(&change))
	return mmdsCall(func(m *mmds) (any, error) { return nil, m.patch(change) }), "", err
}

// mmdsConfig is the body of PUT /mmds/config, and its place in GET /vm/config.
type mmdsConfig struct {
	Version    string   `json:"version"`
	Interfaces []string `json:"network_interfaces"`
	Address    *string  `json:"ipv4_address"`
	IMDSCompat bool     `json:"imds_compat"`
}

func decodeMMDSConfig(m *mmdsConfig) serde.Decode {
	m.Version = "V1"
	return serde.Struct("MmdsConfig",
		serde.Default("version", serde.Enum(&m.Version, "V1", "V2")),
		serde.Required("network_interfaces", serde.Vec(&m.Interfaces, serde.String)),
		serde.Optional("ipv4_address", serde.Option(&m.Address,
			func(p *string) serde.Decode { return serde.ParsedAs("IPv4 address", p, parseIPv4) })),
		serde.Default("imds_compat", serde.Bool(&m.IMDSCompat)))
}

func parseIPv4(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return "", serde.Fail("invalid IPv4 address syntax")
	}
	return a.String(), nil
}

type putMMDSConfig struct {
	onlyBeforeStart
	cfg mmdsConfig
}

func parsePutMMDSConfig(body []byte) (action, string, error) {
	var a putMMDSConfig
	err := decode(body, decodeMMDSConfig(&a.cfg))
	deprecation := ""
	if a.cfg.Version == "V1" {
		deprecation = "PUT /mmds/config: V1 is deprecated. Use V2 instead."
	}
	return a, deprecation, err
}

func (a putMMDSConfig) beforeStart(c *controller) (any, error) {
	c.bootPath = true
	return nil, prefix("MMMDS config error: ", c.setMMDSConfig(a.cfg))
}

func (c *controller) setMMDSConfig(cfg mmdsConfig) error {
	address := defaultMMDSAddress
	if cfg.Address != nil {
		address = *cfg.Address
		if b := netip.MustParseAddr(address).As4(); b[0] != 169 || b[1] != 254 || b[2] == 0 || b[2] == 255 {
			return errors.New("The MMDS IPv4 address is not link local.")
		}
	}
	if len(cfg.Interfaces) == 0 {
		return errors.New("The list of network interface IDs that allow forwarding MMDS requests is empty.")
	}
	for _, id := range cfg.Interfaces {
		if c.vm.netInterface(id) == nil {
			return errors.New("The list of network interface IDs provided contains at least one ID that does not " +
				"correspond to any existing network interface.")
		}
	}
	c.warn("the metadata service (MMDS) as seen from the guest")
	for _, n := range c.vm.interfaces {
		n.mmds = slices.Contains(cfg.Interfaces, n.ID)
	}
	m := &c.vm.mmds
	m.address, m.version, m.imdsCompat = address, cfg.Version, cfg.IMDSCompat
	return nil
}

// mmdsConfig is the configuration as GET /vm/config shows it: none without an interface.
func (vm *resources) mmdsConfig() *mmdsConfig {
	cfg := mmdsConfig{Version: vm.mmds.version, IMDSCompat: vm.mmds.imdsCompat, Address: &vm.mmds.address}
	for _, n := range vm.interfaces {
		if n.mmds {
			cfg.Interfaces = append(cfg.Interfaces, n.ID)
		}
	}
	if cfg.Interfaces == nil {
		return nil
	}
	return &cfg
}
