package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"smartvm/emulator/machine"
)

// configureBalloon sets what no argument of QEMU's can: the amount at the start and the interval.
func (v *vm) configureBalloon(ctx context.Context) error {
	b := v.spec.Balloon
	if b == nil {
		return nil
	}
	if b.FreePageHint {
		v.warn("balloon: free_page_hinting has no effect on this machine")
	}
	if err := v.setBalloon(ctx, b.AmountMiB); err != nil {
		return err
	}
	return v.setBalloonInterval(ctx, b.StatsInterval)
}

var errNoBalloon = errors.New("the machine has no balloon")

// setBalloon asks the guest for amountMiB. QEMU counts the other way: what is left to the guest.
func (v *vm) setBalloon(ctx context.Context, amountMiB int) error {
	if v.spec.Balloon == nil {
		return errNoBalloon
	}
	left := max(int64(v.spec.MemoryMiB-amountMiB)<<20, pageSize) // QEMU wants a size above 0
	_, err := v.execute(ctx, "balloon", map[string]any{"value": left}, nil)
	return err
}

func (v *vm) setBalloonInterval(ctx context.Context, seconds int) error {
	if v.spec.Balloon == nil {
		return errNoBalloon
	}
	_, err := v.execute(ctx, "qom-set",
		map[string]any{"path": balloonPath, "property": "guest-stats-polling-interval", "value": seconds}, nil)
	return err
}

// balloonStats asks QEMU for what the guest's driver reported last, and for the size, which is known at once.
func (v *vm) balloonStats(ctx context.Context) (machine.BalloonStats, error) {
	var none machine.BalloonStats
	if v.spec.Balloon == nil {
		return none, errNoBalloon
	}
	answer, err := v.execute(ctx, "query-balloon", nil, nil)
	if err != nil {
		return none, err
	}
	var size struct {
		Actual int64 `json:"actual"`
	}
	if err := json.Unmarshal(answer, &size); err != nil {
		return none, fmt.Errorf("QEMU's answer to query-balloon: %w", err)
	}
	answer, err = v.execute(ctx, "qom-get", map[string]any{"path": balloonPath, "property": "guest-stats"}, nil)
	if err != nil {
		return none, err
	}
	stats, err := parseStats(answer)
	stats.ActualMiB = v.spec.MemoryMiB - int(size.Actual>>20)
	return stats, err
}

// parseStats reads guest-stats. The guest chooses the numbers; one that it did not report is all ones.
func parseStats(answer json.RawMessage) (machine.BalloonStats, error) {
	var reply struct {
		Stats map[string]json.Number `json:"stats"`
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return machine.BalloonStats{}, fmt.Errorf("QEMU's answer about the balloon's statistics: %w", err)
	}
	get := func(name string) *int64 {
		var n uint64
		if _, err := fmt.Sscan(string(reply.Stats["stat-"+name]), &n); err != nil || n > math.MaxInt64 {
			return nil
		}
		value := int64(n)
		return &value
	}
	return machine.BalloonStats{
		SwapIn: get("swap-in"), SwapOut: get("swap-out"),
		MajorFaults: get("major-faults"), MinorFaults: get("minor-faults"),
		FreeMemory: get("free-memory"), TotalMemory: get("total-memory"), AvailableMemory: get("available-memory"),
		DiskCaches: get("disk-caches"), HugetlbAllocs: get("htlb-pgalloc"), HugetlbF: get("htlb-pgfail"),
	}, nil
}
