package firecracker

import (
	"context"
	"encoding/json"
	"fmt"
)

// The whole API, one method for each operation of Firecracker's description, named after its method and path. Errors
// are *[APIError] (the VMM refused), *[TransportError] (no reply came back whole), *[UnsupportedFieldError] (the running
// version does not know a field; nothing was sent).

// Info asks what the VMM is and in which state its VM is (GET /). It hangs while a snapshot is written: the VMM answers
// one request at a time.
func (c *Client) Info(ctx context.Context) (InstanceInfo, error) {
	return get[InstanceInfo](ctx, c, "/")
}

// GetVersion asks for the VMM's version (GET /version) and remembers it for the check of fields.
func (c *Client) GetVersion(ctx context.Context) (Version, error) {
	reply, err := get[struct {
		Version string `json:"firecracker_version"`
	}](ctx, c, "/version")
	if err != nil {
		return Version{}, err
	}
	v, err := ParseVersion(reply.Version)
	if err != nil {
		return Version{}, &TransportError{Method: "GET", Path: "/version", Sent: true, Err: err}
	}
	c.SetVersion(v)
	return v, nil
}

// GetVMConfig asks for the whole configuration (GET /vm/config).
func (c *Client) GetVMConfig(ctx context.Context) (VMConfig, error) {
	return get[VMConfig](ctx, c, "/vm/config")
}

// InstanceStart boots the VM. It returns when the vCPUs run, which says nothing about the guest. A refused start leaves
// the VMM alive and the configuration changeable.
func (c *Client) InstanceStart(ctx context.Context) error { return c.action(ctx, "InstanceStart") }

// FlushMetrics writes the metrics now. It succeeds without a metrics path, too.
func (c *Client) FlushMetrics(ctx context.Context) error { return c.action(ctx, "FlushMetrics") }

// SendCtrlAltDel presses the keys in the guest; x86_64 only.
func (c *Client) SendCtrlAltDel(ctx context.Context) error { return c.action(ctx, "SendCtrlAltDel") }

func (c *Client) action(ctx context.Context, kind string) error {
	return c.put(ctx, "/actions", struct {
		ActionType string `json:"action_type"`
	}{kind})
}

// Pause stops the vCPUs (PATCH /vm). With a vsock, a bare pause and resume breaks 1.16.0 and 1.16.1: new connections
// hang and the VMM spins. There, ask for a snapshot of the running VM first: it is refused and heals that.
func (c *Client) Pause(ctx context.Context) error { return c.setState(ctx, "Paused") }

// Resume lets the vCPUs run on (PATCH /vm).
func (c *Client) Resume(ctx context.Context) error { return c.setState(ctx, "Resumed") }

func (c *Client) setState(ctx context.Context, state string) error {
	return c.patch(ctx, "/vm", struct {
		State string `json:"state"`
	}{state})
}

// CreateSnapshot writes a snapshot of the paused VM. Both files are synced to the disk before it returns.
func (c *Client) CreateSnapshot(ctx context.Context, s SnapshotCreate) error {
	return c.put(ctx, "/snapshot/create", s)
}

// LoadSnapshot makes a fresh VMM continue from a snapshot.
func (c *Client) LoadSnapshot(ctx context.Context, s SnapshotLoad) error {
	return c.put(ctx, "/snapshot/load", s)
}

// GetMachineConfig asks for vCPUs and memory.
func (c *Client) GetMachineConfig(ctx context.Context) (MachineConfig, error) {
	return get[MachineConfig](ctx, c, "/machine-config")
}

// PutMachineConfig sets vCPUs and memory before the boot.
func (c *Client) PutMachineConfig(ctx context.Context, m MachineConfig) error {
	return c.put(ctx, "/machine-config", m)
}

// PatchMachineConfig changes a part of the machine before the boot.
func (c *Client) PatchMachineConfig(ctx context.Context, m MachineConfigUpdate) error {
	return c.patch(ctx, "/machine-config", m)
}

// PutCPUConfig sets a custom CPU template before the boot.
func (c *Client) PutCPUConfig(ctx context.Context, config CPUConfig) error {
	return c.put(ctx, "/cpu-config", config)
}

// PutBootSource sets kernel, initrd and boot arguments before the boot.
func (c *Client) PutBootSource(ctx context.Context, b BootSource) error {
	return c.put(ctx, "/boot-source", b)
}

// PutDrive adds a drive, or replaces the one with its id, before the boot.
func (c *Client) PutDrive(ctx context.Context, d Drive) error {
	return c.putDevice(ctx, "drives", d.DriveID, d)
}

// PatchDrive puts another file behind a drive of the running VM, or changes its limits.
func (c *Client) PatchDrive(ctx context.Context, d DriveUpdate) error {
	return c.patchDevice(ctx, "drives", d.DriveID, d)
}

// PutPmem adds a persistent-memory device before the boot.
func (c *Client) PutPmem(ctx context.Context, p Pmem) error {
	return c.putDevice(ctx, "pmem", p.ID, p)
}

// PatchPmem changes a persistent-memory device's limits while the VM runs.
func (c *Client) PatchPmem(ctx context.Context, p PmemUpdate) error {
	return c.patchDevice(ctx, "pmem", p.ID, p)
}

// PutNetworkInterface adds an interface before the boot.
func (c *Client) PutNetworkInterface(ctx context.Context, n NetworkInterface) error {
	return c.putDevice(ctx, "network-interfaces", n.IfaceID, n)
}

