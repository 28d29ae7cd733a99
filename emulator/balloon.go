package emulator

import (
	"errors"
	"fmt"
	"math"

	"smartvm/emulator/machine"
	"smartvm/emulator/serde"
)

// pagesPerMiB counts the balloon's pages of 4 KiB.
const pagesPerMiB = 256

// balloonConfig is the body of PUT /balloon and the answer of GET.
type balloonConfig struct {
	AmountMiB         uint32 `json:"amount_mib"`
	DeflateOnOOM      bool   `json:"deflate_on_oom"`
	StatsInterval     uint16 `json:"stats_polling_interval_s"`
	FreePageHinting   bool   `json:"free_page_hinting"`
	FreePageReporting bool   `json:"free_page_reporting"`
}

func decodeBalloon(b *balloonConfig) serde.Decode {
	return serde.Struct("BalloonDeviceConfig",
		serde.Required("amount_mib", serde.Uint32(&b.AmountMiB)),
		serde.Required("deflate_on_oom", serde.Bool(&b.DeflateOnOOM)),
		serde.Default("stats_polling_interval_s", serde.Uint16(&b.StatsInterval)),
		serde.Default("free_page_hinting", serde.Bool(&b.FreePageHinting)),
		serde.Default("free_page_reporting", serde.Bool(&b.FreePageReporting)))
}

func (b *balloonConfig) spec() *machine.Balloon {
	if b == nil {
		return nil
	}
	return &machine.Balloon{AmountMiB: int(b.AmountMiB), DeflateOnOOM: b.DeflateOnOOM, StatsInterval: int(b.StatsInterval),
		FreePageHint: b.FreePageHinting, FreePageRept: b.FreePageReporting}
}

var (
	errHintingOff   = errors.New("Balloon: Attempting to use hinting when not enabled")
	errStatsOff     = errors.New("Balloon: Received stats query when stats are disabled.")
	errStatsFixed   = errors.New("Balloon: Statistics cannot be enabled/disabled after activation.")
	errNotActivated = errors.New("Balloon: Device not activated yet.")
)

// putBalloon sets the one balloon.
type putBalloon struct {
	onlyBeforeStart
	cfg balloonConfig
}

func parsePutBalloon(body []byte) (action, string, error) {
	var a putBalloon
	err := decode(body, decodeBalloon(&a.cfg))
	return a, "", err
}

func (a putBalloon) beforeStart(c *controller) (any, error) {
	c.bootPath = true
	return nil, prefix("Balloon config error: ", c.setBalloon(a.cfg))
}

func (c *controller) setBalloon(cfg balloonConfig) error {
	const most = math.MaxUint32 / pagesPerMiB
	switch {
	case uint64(cfg.AmountMiB) > c.vm.machine.MemoryMiB:
		return errors.New("Amount of pages requested is too large.")
	case cfg.AmountMiB > most:
		return fmt.Errorf("Error creating the balloon device: Requested memory should be less than %dMiB", most)
	}
	c.vm.balloon = &cfg
	return nil
}

// getBalloon answers GET /balloon.
type getBalloon struct{}

func (getBalloon) beforeStart(c *controller) (any, error) {
	if c.vm.balloon == nil {
		return nil, errors.New("Balloon config error: No balloon device found.")
	}
	return *c.vm.balloon, nil
}

func (getBalloon) afterStart(c *controller) (any, error) {
	if c.vm.balloon == nil {
		return nil, prefix("Internal VMM error: ", errNoSuchDevice)
	}
	return *c.vm.balloon, nil
}

// balloonCall is a request for a running VM's balloon; run sees it only if there is one.
type balloonCall struct {
	onlyAfterStart
	words string // before every fault
	run   func(c *controller, b *balloonConfig) (any, error)
}

func (a balloonCall) afterStart(c *controller) (any, error) {
	b := c.vm.balloon
	if b == nil {
		return nil, prefix(a.words, errNoSuchDevice)
	}
	data, err := a.run(c, b)
	return data, prefix(a.words, err)
}

const balloonUpdateWords = "Balloon update error: "

// setBalloonTarget tells the machine the balloon's target, and whether a driver in the guest listens.
func (c *controller) setBalloonTarget(amountMiB uint32) error {
	err := c.machine.SetBalloon(c.ctx, int(amountMiB))
	if errors.Is(err, machine.ErrNotActivated) {
		return errNotActivated
	}
	return prefix("Balloon: Received error while sending an interrupt: ", err)
}

func parsePatchBalloon(body []byte) (action, string, error) {
	var amount uint32
	err := decode(body, serde.Struct("BalloonUpdateConfig", serde.Required("amount_mib", serde.Uint32(&amount))))
	return balloonCall{words: balloonUpdateWords, run: func(c *controller, b *balloonConfig) (any, error) {
		if uint64(amount) > c.vm.machine.MemoryMiB {
			if err := c.setBalloonTarget(b.AmountMiB); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("Balloon: Requested memory should be less than %dMiB", amount)
		}
		if err := c.setBalloonTarget(amount); err != nil {
			return nil, err
		}
		b.AmountMiB = amount
		return nil, nil
	}}, "", err
}

