// Package bytesize reads and writes sizes such as 512M, 8GiB or 1.5G.
package bytesize

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"smartvm/internal/lazyregexp"
)

// The units, all binary: whoever sizes memory or a disk means 1024, with or without the `i`.
const (
	KiB int64 = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// units is ordered as String needs it: the largest first.
var units = []struct {
	letter string
	bytes  int64
}{{"T", TiB}, {"G", GiB}, {"M", MiB}, {"K", KiB}}

// Digits are bounded, so that no input makes big arithmetic slow.
var form = lazyregexp.New(`^([0-9]{1,19})(?:\.([0-9]{1,9}))?([A-Za-z]*)$`)

// Parse reads a size: a number and a unit, K, M, G, T, each also as KB or KiB, or B for bytes, in any case. A number
// without a unit counts in defaultUnit bytes ([MiB] for --memory). A fraction is fine as long as it gives whole bytes.
// Negative sizes, white space, exponents and sizes above 8 EiB are errors.
func Parse(s string, defaultUnit int64) (int64, error) {
	m := form.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is no size: want a number and K, M, G or T, such as 512M or 8GiB", s)
	}
	unit, err := parseUnit(m[3], defaultUnit)
	if err != nil {
		return 0, fmt.Errorf("%q is no size: %w", s, err)
	}
	number := m[1]
	if m[2] != "" {
		number += "." + m[2]
	}
	size, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, fmt.Errorf("%q is no size: %q is no number", s, number)
	}
	size.Mul(size, new(big.Rat).SetInt64(unit))
	switch {
	case !size.IsInt():
		return 0, fmt.Errorf("%q is no size: it gives no whole number of bytes", s)
	case !size.Num().IsInt64():
		return 0, fmt.Errorf("%q is too large: the limit is %d bytes", s, int64(math.MaxInt64))
	}
	return size.Num().Int64(), nil
}

func parseUnit(s string, defaultUnit int64) (int64, error) {
	switch strings.ToUpper(s) {
	case "":
		return defaultUnit, nil
	case "B":
		return 1, nil
	}
	for _, u := range units {
		switch strings.ToUpper(s) {
		case u.letter, u.letter + "B", u.letter + "IB":
			return u.bytes, nil
		}
	}
	return 0, fmt.Errorf("unknown unit %q: want K, M, G or T", s)
}

// String writes a size with the largest unit that fits and at most one digit behind the point: 10.5GiB, 512MiB, 17B.
// It rounds, so it is for people; [Parse] does not always get the same number back.
func String(bytes int64) string {
	for _, u := range units {
		if bytes >= u.bytes {
			text := strconv.FormatFloat(float64(bytes)/float64(u.bytes), 'f', 1, 64)
			return strings.TrimSuffix(text, ".0") + u.letter + "iB"
		}
	}
	return strconv.FormatInt(bytes, 10) + "B"
}