// PatchNetworkInterface changes an interface's limits while the VM runs.
func (c *Client) PatchNetworkInterface(ctx context.Context, n NetworkInterfaceUpdate) error {
	return c.patchDevice(ctx, "network-interfaces", n.IfaceID, n)
}

// PutVsock adds the vsock device, or replaces it, before the boot.
func (c *Client) PutVsock(ctx context.Context, v Vsock) error { return c.put(ctx, "/vsock", v) }

// PutEntropy adds the random-number device before the boot.
func (c *Client) PutEntropy(ctx context.Context, e Entropy) error {
	return c.put(ctx, "/entropy", e)
}

// PutSerial sets where the console goes, before the boot.
func (c *Client) PutSerial(ctx context.Context, s Serial) error { return c.put(ctx, "/serial", s) }

// PutLogger sets where the VMM logs to, before the boot.
func (c *Client) PutLogger(ctx context.Context, l Logger) error { return c.put(ctx, "/logger", l) }

// PutMetrics sets where the metrics go, once, before the boot.
func (c *Client) PutMetrics(ctx context.Context, m Metrics) error {
	return c.put(ctx, "/metrics", m)
}

// GetBalloon asks for the balloon's configuration.
func (c *Client) GetBalloon(ctx context.Context) (Balloon, error) {
	return get[Balloon](ctx, c, "/balloon")
}

// PutBalloon adds the balloon, or replaces it, before the boot.
func (c *Client) PutBalloon(ctx context.Context, b Balloon) error {
	return c.put(ctx, "/balloon", b)
}

// PatchBalloon asks the running guest for another balloon size.
func (c *Client) PatchBalloon(ctx context.Context, b BalloonUpdate) error {
	return c.patch(ctx, "/balloon", b)
}

// GetBalloonStats asks for the balloon's statistics while the VM runs.
func (c *Client) GetBalloonStats(ctx context.Context) (BalloonStats, error) {
	return get[BalloonStats](ctx, c, "/balloon/statistics")
}

// PatchBalloonStats changes how often the guest reports statistics.
func (c *Client) PatchBalloonStats(ctx context.Context, u BalloonStatsUpdate) error {
	return c.patch(ctx, "/balloon/statistics", u)
}

// StartBalloonHinting starts a run of free page hinting; since 1.14.0.
func (c *Client) StartBalloonHinting(ctx context.Context, s BalloonHintingStart) error {
	return c.patch(ctx, "/balloon/hinting/start", s)
}

// StopBalloonHinting stops the run of free page hinting; since 1.14.0.
func (c *Client) StopBalloonHinting(ctx context.Context) error {
	return c.patch(ctx, "/balloon/hinting/stop", nil)
}

// GetBalloonHinting asks how far the run of free page hinting is; since 1.14.0.
func (c *Client) GetBalloonHinting(ctx context.Context) (BalloonHintingStatus, error) {
	return get[BalloonHintingStatus](ctx, c, "/balloon/hinting/status")
}

// GetMemoryHotplug asks for the hotplug memory's state while the VM runs; since 1.14.0.
func (c *Client) GetMemoryHotplug(ctx context.Context) (MemoryHotplugStatus, error) {
	return get[MemoryHotplugStatus](ctx, c, "/hotplug/memory")
}

// PutMemoryHotplug adds hotplug memory before the boot; since 1.14.0.
func (c *Client) PutMemoryHotplug(ctx context.Context, m MemoryHotplug) error {
	return c.put(ctx, "/hotplug/memory", m)
}

// PatchMemoryHotplug asks the running guest to take or give back hotplug memory; since 1.14.0.
func (c *Client) PatchMemoryHotplug(ctx context.Context, m MemoryHotplugUpdate) error {
	return c.patch(ctx, "/hotplug/memory", m)
}

// PutMMDSConfig binds the metadata service to interfaces before the boot.
func (c *Client) PutMMDSConfig(ctx context.Context, m MMDSConfig) error {
	return c.put(ctx, "/mmds/config", m)
}

// GetMMDS asks for the metadata: JSON as it is, "{}" or "null" when there is none.
func (c *Client) GetMMDS(ctx context.Context) (json.RawMessage, error) {
	return get[json.RawMessage](ctx, c, "/mmds")
}

// PutMMDS replaces the metadata by contents, anything that is a JSON object. Over the VMM's limit it is refused with
// status 413.
func (c *Client) PutMMDS(ctx context.Context, contents any) error {
	return c.put(ctx, "/mmds", contents)
}

// PatchMMDS merges contents into the metadata (RFC 7396). There must have been a PutMMDS before.
func (c *Client) PatchMMDS(ctx context.Context, contents any) error {
	return c.patch(ctx, "/mmds", contents)
}

// putDevice and patchDevice put the id into the path. Firecracker takes letters, digits and _ there
// (parsed_request.rs, checked_id); anything else could name another path.

func (c *Client) putDevice(ctx context.Context, kind, id string, body any) error {
	if err := checkID("PUT", kind, id); err != nil {
		return err
	}
	return c.put(ctx, "/"+kind+"/"+id, body)
}

func (c *Client) patchDevice(ctx context.Context, kind, id string, body any) error {
	if err := checkID("PATCH", kind, id); err != nil {
		return err
	}
	return c.patch(ctx, "/"+kind+"/"+id, body)
}

func checkID(method, kind, id string) error {
	ok := id != ""
	for _, r := range id {
		ok = ok && (r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}
	if !ok {
		return fmt.Errorf("%s /%s: the id %q is not made of letters, digits and _ alone", method, kind, id)
	}
	return nil
}
