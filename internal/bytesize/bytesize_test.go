package bytesize

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		unit int64
		want int64
	}{
		{"512", MiB, 512 * MiB},
		{"512", 1, 512},
		{"0", MiB, 0},
		{"17B", MiB, 17},
		{"1K", 1, 1024},
		{"1k", 1, 1024},
		{"512M", 1, 512 * MiB},
		{"512MB", 1, 512 * MiB},
		{"512mib", 1, 512 * MiB},
		{"8GiB", 1, 8 * GiB},
		{"8gb", 1, 8 * GiB},
		{"1.5G", 1, 1536 * MiB},
		{"0.5K", 1, 512},
		{"2T", 1, 2 * TiB},
		{"007M", 1, 7 * MiB},
		{"9223372036854775807B", 1, 1<<63 - 1},
	} {
		if got, err := Parse(c.in, c.unit); err != nil || got != c.want {
			t.Errorf("Parse(%q, %d) = %d, %v; want %d", c.in, c.unit, got, err, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                     "is no size: want a number and",
		"M":                    "is no size",
		"-1":                   "is no size",
		"+1":                   "is no size",
		" 1G":                  "is no size",
		"1 G":                  "is no size",
		"1G\n":                 "is no size",
		"1e3":                  `is no size`,
		"0x10":                 "is no size",
		"1.":                   "is no size",
		".5G":                  "is no size",
		"1,5G":                 "is no size",
		"0.3K":                 "no whole number of bytes",
		"1.5":                  "no whole number of bytes",
		"1P":                   `unknown unit "P"`,
		"1GiBB":                `unknown unit "GiBB"`,
		"1iB":                  `unknown unit "iB"`,
		"9223372036854775808B": "is too large",
		"8388608T":             "is too large",
		"99999999999999999999": "is no size",
		"١":                    "is no size",
		"1Ki":                  `unknown unit "Ki"`,
	} {
		got, err := Parse(in, 1)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %d, %v; want an error with %q", in, got, err, want)
		}
	}
}

func TestString(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[int64]string{
		0: "0B", 1023: "1023B", KiB: "1KiB", 1536: "1.5KiB", 200 * MiB: "200MiB", 10*GiB + GiB/2: "10.5GiB", 3 * TiB: "3TiB",
	} {
		if got := String(bytes); got != want {
			t.Errorf("String(%d) = %s, want %s", bytes, got, want)
		}
	}
}

func TestWholeUnitsSurviveARoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		u := rapid.SampledFrom(units).Draw(t, "unit")
		size := rapid.Int64Range(0, 1023).Draw(t, "count") * u.bytes
		if got, err := Parse(String(size), 1); err != nil || got != size {
			t.Fatalf("%d → %s → %d, %v", size, String(size), got, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"512M", "1.5GiB", "0.000000001T", "9223372036854775807", "1e9", "0x10", "-1", "1 G"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		size, err := Parse(s, MiB)
		if err != nil && size != 0 || size < 0 {
			t.Errorf("Parse(%q) = %d, %v", s, size, err)
		}
	})
}
