package serde

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A value of any type is decoded as nil, bool, string, uint64, int64 (negative only), float64, []any or map[string]any.

// Any decodes a value of any type. The last of two equal keys wins.
func Any(p *any) Decode {
	return func(d *Decoder) (err error) {
		*p, err = d.any()
		return err
	}
}

func (d *Decoder) any() (any, error) {
	c, ok := d.peekValue()
	switch {
	case !ok:
		return nil, d.peekError(eofValue)
	case c == 'n':
		d.at++
		return nil, d.ident("ull")
	case c == 't':
		d.at++
		return true, d.ident("rue")
	case c == 'f':
		d.at++
		return false, d.ident("alse")
	case c == '"':
		d.at++
		return d.anyText()
	case c == '-' || isDigit(c):
		n, err := d.number()
		if err != nil {
			return nil, err
		}
		switch n.kind {
		case 'u':
			return n.u, nil
		case 'i':
			return n.i, nil
		}
		return n.float, nil
	case c == '[':
		return d.anyList()
	case c == '{':
		return d.anyObject()
	}
	return nil, d.peekError(expectedValue)
}

func (d *Decoder) anyText() (any, error) {
	s, err := d.text()
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (d *Decoder) anyList() (any, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	list := []any{}
	err := d.elements(func(int) error {
		v, err := d.any()
		list = append(list, v)
		return err
	})
	return list, d.leave(err, d.endList)
}

func (d *Decoder) anyObject() (any, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	object := map[string]any{}
	return object, d.leave(d.members(object), d.endObject)
}

func (d *Decoder) members(object map[string]any) error {
	first := true
	for {
		key, more, err := d.key(&first)
		if err != nil || !more {
			return err
		}
		if err := d.colon(); err != nil {
			return err
		}
		if object[key], err = d.any(); err != nil {
			return err
		}
	}
}

// Marshal writes a value that [Any] decoded as serde_json does: compact, keys sorted, nothing escaped without need.
func Marshal(v any) []byte { return appendValue(nil, v) }

func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case bool:
		return strconv.AppendBool(b, v)
	case string:
		return AppendString(b, v)
	case uint64:
		return strconv.AppendUint(b, v, 10)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case float64:
		return append(b, formatFloat(v)...)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, e)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(AppendString(b, k), ':')
			b = appendValue(b, v[k])
		}
		return append(b, '}')
	}
	return append(b, "null"...)
}

// AppendString appends s as a JSON string in serde_json's form.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			if c < 0x20 {
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
				continue
			}
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// formatFloat writes the shortest digits that read back as f, in the form of serde_json's float crate (zmij): plain between
// 1e-5 and 1e16, else with a signed exponent, and always recognisable as a float.
func formatFloat(f float64) string {
	if f == 0 {
		if math.Signbit(f) {
			return "-0.0"
		}
		return "0.0"
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	mantissa, exp, _ := strings.Cut(s, "e")
	e, _ := strconv.Atoi(exp)
	if e >= -5 && e < 16 {
		plain := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(plain, ".") {
			plain += ".0"
		}
		return plain
	}
	return fmt.Sprintf("%se%+d", mantissa, e)
}
