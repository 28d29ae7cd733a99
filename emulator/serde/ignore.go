package serde

// ignore reads any value and drops it, as serde does for a field that a struct does not know. It is less strict than
// reading: numbers may be of any size, escapes may be half of a pair, bytes need not be UTF-8, and nesting has no limit.
func (d *Decoder) ignore() error {
	var open []byte
	for {
		opened, err := d.ignoreScalar(&open)
		if err != nil {
			return err
		}
		more := !opened // a comma may only follow a value
		for len(open) > 0 {
			frame := open[len(open)-1]
			c, ok := d.peekValue()
			if !ok {
				return d.peekError(map[byte]string{'[': eofList, '{': eofObject}[frame])
			}
			if c == ',' && more {
				d.at++
				break
			}
			if c != frame+2 { // ']' and '}' come two behind '[' and '{' in ASCII
				if more {
					return d.peekError(map[byte]string{'[': expectedListEnd, '{': expectedObjectEnd}[frame])
				}
				break
			}
			d.at++
			open = open[:len(open)-1]
			more = true
		}
		if len(open) == 0 {
			return nil
		}
		if open[len(open)-1] == '{' {
			if err := d.ignoreKey(); err != nil {
				return err
			}
		}
	}
}

// ignoreScalar reads a scalar, or opens an array or an object.
func (d *Decoder) ignoreScalar(open *[]byte) (opened bool, err error) {
	c, ok := d.peekValue()
	if !ok {
		return false, d.peekError(eofValue)
	}
	switch {
	case c == 'n':
		d.at++
		return false, d.ident("ull")
	case c == 't':
		d.at++
		return false, d.ident("rue")
	case c == 'f':
		d.at++
		return false, d.ident("alse")
	case c == '-' || isDigit(c):
		return false, d.ignoreNumber()
	case c == '"':
		d.at++
		return false, d.ignoreText()
	case c == '[' || c == '{':
		d.at++
		*open = append(*open, c)
		return true, nil
	}
	return false, d.peekError(expectedValue)
}

func (d *Decoder) ignoreKey() error {
	c, ok := d.peekValue()
	switch {
	case !ok:
		return d.peekError(eofObject)
	case c != '"':
		return d.peekError(keyNotString)
	}
	d.at++
	if err := d.ignoreText(); err != nil {
		return err
	}
	return d.colon()
}

func (d *Decoder) ignoreNumber() error {
	if d.peek() == '-' {
		d.at++
	}
	c, _ := d.next()
	switch {
	case c == '0':
		if isDigit(d.peek()) {
			return d.peekError(invalidNumber)
		}
	case isDigit(c):
		d.ignoreDigits()
	default:
		return d.error(invalidNumber)
	}
	if d.peek() == '.' {
		d.at++
		if d.ignoreDigits() == 0 {
			return d.peekError(invalidNumber)
		}
	}
	if c := d.peek(); c != 'e' && c != 'E' {
		return nil
	}
	d.at++
	if c := d.peek(); c == '+' || c == '-' {
		d.at++
	}
	if c, _ := d.next(); !isDigit(c) {
		return d.error(invalidNumber)
	}
	d.ignoreDigits()
	return nil
}

func (d *Decoder) ignoreDigits() (n int) {
	for isDigit(d.peek()) {
		d.at++
		n++
	}
	return n
}

func (d *Decoder) ignoreText() error {
	for d.at < len(d.data) {
		c := d.data[d.at]
		switch {
		case c == '"':
			d.at++
			return nil
		case c == '\\':
			d.at++
			if err := d.ignoreEscape(); err != nil {
				return err
			}
		case c < 0x20:
			return d.error(controlCharacter)
		default:
			d.at++
		}
	}
	return d.error(eofString)
}

func (d *Decoder) ignoreEscape() error {
	c, ok := d.next()
	if !ok {
		return d.error(eofString)
	}
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return nil
	case 'u':
		_, err := d.hex4()
		return err
	}
	return d.error(invalidEscape)
}
