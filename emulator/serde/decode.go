package serde

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// invalidType is the error for a value of another type than expected, which is read as far as serde_json reads it.
func (d *Decoder) invalidType(expected string) error {
	var is string
	c, _ := d.peekValue()
	switch {
	case c == 'n' || c == 't' || c == 'f':
		d.at++
		rest, name := "ull", "null"
		if c == 't' {
			rest, name = "rue", "boolean `true`"
		} else if c == 'f' {
			rest, name = "alse", "boolean `false`"
		}
		if err := d.ident(rest); err != nil {
			return err
		}
		is = name
	case c == '-' || isDigit(c):
		n, err := d.number()
		if err != nil {
			return err
		}
		is = n.unexpected()
	case c == '"':
		d.at++
		s, err := d.text()
		if err != nil {
			return err
		}
		is = "string " + rustQuote(s)
	case c == '[':
		is = "sequence"
	case c == '{':
		is = "map"
	default:
		return d.peekError(expectedValue)
	}
	return d.error("invalid type: " + is + ", expected " + expected)
}

// String decodes a string.
func String[S ~string](p *S) Decode {
	return func(d *Decoder) error {
		s, err := d.str("a string")
		*p = S(s)
		return err
	}
}

// Path decodes a path. It is a string; only the error's words differ.
func Path(p *string) Decode {
	return func(d *Decoder) (err error) {
		*p, err = d.str("path string")
		return err
	}
}

// Parsed decodes a string that parse turns into a value. As in serde's functions of that kind, an error of parse (see
// [Fail]) gets the place where the struct around it ends.
func Parsed[T any](p *T, parse func(string) (T, error)) Decode {
	return func(d *Decoder) error {
		s, err := d.str("a string")
		if err == nil {
			*p, err = parse(s)
		}
		return err
	}
}

// ParsedAs is [Parsed] for types whose visitor parses the string: their errors call the type by its name and have the
// string's place.
func ParsedAs[T any](expected string, p *T, parse func(string) (T, error)) Decode {
	return func(d *Decoder) error {
		s, err := d.str(expected)
		if err != nil {
			return err
		}
		*p, err = parse(s)
		return d.place(err)
	}
}

func (d *Decoder) str(expected string) (string, error) {
	c, ok := d.peekValue()
	switch {
	case !ok:
		return "", d.peekError(eofValue)
	case c != '"':
		return "", d.invalidType(expected)
	}
	d.at++
	return d.text()
}

// Bool decodes true or false.
func Bool(p *bool) Decode {
	return func(d *Decoder) error {
		c, ok := d.peekValue()
		switch {
		case !ok:
			return d.peekError(eofValue)
		case c == 't':
			*p = true
			d.at++
			return d.ident("rue")
		case c == 'f':
			*p = false
			d.at++
			return d.ident("alse")
		}
		return d.invalidType("a boolean")
	}
}

// Uint8 decodes Rust's u8.
func Uint8(p *uint8) Decode { return unsigned(p, "u8", math.MaxUint8) }

// Uint16 decodes Rust's u16.
func Uint16(p *uint16) Decode { return unsigned(p, "u16", math.MaxUint16) }

// Uint32 decodes Rust's u32.
func Uint32(p *uint32) Decode { return unsigned(p, "u32", math.MaxUint32) }

// Uint64 decodes Rust's u64.
func Uint64(p *uint64) Decode { return unsigned(p, "u64", math.MaxUint64) }

// Usize decodes Rust's usize of 64 bits.
func Usize(p *uint64) Decode { return unsigned(p, "usize", math.MaxUint64) }

