package emulator

import (
	"errors"
	"slices"

	"smartvm/emulator/serde"
)

// pmemConfig is the body of PUT /pmem/{id}, and an element of GET /vm/config. The emulator has no such device: it checks
// and keeps the configuration, and the guest does not see it.
type pmemConfig struct {
	ID       string       `json:"id"`
	Path     string       `json:"path_on_host"`
	Root     bool         `json:"root_device"`
	ReadOnly bool         `json:"read_only"`
	Limiter  *rateLimiter `json:"rate_limiter"` // as given: Firecracker does not bring this one into its normal form
}

func decodePmem(p *pmemConfig) serde.Decode {
	return serde.Struct("PmemConfig",
		serde.Required("id", serde.String(&p.ID)),
		serde.Required("path_on_host", serde.String(&p.Path)),
		serde.Default("root_device", serde.Bool(&p.Root)),
		serde.Default("read_only", serde.Bool(&p.ReadOnly)),
		limiterField("rate_limiter", &p.Limiter))
}

// checkPmem opens the device's file as the start of a VM does.
func checkPmem(p pmemConfig) error {
	f, err := openFile(p.Path, p.ReadOnly)
	if err != nil {
		return osFault("Error accessing backing file: ", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return osFault("Error accessing backing file: ", err)
	case info.Size() == 0:
		return errors.New("Error backing file size is 0")
	case info.IsDir():
		return errors.New("Error accessing backing file: No such device (os error 19)") // what mmap says
	}
	return nil
}

// putPmem adds or replaces a device; after the start it plugs one in.
type putPmem struct{ cfg pmemConfig }

func parsePutPmem(body []byte, id *string) (action, string, error) {
	var a putPmem
	if err := checkID(id); err != nil {
		return nil, "", err
	}
	err := decode(body, decodePmem(&a.cfg))
	if err == nil && a.cfg.ID != *id {
		err = errIDMismatch
	}
	return a, "", err
}

var errPmemSecondRoot = errors.New("Attempt to add pmem as a root device while the root device defined as a block device")

func (a putPmem) beforeStart(c *controller) (any, error) {
	c.bootPath = true
	return nil, prefix("Pmem config error: ", c.insertPmem(a.cfg))
}

func (c *controller) insertPmem(cfg pmemConfig) error {
	vm := &c.vm
	if cfg.Root && vm.driveRoot() {
		return errPmemSecondRoot
	}
	at := slices.IndexFunc(vm.pmem, func(p *pmemConfig) bool { return p.ID == cfg.ID })
	if cfg.Root && vm.pmemRoot() && (at < 0 || !vm.pmem[at].Root) {
		return errors.New("A root pmem device already exist")
	}
	c.warn("pmem devices")
	if at >= 0 {
		vm.pmem[at] = &cfg
	} else {
		vm.pmem = append(vm.pmem, &cfg)
	}
	return nil
}

func (a putPmem) afterStart(c *controller) (any, error) {
	return nil, c.hotplug(kindPmem, a.cfg.ID, func() error {
		if a.cfg.Root {
			return prefix("Pmem config error: ", errPmemSecondRoot)
		}
		if err := checkPmem(a.cfg); err != nil {
			return prefix("Pmem config error: Unable to create the virtio-pmem device: ", err)
		}
		c.vm.pmem = append(c.vm.pmem, &a.cfg)
		return nil
	})
}

func (vm *resources) pmemRoot() bool {
	return slices.ContainsFunc(vm.pmem, func(p *pmemConfig) bool { return p.Root })
}

// patchPmem changes a device's limits. The configuration shown stays, as with Firecracker.
type patchPmem struct {
	onlyAfterStart
	id      string
	limiter *rateLimiter
}

func parsePatchPmem(body []byte, id *string) (action, string, error) {
	var a patchPmem
	if err := checkID(id); err != nil {
		return nil, "", err
	}
	err := decode(body, serde.Struct("PmemDeviceUpdateConfig",
		serde.Required("id", serde.String(&a.id)),
		limiterField("rate_limiter", &a.limiter)))
	if err == nil && a.id != *id {
		err = errIDMismatch
	}
	return a, "", err
}

func (a patchPmem) afterStart(c *controller) (any, error) {
	known := slices.ContainsFunc(c.vm.pmem, func(p *pmemConfig) bool { return p.ID == a.id })
	if a.limiter != nil && !known {
		return nil, errors.New("Pmem config error: Unable to patch the pmem device: " + errNoSuchDevice.Error() +
			" Please verify the request arguments.")
	}
	return nil, nil
}
