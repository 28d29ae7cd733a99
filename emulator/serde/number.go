package serde

import (
	"math"
	"strconv"
)

// number is a JSON number as serde_json classes it: an integer without fraction, exponent or overflow, or a float.
type number struct {
	kind  byte // 'u', 'i' (negative) or 'f'
	u     uint64
	i     int64
	float float64
}

// unexpected says in serde's words what the number is.
func (n number) unexpected() string {
	switch n.kind {
	case 'u':
		return "integer `" + strconv.FormatUint(n.u, 10) + "`"
	case 'i':
		return "integer `" + strconv.FormatInt(n.i, 10) + "`"
	}
	return "floating point `" + formatFloat(n.float) + "`"
}

// number reads a number. Its grammar is RFC 8259's; a sign was not read yet.
func (d *Decoder) number() (number, error) {
	positive := true
	if d.peek() == '-' {
		positive = false
		d.at++
	}
	c, ok := d.next()
	switch {
	case !ok:
		return number{}, d.error(eofValue)
	case c == '0':
		if isDigit(d.peek()) {
			return number{}, d.peekError(invalidNumber)
		}
		return d.afterInteger(positive, 0)
	case c < '1' || c > '9':
		return number{}, d.error(invalidNumber)
	}
	significand := uint64(c - '0')
	for isDigit(d.peek()) {
		next, over := push(significand, d.peek())
		if over {
			return d.longInteger(positive, significand)
		}
		d.at++
		significand = next
	}
	return d.afterInteger(positive, significand)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// push appends a digit, and tells whether that overflows.
func push(n uint64, digit byte) (uint64, bool) {
	v := uint64(digit - '0')
	if n > math.MaxUint64/10 || n == math.MaxUint64/10 && v > math.MaxUint64%10 {
		return 0, true
	}
	return n*10 + v, false
}

func (d *Decoder) afterInteger(positive bool, significand uint64) (number, error) {
	switch d.peek() {
	case '.':
		return d.fraction(positive, significand, 0)
	case 'e', 'E':
		return d.exponent(positive, significand, 0)
	}
	if positive {
		return number{kind: 'u', u: significand}, nil
	}
	// An underflow and -0 become floats.
	if neg := -int64(significand); neg < 0 {
		return number{kind: 'i', i: neg}, nil
	}
	return number{kind: 'f', float: -float64(significand)}, nil
}

// longInteger goes on with an integer that no longer fits 64 bits.
func (d *Decoder) longInteger(positive bool, significand uint64) (number, error) {
	exponent := 0
	for isDigit(d.peek()) {
		d.at++
		exponent++
	}
	switch d.peek() {
	case '.':
		return d.fraction(positive, significand, exponent)
	case 'e', 'E':
		return d.exponent(positive, significand, exponent)
	}
	return d.float(positive, significand, exponent)
}

func (d *Decoder) fraction(positive bool, significand uint64, exponent int) (number, error) {
	d.at++
	digits := 0
	for over := false; isDigit(d.peek()); d.at++ {
		digits++
		if over {
			continue // digits beyond 64 bits change nothing
		}
		var next uint64
		if next, over = push(significand, d.peek()); !over {
			significand = next
			exponent--
		}
	}
	if digits == 0 {
		if d.at < len(d.data) {
			return number{}, d.peekError(invalidNumber)
		}
		return number{}, d.peekError(eofValue)
	}
	if c := d.peek(); c == 'e' || c == 'E' {
		return d.exponent(positive, significand, exponent)
	}
	return d.float(positive, significand, exponent)
}

func (d *Decoder) exponent(positive bool, significand uint64, start int) (number, error) {
	d.at++
	negative := d.peek() == '-'
	if negative || d.peek() == '+' {
		d.at++
	}
	c, ok := d.next()
	switch {
	case !ok:
		return number{}, d.error(eofValue)
	case !isDigit(c):
		return number{}, d.error(invalidNumber)
	}
	exp := int(c - '0')
	for isDigit(d.peek()) {
		c, _ := d.next()
		if exp = exp*10 + int(c-'0'); exp > math.MaxInt32 {
			return d.exponentOverflow(positive, significand, negative)
		}
	}
	if negative {
		exp = -exp
	}
	return d.float(positive, significand, start+exp)
}

func (d *Decoder) exponentOverflow(positive bool, significand uint64, negative bool) (number, error) {
	if significand != 0 && !negative {
		return number{}, d.error(outOfRange)
	}
	for isDigit(d.peek()) {
		d.at++
	}
	return d.float(positive, 0, 0)
}

// float computes the value as serde_json does without its float_roundtrip feature: one rounding to float64 for the
// digits, one for the power of ten. Its last bit may differ from the nearest number.
func (d *Decoder) float(positive bool, significand uint64, exponent int) (number, error) {
	f := float64(significand)
	for f != 0 || exponent >= -308 && exponent <= 308 {
		if exponent >= -308 && exponent <= 308 {
			if exponent < 0 {
				f /= math.Pow10(-exponent)
				break
			}
			if f *= math.Pow10(exponent); math.IsInf(f, 0) {
				return number{}, d.error(outOfRange)
			}
			break
		}
		if exponent > 0 {
			return number{}, d.error(outOfRange)
		}
		f /= 1e308
		exponent += 308
	}
	if !positive {
		f = -f
	}
	return number{kind: 'f', float: f}, nil
}