// balloonStats is the answer of GET /balloon/statistics; what the guest's driver did not report is left out.
type balloonStats struct {
	TargetPages     uint32 `json:"target_pages"`
	ActualPages     uint32 `json:"actual_pages"`
	TargetMiB       uint32 `json:"target_mib"`
	ActualMiB       uint32 `json:"actual_mib"`
	SwapIn          *int64 `json:"swap_in,omitempty"`
	SwapOut         *int64 `json:"swap_out,omitempty"`
	MajorFaults     *int64 `json:"major_faults,omitempty"`
	MinorFaults     *int64 `json:"minor_faults,omitempty"`
	FreeMemory      *int64 `json:"free_memory,omitempty"`
	TotalMemory     *int64 `json:"total_memory,omitempty"`
	AvailableMemory *int64 `json:"available_memory,omitempty"`
	DiskCaches      *int64 `json:"disk_caches,omitempty"`
	HugetlbAllocs   *int64 `json:"hugetlb_allocations,omitempty"`
	HugetlbFailures *int64 `json:"hugetlb_failures,omitempty"`
}

var getBalloonStats = balloonCall{words: "Internal VMM error: ", run: func(c *controller, b *balloonConfig) (any, error) {
	if b.StatsInterval == 0 {
		return nil, errStatsOff
	}
	s, err := c.balloonStats()
	if err != nil {
		return nil, prefix("Balloon: ", err)
	}
	return balloonStats{
		TargetPages: b.AmountMiB * pagesPerMiB, TargetMiB: b.AmountMiB,
		ActualPages: uint32(s.ActualMiB) * pagesPerMiB, ActualMiB: uint32(s.ActualMiB),
		SwapIn: s.SwapIn, SwapOut: s.SwapOut, MajorFaults: s.MajorFaults, MinorFaults: s.MinorFaults,
		FreeMemory: s.FreeMemory, TotalMemory: s.TotalMemory, AvailableMemory: s.AvailableMemory,
		DiskCaches: s.DiskCaches, HugetlbAllocs: s.HugetlbAllocs, HugetlbFailures: s.HugetlbF,
	}, nil
}}

// balloonStats is what the guest's driver reported last, before the snapshot if it did not since.
func (c *controller) balloonStats() (machine.BalloonStats, error) {
	s, err := c.machine.BalloonStats(c.ctx)
	if (s == machine.BalloonStats{ActualMiB: s.ActualMiB}) {
		actual := s.ActualMiB
		s = c.reported
		s.ActualMiB = actual
	}
	return s, err
}

// savedBalloon is what of a balloon's device is in a snapshot, beside its configuration.
type savedBalloon struct {
	HostCommand uint32               `json:"host_cmd"`
	LastCommand uint32               `json:"last_cmd"`
	Stats       machine.BalloonStats `json:"stats"`
}

// saveBalloon is nil where there is no balloon.
func (c *controller) saveBalloon() (*savedBalloon, error) {
	if c.vm.balloon == nil {
		return nil, nil
	}
	stats, err := c.balloonStats()
	return &savedBalloon{c.hinting.HostCommand, c.hinting.last, stats}, err
}

func (c *controller) restoreBalloon(saved *savedBalloon) {
	if saved != nil {
		c.hinting = hinting{HostCommand: saved.HostCommand, last: saved.LastCommand}
		c.reported = saved.Stats
	}
}

func parsePatchBalloonStats(body []byte) (action, string, error) {
	var interval uint16
	err := decode(body, serde.Struct("BalloonUpdateStatsConfig",
		serde.Required("stats_polling_interval_s", serde.Uint16(&interval))))
	return balloonCall{words: balloonUpdateWords, run: func(c *controller, b *balloonConfig) (any, error) {
		switch {
		case interval == b.StatsInterval:
			return nil, nil
		case interval == 0 || b.StatsInterval == 0:
			return nil, errStatsFixed
		}
		if err := c.machine.SetBalloonInterval(c.ctx, int(interval)); err != nil {
			return nil, prefix("Balloon: ", err)
		}
		b.StatsInterval = interval
		return nil, nil
	}}, "", err
}

// hinting is the state of free page hinting, which the emulator accepts and does not do.
type hinting struct {
	HostCommand  uint32  `json:"host_cmd"`
	GuestCommand *uint32 `json:"guest_cmd"`

	last uint32
}

// hintingDone is the command that ends a run (FREE_PAGE_HINT_DONE).
const hintingDone = 1

func parseStartHinting(body []byte) (action, string, error) {
	var err error
	if body != nil {
		var acknowledge bool
		err = decode(body, serde.OpenStruct("StartHintingCmd", serde.Default("acknowledge_on_stop", serde.Bool(&acknowledge))))
	}
	return hintingCall(func(c *controller, b *balloonConfig) (any, error) {
		c.hinting.last = max(2, c.hinting.last+1) // 0 and 1 are commands of their own
		return nil, c.hint(b, c.hinting.last)
	}), "", err
}

var (
	stopHinting = hintingCall(func(c *controller, b *balloonConfig) (any, error) {
		return nil, c.hint(b, hintingDone)
	})
	getHinting = hintingCall(func(c *controller, _ *balloonConfig) (any, error) { return c.hinting, nil })
)

func hintingCall(run func(*controller, *balloonConfig) (any, error)) balloonCall {
	return balloonCall{words: balloonUpdateWords, run: func(c *controller, b *balloonConfig) (any, error) {
		if !b.FreePageHinting {
			return nil, errHintingOff
		}
		return run(c, b)
	}}
}

// hint gives the guest's driver a command, if there is a driver.
func (c *controller) hint(b *balloonConfig, command uint32) error {
	if err := c.setBalloonTarget(b.AmountMiB); err != nil {
		return err
	}
	c.warn("free page hinting")
	c.hinting.HostCommand = command
	return nil
}
