package smartvm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Bounds of a configuration file.
const (
	maxConfigBytes  = 1 << 20
	maxConfigValues = 100_000        // with aliases expanded: a small file can name a large one
	maxConfigFaults = maxFaultsShown // then reading stops
)

// LoadConfig reads a VM's configuration from a YAML or JSON file of at most 1 MiB. It refuses, with line numbers and
// all at once, what [ParseConfig] refuses; what a VM needs beyond that is checked when the VM is made. Paths in the
// file are relative to the working folder of this process. Every error has the code [InvalidConfig].
func LoadConfig(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{Code: InvalidConfig, Op: "read configuration", Err: err}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, &Error{Code: InvalidConfig, Op: "read configuration", Err: err}
	}
	return ParseConfig(path, data)
}

// ParseConfig reads a VM's configuration from YAML, of which JSON is a part; name stands for the data in errors.
//
// It is strict: unknown keys (the error names the nearest known one), keys given twice, values of a wrong type, a key
// without a value, an explicit 0 where 0 makes no sense, merge keys and a second document are all errors.
func ParseConfig(name string, data []byte) (*Config, error) {
	refuse := func(err error) (*Config, error) {
		return nil, &Error{Code: InvalidConfig, Op: "read " + name, Err: err}
	}
	if len(data) > maxConfigBytes {
		return refuse(fmt.Errorf("is larger than the limit of %d bytes", maxConfigBytes))
	}
	root, err := parseDocument(data)
	if err != nil {
		return refuse(err)
	}
	var c Config
	d := configDecoder{values: maxConfigValues}
	d.decode(root, reflect.ValueOf(&c).Elem(), "")
	if len(d.faults) > 0 {
		return refuse(d.faults)
	}
	return &c, nil
}

// parseDocument returns the value of the only document in data.
func parseDocument(data []byte) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var doc, second yaml.Node
	if err := loader.Load(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("is empty")
	} else if err != nil {
		return nil, syntaxError(err)
	}
	switch err := loader.Load(&second); {
	case err == nil:
		return nil, fmt.Errorf("line %d: a second document: a file describes one VM", second.Line)
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, errors.New("is no YAML document")
	}
	return doc.Content[0], nil
}

// syntaxError puts the parser's error into the form of our own.
func syntaxError(err error) error {
	var at *yaml.LoadError
	if errors.As(err, &at) && at.Mark.Line > 0 {
		return fmt.Errorf("line %d: %s", at.Mark.Line, at.Message)
	}
	return err
}

// configDecoder fills a Config from a YAML tree. The yaml package's own strict decoding knows no paths, no nearest key
// and does not tell an absent key from a zero.
type configDecoder struct {
	faults  faults
	values  int  // how many values may still come
	stopped bool // too many values or faults: the rest is not looked at
}

func (d *configDecoder) add(n *yaml.Node, format string, args ...any) {
	if d.stopped {
		return
	}
	d.faults.add("line %d: %s", n.Line, fmt.Sprintf(format, args...))
	d.stopped = len(d.faults) == maxConfigFaults
}

// decode sets v to what n says, and adds a fault where it cannot. key is n's path, empty for the whole file.
func (d *configDecoder) decode(n *yaml.Node, v reflect.Value, key string) {
	if d.values--; d.values < 0 {
		d.add(n, "too many values: the limit is %d, aliases expanded", maxConfigValues)
		d.stopped = true
	}
	if d.stopped {
		return
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.ShortTag() == "!!null" {
		d.add(n, "%s has no value: give one, or leave the key out for the default", orFile(key))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(n, v.Elem(), key)
	case reflect.Struct:
		d.mapping(n, v, key)
	case reflect.Slice:
		d.sequence(n, v, key)
	default:
		d.scalar(n, v, key)
	}
}

func (d *configDecoder) mapping(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode || n.ShortTag() != "!!map" {
		d.add(n, "%s must be a mapping of keys to values, is %s", orFile(key), describe(n))
		return
	}
	known := fieldsOf(v.Type())
	lines := map[string]int{} // where each key was found
	for i := 0; i+1 < len(n.Content) && !d.stopped; i += 2 {
		k, value := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str" {
			d.add(k, "a key of %s must be plain text, is %s", orFile(key), describe(k))
			continue
		}
		name := k.Value
		index, ok := known[name]
		if !ok {
			d.add(k, "%s", unknownKey(name, key, v.Type()))
			continue
		}
		if first, twice := lines[name]; twice {
			d.add(k, "%s is given twice, first in line %d", join(key, name), first)
			continue
		}
		lines[name] = k.Line

		before := len(d.faults)
		field, info := v.Field(index), v.Type().Field(index)
		d.decode(value, field, join(key, name))
		if info.Tag.Get("explicit") == "nonzero" && field.IsZero() && len(d.faults) == before {
			d.add(value, "%s must not be 0: leave the key out for the default", join(key, name))
		}
	}
}