func unsigned[T uint8 | uint16 | uint32 | uint64](p *T, name string, limit uint64) Decode {
	return func(d *Decoder) error {
		c, ok := d.peekValue()
		switch {
		case !ok:
			return d.peekError(eofValue)
		case c != '-' && !isDigit(c):
			return d.invalidType(name)
		}
		n, err := d.number()
		switch {
		case err != nil:
			return err
		case n.kind == 'f':
			return d.error("invalid type: " + n.unexpected() + ", expected " + name)
		case n.kind == 'i' || n.u > limit:
			return d.error("invalid value: " + n.unexpected() + ", expected " + name)
		}
		*p = T(n.u)
		return nil
	}
}

// Option decodes null as nil and anything else as inner does.
func Option[T any](p **T, inner func(*T) Decode) Decode {
	return func(d *Decoder) error {
		if c, _ := d.peekValue(); c == 'n' {
			*p = nil
			d.at++
			return d.ident("ull")
		}
		v := new(T)
		if err := inner(v)(d); err != nil {
			return err
		}
		*p = v
		return nil
	}
}

// Vec decodes an array.
func Vec[T any](p *[]T, inner func(*T) Decode) Decode {
	return func(d *Decoder) error {
		c, ok := d.peekValue()
		switch {
		case !ok:
			return d.peekError(eofValue)
		case c != '[':
			return d.invalidType("a sequence")
		}
		if err := d.enter(); err != nil {
			return err
		}
		list := []T{}
		err := d.elements(func(int) error {
			var v T
			if err := inner(&v)(d); err != nil {
				return err
			}
			list = append(list, v)
			return nil
		})
		*p = list
		return d.leave(err, d.endList)
	}
}

func (d *Decoder) elements(each func(i int) error) error {
	first := true
	for i := 0; ; i++ {
		more, err := d.element(&first)
		if err != nil || !more {
			return err
		}
		if err := each(i); err != nil {
			return err
		}
	}
}

// Enum decodes one of a set of names, given as a string or as an object with that one key and the value null.
func Enum[S ~string](p *S, variants ...S) Decode {
	names := make([]string, len(variants))
	for i, v := range variants {
		names[i] = string(v)
	}
	variant := func(d *Decoder) error {
		s, err := d.str("variant identifier")
		if err != nil {
			return err
		}
		for _, v := range variants {
			if string(v) == s {
				*p = v
				return nil
			}
		}
		return d.error(fmt.Sprintf("unknown variant `%s`, expected %s", s, oneOf(names)))
	}
	return func(d *Decoder) error {
		c, ok := d.peekValue()
		switch {
		case !ok:
			return d.peekError(eofValue)
		case c == '"':
			return variant(d)
		case c != '{':
			return d.peekError(expectedValue)
		}
		if err := d.enter(); err != nil {
			return err
		}
		err := variant(d)
		if err == nil {
			err = d.colon()
		}
		if err == nil {
			err = d.unit()
		}
		d.depth++
		if err != nil {
			return err
		}
		switch c, ok := d.peekValue(); {
		case !ok:
			return d.error(eofObject)
		case c != '}':
			return d.error(expectedValue)
		}
		d.at++
		return nil
	}
}

func (d *Decoder) unit() error {
	c, ok := d.peekValue()
	switch {
	case !ok:
		return d.peekError(eofValue)
	case c != 'n':
		return d.invalidType("unit")
	}
	d.at++
	return d.ident("ull")
}

// oneOf lists names as serde's OneOf does.
func oneOf(names []string) string {
	switch len(names) {
	case 1:
		return "`" + names[0] + "`"
	case 2:
		return "`" + names[0] + "` or `" + names[1] + "`"
	}
	return "one of `" + strings.Join(names, "`, `") + "`"
}

// rustQuote quotes as Rust's {:?} does, which differs from Go's %q only in characters that no caller meets in practice.
func rustQuote(s string) string { return strconv.Quote(s) }

// Check runs check after a value was decoded. Its error (see [Fail]) gets its place as with [Parsed].
func Check(inner Decode, check func() error) Decode {
	return func(d *Decoder) error {
		if err := inner(d); err != nil {
			return err
		}
		return check()
	}
}
