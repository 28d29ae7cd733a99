package serde

import (
	"unicode/utf16"
	"unicode/utf8"
)

// text reads a string whose opening quote was read.
func (d *Decoder) text() (string, error) {
	start := d.at
	var out []byte
	for {
		for d.at < len(d.data) && !special(d.data[d.at]) {
			d.at++
		}
		if d.at == len(d.data) {
			return "", d.error(eofString)
		}
		switch d.data[d.at] {
		case '"':
			out = append(out, d.data[start:d.at]...)
			d.at++
			if !utf8.Valid(out) {
				return "", d.error(invalidUnicode)
			}
			return string(out), nil
		case '\\':
			out = append(out, d.data[start:d.at]...)
			d.at++
			var err error
			if out, err = d.escape(out); err != nil {
				return "", err
			}
			start = d.at
		default:
			d.at++
			return "", d.error(controlCharacter)
		}
	}
}

func special(c byte) bool { return c == '"' || c == '\\' || c < 0x20 }

// escape reads what follows a backslash and appends it to out.
func (d *Decoder) escape(out []byte) ([]byte, error) {
	c, ok := d.next()
	if !ok {
		return nil, d.error(eofString)
	}
	switch c {
	case '"', '\\', '/':
		return append(out, c), nil
	case 'b':
		return append(out, '\b'), nil
	case 'f':
		return append(out, '\f'), nil
	case 'n':
		return append(out, '\n'), nil
	case 'r':
		return append(out, '\r'), nil
	case 't':
		return append(out, '\t'), nil
	case 'u':
		r, err := d.codePoint()
		return utf8.AppendRune(out, r), err
	}
	return nil, d.error(invalidEscape)
}

// codePoint reads the digits of a \u escape, and the second escape of a surrogate pair.
func (d *Decoder) codePoint() (rune, error) {
	high, err := d.hex4()
	if err != nil {
		return 0, err
	}
	if high >= 0xDC00 && high <= 0xDFFF {
		return 0, d.error(loneSurrogate)
	}
	if !utf16.IsSurrogate(high) {
		return high, nil
	}
	for _, want := range []byte{'\\', 'u'} {
		c, ok := d.next()
		if !ok {
			return 0, d.error(eofString)
		}
		if c != want {
			return 0, d.error(endOfHexEscape)
		}
	}
	low, err := d.hex4()
	if err != nil {
		return 0, err
	}
	if low < 0xDC00 || low > 0xDFFF {
		return 0, d.error(loneSurrogate)
	}
	return utf16.DecodeRune(high, low), nil
}

func (d *Decoder) hex4() (rune, error) {
	if len(d.data)-d.at < 4 {
		d.at = len(d.data)
		return 0, d.error(eofString)
	}
	var r rune
	bad := false
	for _, c := range d.data[d.at : d.at+4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			bad = true
		}
	}
	d.at += 4
	if bad {
		return 0, d.error(invalidEscape)
	}
	return r, nil
}