func (d *configDecoder) sequence(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.SequenceNode || n.ShortTag() != "!!seq" {
		d.add(n, "%s must be a list, is %s", key, describe(n))
		return
	}
	for i, entry := range n.Content {
		if d.stopped {
			return
		}
		element := reflect.New(v.Type().Elem()).Elem()
		d.decode(entry, element, fmt.Sprintf("%s[%d]", key, i))
		v.Set(reflect.Append(v, element))
	}
}

func (d *configDecoder) scalar(n *yaml.Node, v reflect.Value, key string) {
	tag := ""
	if n.Kind == yaml.ScalarNode {
		tag = n.ShortTag()
	}
	switch kind := v.Kind(); {
	case kind == reflect.String:
		if tag == "!!str" {
			v.SetString(n.Value)
			return
		}
		advice := ""
		if strings.HasPrefix(tag, "!!") {
			advice = ": put it in quotes"
		}
		d.add(n, "%s must be text, is %s%s", key, describe(n), advice)
	case kind == reflect.Bool:
		if tag == "!!bool" && (n.Value == "true" || n.Value == "false") {
			v.SetBool(n.Value == "true")
			return
		}
		d.add(n, "%s must be true or false, is %s", key, describe(n))
	case v.CanInt():
		number, err := strconv.ParseInt(n.Value, 10, v.Type().Bits())
		if d.wholeNumber(n, tag, err, key) {
			v.SetInt(number)
		}
	case v.CanUint():
		number, err := strconv.ParseUint(n.Value, 10, v.Type().Bits())
		if d.wholeNumber(n, tag, err, key) {
			v.SetUint(number)
		}
	case v.CanFloat():
		number, err := strconv.ParseFloat(n.Value, v.Type().Bits())
		if (tag != "!!float" && tag != "!!int") || err != nil || strings.Trim(n.Value, "-.0123456789") != "" {
			d.add(n, "%s must be a number in decimal digits, is %s", key, describe(n))
			return
		}
		v.SetFloat(number)
	default: // a field of a new kind in Config; every test that reads a file meets it
		panic(fmt.Sprintf("smartvm: no way to read %s", v.Type()))
	}
}

// wholeNumber takes decimal digits only. YAML has seven more ways to write a number, and 010 is eight in one version
// of it and ten in the next.
func (d *configDecoder) wholeNumber(n *yaml.Node, tag string, err error, key string) bool {
	digits := strings.TrimPrefix(n.Value, "-")
	plain := tag == "!!int" && digits != "" && strings.Trim(digits, "0123456789") == "" && (digits == "0" || digits[0] != '0')
	switch {
	case !plain:
		d.add(n, "%s must be a whole number in decimal digits, is %s", key, describe(n))
	case err != nil:
		d.add(n, "%s is out of range: %s", key, describe(n))
	}
	return plain && err == nil
}

// describe says for an error what was found instead.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	const enough = 40
	text := n.Value
	if len(text) > enough {
		text = strings.ToValidUTF8(text[:enough], "") + "…"
	}
	switch n.ShortTag() {
	case "!!str":
		return fmt.Sprintf("the text %q", text)
	case "!!int", "!!float":
		return "the number " + text
	case "!!merge":
		return "a merge key (<<), which is not supported"
	default:
		return fmt.Sprintf("%q", text)
	}
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func orFile(key string) string {
	if key == "" {
		return "the file"
	}
	return key
}
