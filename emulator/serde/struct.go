package serde

import "fmt"

// Field is one field of a struct.
type Field struct {
	name   string
	decode Decode
	// mayMiss: absent from an object is fine. mayEnd: an array may end before it. An Option without serde's default
	// attribute has the first and not the second.
	mayMiss, mayEnd bool
}

// Required is a field that must be there.
func Required(name string, decode Decode) Field { return Field{name: name, decode: decode} }

// Optional is a field of type Option: it may be absent from an object, but not from a struct given as an array.
func Optional(name string, decode Decode) Field {
	return Field{name: name, decode: decode, mayMiss: true}
}

// Default is a field with a default, which stays as it is when the field is absent. It may not be null, unless it is an
// Option too.
func Default(name string, decode Decode) Field {
	return Field{name: name, decode: decode, mayMiss: true, mayEnd: true}
}

// Struct decodes a struct that refuses unknown fields (serde's deny_unknown_fields).
func Struct(name string, fields ...Field) Decode { return structure(name, true, fields) }

// OpenStruct decodes a struct that skips unknown fields.
func OpenStruct(name string, fields ...Field) Decode { return structure(name, false, fields) }

func structure(name string, deny bool, fields []Field) Decode {
	return func(d *Decoder) error {
		c, ok := d.peekValue()
		switch {
		case !ok:
			return d.peekError(eofValue)
		case c == '[':
			if err := d.enter(); err != nil {
				return err
			}
			return d.leave(d.positional(name, fields), d.endList)
		case c == '{':
			if err := d.enter(); err != nil {
				return err
			}
			return d.leave(d.named(deny, fields), d.endObject)
		}
		return d.invalidType("struct " + name)
	}
}

// positional reads the fields from an array in their order.
func (d *Decoder) positional(name string, fields []Field) error {
	first := true
	for i, f := range fields {
		more, err := d.element(&first)
		if err != nil {
			return err
		}
		if more {
			if err := f.decode(d); err != nil {
				return err
			}
			continue
		}
		if !f.mayEnd {
			return Fail("invalid length %d, expected struct %s with %s", i, name, count(len(fields)))
		}
	}
	return nil
}

func count(n int) string {
	if n == 1 {
		return "1 element"
	}
	return fmt.Sprintf("%d elements", n)
}

// named reads the fields from an object.
func (d *Decoder) named(deny bool, fields []Field) error {
	var seen uint64
	first := true
	for {
		key, more, err := d.key(&first)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		i := index(fields, key)
		switch {
		case i >= 0 && seen&(1<<i) != 0:
			return Fail("duplicate field `%s`", key)
		case i < 0 && deny:
			return Fail("unknown field `%s`, expected %s", key, oneOf(names(fields)))
		}
		if err := d.colon(); err != nil {
			return err
		}
		if i < 0 {
			err = d.ignore()
		} else {
			seen |= 1 << i
			err = fields[i].decode(d)
		}
		if err != nil {
			return err
		}
	}
	for i, f := range fields {
		if !f.mayMiss && seen&(1<<i) == 0 {
			return Fail("missing field `%s`", f.name)
		}
	}
	return nil
}

func index(fields []Field, name string) int {
	for i, f := range fields {
		if f.name == name {
			return i
		}
	}
	return -1
}

func names(fields []Field) []string {
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = f.name
	}
	return list
}
