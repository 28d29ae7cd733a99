package emulator

import (
	"math"

	"smartvm/emulator/serde"
)

// tokenBucket is one half of a rate limiter: size tokens, refilled in refill_time milliseconds.
type tokenBucket struct {
	Size         uint64  `json:"size"`
	OneTimeBurst *uint64 `json:"one_time_burst"`
	RefillTime   uint64  `json:"refill_time"`
}

func (b *tokenBucket) decode() serde.Decode {
	return serde.OpenStruct("TokenBucketConfig",
		serde.Required("size", serde.Uint64(&b.Size)),
		serde.Optional("one_time_burst", serde.Option(&b.OneTimeBurst, serde.Uint64)),
		serde.Required("refill_time", serde.Uint64(&b.RefillTime)))
}

// effective is the bucket as Firecracker keeps it: none if it limits nothing, and no burst of zero.
func (b *tokenBucket) effective() *tokenBucket {
	const nanosecondsPerMillisecond = 1_000_000
	if b == nil || b.Size == 0 || b.RefillTime == 0 || b.RefillTime > math.MaxUint64/nanosecondsPerMillisecond {
		return nil
	}
	kept := *b
	if kept.OneTimeBurst != nil && *kept.OneTimeBurst == 0 {
		kept.OneTimeBurst = nil
	}
	return &kept
}

// rateLimiter limits bytes and operations of a device.
type rateLimiter struct {
	Bandwidth *tokenBucket `json:"bandwidth"`
	Ops       *tokenBucket `json:"ops"`
}

func (l *rateLimiter) decode() serde.Decode {
	return serde.Struct("RateLimiterConfig",
		serde.Optional("bandwidth", serde.Option(&l.Bandwidth, decodeBucket)),
		serde.Optional("ops", serde.Option(&l.Ops, decodeBucket)))
}

func decodeBucket(b *tokenBucket) serde.Decode  { return b.decode() }
func decodeLimiter(l *rateLimiter) serde.Decode { return l.decode() }

// limiterField is an optional field that holds a rate limiter.
func limiterField(name string, p **rateLimiter) serde.Field {
	return serde.Optional(name, serde.Option(p, decodeLimiter))
}

// effective is the limiter as GET /vm/config shows it: none if it limits nothing.
func (l *rateLimiter) effective() *rateLimiter {
	if l == nil {
		return nil
	}
	kept := &rateLimiter{Bandwidth: l.Bandwidth.effective(), Ops: l.Ops.effective()}
	if kept.Bandwidth == nil && kept.Ops == nil {
		return nil
	}
	return kept
}

// updated merges a PATCH into an effective limiter: a bucket that is not given stays, one that limits nothing ends.
func (l *rateLimiter) updated(patch *rateLimiter) *rateLimiter {
	merged := rateLimiter{}
	if l != nil {
		merged = *l
	}
	if patch != nil && patch.Bandwidth != nil {
		merged.Bandwidth = patch.Bandwidth
	}
	if patch != nil && patch.Ops != nil {
		merged.Ops = patch.Ops
	}
	return merged.effective()
}
