// Package tsc measures the frequency of the CPU's time stamp counter.
//
// A kernel under QEMU's TCG reads the host's counter. It would measure the counter's frequency against a timer that TCG
// emulates, and takes the wrong answer, or none, where the host is busy: `tsc_early_khz=` on its command line tells it.
package tsc

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Sample is the time stamp counter and the clock at one moment.
type Sample struct {
	ticks uint64 // 0: this CPU's cannot be read
	ns    int64  // CLOCK_MONOTONIC_RAW, which no NTP bends
}

// measureTime is the least time between two samples. Each is good to some 100 ns, so the frequency is to 20 ppm.
const measureTime = 10 * time.Millisecond

// Take reads both as close to one another as a few tries allow: a thread may be interrupted in between.
func Take() Sample {
	var best Sample
	gap := int64(1 << 62)
	for range 8 {
		before := rawClock()
		ticks := readTSC()
		after := rawClock()
		if after-before < gap {
			gap, best = after-before, Sample{ticks, before + (after-before)/2}
		}
	}
	return best
}

// KHz measures the counter's frequency since the sample: the longer ago that is, the better.
func (s Sample) KHz() (int, error) {
	if s.ticks == 0 {
		return 0, errors.New("this CPU's time stamp counter cannot be read")
	}
	if wait := measureTime - time.Duration(rawClock()-s.ns); wait > 0 {
		<-time.After(wait)
	}
	now := Take()
	khz := float64(now.ticks-s.ticks) / float64(now.ns-s.ns) * 1e6
	if khz < 1e5 || khz > 1e8 {
		return 0, errors.New("this CPU's time stamp counter does not count evenly; the guest's clock needs it")
	}
	return int(khz + 0.5), nil
}

func rawClock() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts) // cannot fail
	return ts.Nano()
}
