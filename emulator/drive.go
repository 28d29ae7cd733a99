package emulator

import (
	"errors"
	"io"
	"net"
	"os"

	"smartvm/emulator/machine"
	"smartvm/emulator/serde"
)

// driveConfig is the body of PUT /drives/{id}, and an element of GET /vm/config.
type driveConfig struct {
	ID        string       `json:"drive_id"`
	PartUUID  *string      `json:"partuuid"`
	Root      bool         `json:"is_root_device"`
	CacheType string       `json:"cache_type"`
	ReadOnly  *bool        `json:"is_read_only"`
	Path      *string      `json:"path_on_host"`
	Limiter   *rateLimiter `json:"rate_limiter"`
	IOEngine  *string      `json:"io_engine"`
	Socket    *string      `json:"socket"`
}

func decodeDrive(d *driveConfig) serde.Decode {
	d.CacheType = "Unsafe"
	return serde.Struct("BlockDeviceConfig",
		serde.Required("drive_id", serde.String(&d.ID)),
		serde.Optional("partuuid", serde.Option(&d.PartUUID, serde.String)),
		serde.Required("is_root_device", serde.Bool(&d.Root)),
		serde.Default("cache_type", serde.Enum(&d.CacheType, "Unsafe", "Writeback")),
		serde.Optional("is_read_only", serde.Option(&d.ReadOnly, serde.Bool)),
		serde.Optional("path_on_host", serde.Option(&d.Path, serde.String)),
		limiterField("rate_limiter", &d.Limiter),
		serde.Optional("io_engine", serde.Option(&d.IOEngine,
			func(p *string) serde.Decode { return serde.Enum(p, "Async", "Sync") })),
		serde.Optional("socket", serde.Option(&d.Socket, serde.String)))
}

// drive is a configured drive. Its file stays open from PUT on, as Firecracker's does.
type drive struct {
	driveConfig
	file io.Closer
}

func (d *drive) vhostUser() bool { return d.Socket != nil }
func (d *drive) readOnly() bool  { return d.ReadOnly != nil && *d.ReadOnly }

func (d *drive) close() {
	if d.file != nil {
		_ = d.file.Close()
	}
}

// spec describes the drive to a machine.
func (d *drive) spec() machine.Drive {
	return machine.Drive{ID: d.ID, Path: *d.Path, ReadOnly: d.readOnly(), Writeback: d.CacheType == "Writeback",
		Async: d.IOEngine != nil && *d.IOEngine == "Async"}
}

// openDrive opens what is behind a drive: a file, or the socket of a vhost-user backend.
func (c *controller) openDrive(cfg driveConfig) (*drive, error) {
	switch {
	case cfg.Path != nil && cfg.Socket == nil:
		readOnly := cfg.ReadOnly != nil && *cfg.ReadOnly
		f, err := c.openImage(*cfg.Path, readOnly)
		if err != nil {
			return nil, prefix("Virtio backend error: ", err)
		}
		cfg.ReadOnly = &readOnly
		cfg.Limiter = cfg.Limiter.effective()
		if cfg.Limiter != nil {
			c.warn("rate limits")
		}
		if cfg.IOEngine == nil {
			engine := "Sync"
			cfg.IOEngine = &engine
		}
		return &drive{cfg, f}, nil
	case cfg.Socket != nil && cfg.ReadOnly == nil && cfg.Path == nil && cfg.Limiter == nil && cfg.IOEngine == nil:
		conn, err := net.Dial("unix", *cfg.Socket)
		if err != nil {
			return nil, osFault("Vhost user backend error: Vhost-user error: Failed to connect to UDS Unix stream: ", err)
		}
		c.warn("vhost-user drives")
		return &drive{cfg, conn}, nil
	}
	return nil, errors.New("Invalid block config.")
}

// openImage opens a drive's file. Its size must be known, so it must be seekable.
func (c *controller) openImage(path string, readOnly bool) (*os.File, error) {
	f, err := openFile(path, readOnly)
	if err == nil {
		var size int64
		if size, err = f.Seek(0, io.SeekEnd); err == nil {
			if size%512 != 0 {
				c.log.Warn(moduleVMM, "Disk size %d is not a multiple of sector size 512; the remainder will not be visible to the guest.", size)
			}
			return f, nil
		}
		_ = f.Close()
	}
	return nil, errors.New("Error manipulating the backing file: " + osText(err) + " " + path)
}

var errRootExists = errors.New("A root block device already exists!")

