package firecracker

// Drive is the body of PUT /drives/{drive_id}: virtio-blk over a file or block device, or vhost-user-blk over Socket.
// The file is opened when it is sent.
type Drive struct {
	DriveID      string `json:"drive_id"` // letters, digits and _
	IsRootDevice bool   `json:"is_root_device"`
	PartUUID     string `json:"partuuid,omitempty"` // of the root partition; only for the root device

	PathOnHost  string       `json:"path_on_host,omitempty"` // required unless Socket is set
	IsReadOnly  bool         `json:"is_read_only,omitempty"`
	CacheType   CacheType    `json:"cache_type,omitempty"`
	IOEngine    IOEngine     `json:"io_engine,omitempty"`
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`

	// Socket is a vhost-user-blk backend's. PathOnHost, IsReadOnly, IOEngine and RateLimiter must be unset then.
	Socket string `json:"socket,omitempty"`
}

// CacheType says what becomes of the guest's flushes.
type CacheType string

// The cache types. Unsafe, the default, ignores the guest's flushes; Writeback brings them to the disk.
const (
	CacheUnsafe    CacheType = "Unsafe"
	CacheWriteback CacheType = "Writeback"
)

// IOEngine says how a drive's file is read and written.
type IOEngine string

// The engines. Async is io_uring, a developer preview.
const (
	IOEngineSync  IOEngine = "Sync"
	IOEngineAsync IOEngine = "Async"
)

// DriveUpdate is the body of PATCH /drives/{drive_id}. With nothing but an id it makes a vhost-user drive read its
// configuration again.
type DriveUpdate struct {
	DriveID     string       `json:"drive_id"`
	PathOnHost  string       `json:"path_on_host,omitempty"`
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
}

// Pmem is the body of PUT /pmem/{id}, since 1.14.0. The file's pages are shared by all VMs that map it.
type Pmem struct {
	ID          string       `json:"id"` // letters, digits and _
	PathOnHost  string       `json:"path_on_host"`
	RootDevice  bool         `json:"root_device,omitempty"`
	ReadOnly    bool         `json:"read_only,omitempty"`
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"` // since 1.16.0
}

// PmemUpdate is the body of PATCH /pmem/{id}, since 1.16.0.
type PmemUpdate struct {
	ID          string       `json:"id"`
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
}

// NetworkInterface is the body of PUT /network-interfaces/{iface_id}. The TAP is opened when it is sent; sent twice
// before the boot, it moves to the end and loses its MMDS binding.
type NetworkInterface struct {
	IfaceID       string       `json:"iface_id"` // letters, digits and _
	HostDevName   string       `json:"host_dev_name"`
	GuestMAC      string       `json:"guest_mac,omitempty"` // default: the guest's driver picks one
	MTU           uint16       `json:"mtu,omitempty"`       // 68 or more; since 1.16.0
	RxRateLimiter *RateLimiter `json:"rx_rate_limiter,omitempty"`
	TxRateLimiter *RateLimiter `json:"tx_rate_limiter,omitempty"`
}

// NetworkInterfaceUpdate is the body of PATCH /network-interfaces/{iface_id}: nil leaves a limiter as it is.
type NetworkInterfaceUpdate struct {
	IfaceID       string       `json:"iface_id"`
	RxRateLimiter *RateLimiter `json:"rx_rate_limiter,omitempty"`
	TxRateLimiter *RateLimiter `json:"tx_rate_limiter,omitempty"`
}

// RateLimiter limits bytes and operations; both buckets must have tokens. In an update a nil bucket stays as it is.
type RateLimiter struct {
	Bandwidth *TokenBucket `json:"bandwidth,omitempty"` // tokens are bytes
	Ops       *TokenBucket `json:"ops,omitempty"`       // tokens are operations
}

// TokenBucket holds Size tokens and is refilled from empty to full in RefillTime milliseconds. OneTimeBurst is spent
// first and never refilled. A bucket of size 0 or refill time 0 limits nothing.
type TokenBucket struct {
	Size         int64 `json:"size"`
	OneTimeBurst int64 `json:"one_time_burst,omitempty"`
	RefillTime   int64 `json:"refill_time"`
}

// Vsock is the body of PUT /vsock. The socket is bound when it is sent and must not exist yet.
type Vsock struct {
	GuestCID uint32 `json:"guest_cid"` // 3 or more; Firecracker itself does not check that
	UDSPath  string `json:"uds_path"`
	// VsockID is deprecated by Firecracker and has no effect.
	VsockID string `json:"vsock_id,omitempty"`
}

// MMDSConfig is the body of PUT /mmds/config. The interfaces must have been sent before.
type MMDSConfig struct {
	NetworkInterfaces []string    `json:"network_interfaces"`
	Version           MMDSVersion `json:"version,omitempty"`      // default V1, which is deprecated
	IPv4Address       string      `json:"ipv4_address,omitempty"` // default 169.254.169.254
	IMDSCompat        bool        `json:"imds_compat,omitempty"`  // since 1.13.0: always text/plain, as EC2 does
}

// MMDSVersion is the metadata service's protocol.
type MMDSVersion string

// The versions of the metadata service. V2 asks guests for a session token.
const (
	MMDSV1 MMDSVersion = "V1"
	MMDSV2 MMDSVersion = "V2"
)
