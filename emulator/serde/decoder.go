// Package serde decodes JSON into Go values exactly as Firecracker does, which uses Rust's serde_json: what encoding/json
// would forgive (unknown fields, duplicate fields, null for a number, 1.0 for an integer, letters in another case) is
// refused, and what it would refuse (a struct given as an array) is accepted. Errors have serde_json's words and places.
//
// A value is described by a [Decode] function; [Struct], [Option], [Vec] and the like build one from others.
package serde

import "bytes"

// maxDepth is how deep arrays and objects may be nested (serde_json's remaining_depth).
const maxDepth = 128

// Decode reads one value from a decoder into what it was made for.
type Decode func(*Decoder) error

// Unmarshal decodes one JSON text, and refuses anything but white space behind it.
func Unmarshal(data []byte, decode Decode) error {
	d := &Decoder{data: data, depth: maxDepth}
	if err := decode(d); err != nil {
		return d.place(err)
	}
	if _, ok := d.peekValue(); ok {
		return d.peekError(trailingChars)
	}
	return nil
}

// Decoder is a position in a JSON text.
type Decoder struct {
	data  []byte
	at    int
	depth int // levels of nesting that are left
}

// peek returns the next byte, or 0 at the end.
func (d *Decoder) peek() byte {
	if d.at < len(d.data) {
		return d.data[d.at]
	}
	return 0
}

// peekValue skips white space and returns the next byte; false at the end.
func (d *Decoder) peekValue() (byte, bool) {
	for ; d.at < len(d.data); d.at++ {
		switch c := d.data[d.at]; c {
		case ' ', '\n', '\t', '\r':
		default:
			return c, true
		}
	}
	return 0, false
}

// next reads one byte; false at the end.
func (d *Decoder) next() (byte, bool) {
	if d.at >= len(d.data) {
		return 0, false
	}
	c := d.data[d.at]
	d.at++
	return c, true
}

// error is a fault in what was just read, peekError one in the byte ahead.
func (d *Decoder) error(message string) *Error     { return d.errorAt(message, d.at) }
func (d *Decoder) peekError(message string) *Error { return d.errorAt(message, d.at+1) }

func (d *Decoder) errorAt(message string, at int) *Error {
	at = min(at, len(d.data))
	line := bytes.LastIndexByte(d.data[:at], '\n') + 1
	return &Error{Message: message, Line: 1 + bytes.Count(d.data[:line], []byte{'\n'}), Column: at - line}
}

// place gives an error that has no place yet the current one.
func (d *Decoder) place(err error) error {
	if e, ok := err.(*Error); ok && e.Line == 0 {
		return d.error(e.Message)
	}
	return err
}

// ident reads the rest of true, false or null, whose first letter was read.
func (d *Decoder) ident(rest string) error {
	for i := range len(rest) {
		c, ok := d.next()
		if !ok {
			return d.error(eofValue)
		}
		if c != rest[i] {
			return d.error(expectedIdent)
		}
	}
	return nil
}

// enter begins an array or an object, whose first byte is next.
func (d *Decoder) enter() error {
	d.depth--
	if d.depth == 0 {
		return d.peekError(recursionLimit)
	}
	d.at++
	return nil
}

// leave ends an array or an object with close, which is read, and prefers the fault that the content had. An error of
// the content without a place gets it here, as serde_json does.
func (d *Decoder) leave(content error, end func() error) error {
	d.depth++
	err := end()
	if content == nil {
		content = err
	}
	return d.place(content)
}

func (d *Decoder) endList() error {
	c, ok := d.peekValue()
	switch {
	case !ok:
		return d.peekError(eofList)
	case c == ']':
		d.at++
		return nil
	case c == ',':
		d.at++
		if c, _ := d.peekValue(); c == ']' {
			return d.peekError(trailingComma)
		}
	}
	return d.peekError(trailingChars)
}

func (d *Decoder) endObject() error {
	c, ok := d.peekValue()
	switch {
	case !ok:
		return d.peekError(eofObject)
	case c == '}':
		d.at++
		return nil
	case c == ',':
		return d.peekError(trailingComma)
	}
	return d.peekError(trailingChars)
}

// element tells whether an array has another element, and stands before it.
func (d *Decoder) element(first *bool) (bool, error) {
	c, ok := d.peekValue()
	switch {
	case !ok:
		return false, d.peekError(eofList)
	case c == ']':
		return false, nil
	case *first:
		*first = false
		return true, nil
	case c != ',':
		return false, d.peekError(expectedListEnd)
	}
	d.at++
	c, ok = d.peekValue()
	switch {
	case !ok:
		return false, d.peekError(eofValue)
	case c == ']':
		return false, d.peekError(trailingComma)
	}
	return true, nil
}

// key reads the next key of an object; false when there is none.
func (d *Decoder) key(first *bool) (string, bool, error) {
	c, ok := d.peekValue()
	switch {
	case !ok:
		return "", false, d.peekError(eofObject)
	case c == '}':
		return "", false, nil
	case *first:
		*first = false
		if c != '"' {
			return "", false, d.peekError(keyNotString)
		}
	case c != ',':
		return "", false, d.peekError(expectedObjectEnd)
	default:
		d.at++
		c, ok = d.peekValue()
		switch {
		case !ok:
			return "", false, d.peekError(eofValue)
		case c == '}':
			return "", false, d.peekError(trailingComma)
		case c != '"':
			return "", false, d.peekError(keyNotString)
		}
	}
	d.at++
	s, err := d.text()
	return s, err == nil, err
}

func (d *Decoder) colon() error {
	c, ok := d.peekValue()
	switch {
	case !ok:
		return d.peekError(eofObject)
	case c != ':':
		return d.peekError(expectedColon)
	}
	d.at++
	return nil
}