// putDrive adds or replaces a drive; after the start it plugs one in.
type putDrive struct{ cfg driveConfig }

func parsePutDrive(body []byte, id *string) (action, string, error) {
	var a putDrive
	if err := checkID(id); err != nil {
		return nil, "", err
	}
	if err := decode(body, decodeDrive(&a.cfg)); err != nil {
		return nil, "", err
	}
	if a.cfg.ID != *id {
		return nil, "", errIDMismatch
	}
	return a, "", nil
}

func (a putDrive) beforeStart(c *controller) (any, error) {
	c.bootPath = true
	return nil, prefix("Drive config error: ", c.insertDrive(a.cfg))
}

// insertDrive keeps the root drive first and a replaced drive at its place.
func (c *controller) insertDrive(cfg driveConfig) error {
	vm := &c.vm
	at := -1
	for i, d := range vm.drives {
		if d.ID == cfg.ID {
			at = i
		}
	}
	if cfg.Root && vm.pmemRoot() {
		return errors.New("Attempt to add block as a root device while the root device defined as a pmem device")
	}
	if cfg.Root && vm.driveRoot() && at != 0 {
		return errRootExists
	}
	d, err := c.openDrive(cfg)
	if err != nil {
		return prefix("Unable to create the virtio block device: ", err)
	}
	switch {
	case at >= 0:
		vm.drives[at].close()
		vm.drives[at] = d
		if at != 0 && cfg.Root {
			vm.drives[0], vm.drives[at] = vm.drives[at], vm.drives[0]
		}
	case cfg.Root:
		vm.drives = append([]*drive{d}, vm.drives...)
	default:
		vm.drives = append(vm.drives, d)
	}
	return nil
}

func (a putDrive) afterStart(c *controller) (any, error) {
	return nil, c.hotplug(kindDrive, a.cfg.ID, func() error {
		if a.cfg.Root {
			return prefix("Drive config error: ", errRootExists)
		}
		d, err := c.openDrive(a.cfg)
		if err != nil {
			return prefix("Drive config error: Unable to create the virtio block device: ", err)
		}
		c.vm.drives = append(c.vm.drives, d)
		return nil
	})
}

// driveRoot tells whether the root device is a drive. It would be the first one.
func (vm *resources) driveRoot() bool { return len(vm.drives) > 0 && vm.drives[0].Root }

func (vm *resources) drive(id string) *drive {
	for _, d := range vm.drives {
		if d.ID == id {
			return d
		}
	}
	return nil
}

// patchDrive puts another file behind a drive, or changes its limits.
type patchDrive struct {
	onlyAfterStart
	id      string
	path    *string
	limiter *rateLimiter
}

func parsePatchDrive(body []byte, id *string) (action, string, error) {
	var a patchDrive
	if err := checkID(id); err != nil {
		return nil, "", err
	}
	err := decode(body, serde.Struct("BlockDeviceUpdateConfig",
		serde.Required("drive_id", serde.String(&a.id)),
		serde.Optional("path_on_host", serde.Option(&a.path, serde.String)),
		limiterField("rate_limiter", &a.limiter)))
	if err == nil && a.id != *id {
		err = errIDMismatch
	}
	return a, "", err
}

func (a patchDrive) afterStart(c *controller) (any, error) {
	err := a.apply(c)
	if err != nil {
		err = errors.New("Drive config error: Unable to patch the block device: " + err.Error() +
			" Please verify the request arguments.")
	}
	return nil, err
}

func (a patchDrive) apply(c *controller) error {
	d := c.vm.drive(a.id)
	otherBackend := errors.New("Block: Running method expected different backend.")
	switch {
	case d == nil:
		return errNoSuchDevice
	case a.path == nil && a.limiter == nil && !d.vhostUser():
		return otherBackend
	case (a.path != nil || a.limiter != nil) && d.vhostUser():
		return otherBackend
	}
	if a.path != nil {
		f, err := c.openImage(*a.path, d.readOnly())
		if err != nil {
			return prefix("Block: Virtio backend error: ", err)
		}
		if err := c.machine.SetDrive(c.ctx, a.id, *a.path); err != nil {
			_ = f.Close()
			return prefix("Block: Virtio backend error: Error manipulating the backing file: ", err)
		}
		d.close()
		d.file, d.Path = f, a.path
	}
	if a.limiter != nil {
		d.Limiter = d.Limiter.updated(a.limiter)
		c.warn("rate limits")
	}
	return nil
}
