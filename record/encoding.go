package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

// decode reads a record. A *NewerError has no path yet; any other error is what is wrong with the text.
func decode(text []byte) (*Record, error) {
	if len(text) == 0 {
		return nil, errors.New("it is empty")
	}
	if !utf8.Valid(text) { // encoding/json would replace what is not
		return nil, errors.New("it is not UTF-8")
	}
	var all fields
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	r := &Record{}
	if err := take(all, "schemaVersion", &r.SchemaVersion); err != nil {
		return nil, err
	}
	if r.SchemaVersion > SchemaVersion {
		_ = take(all, "writer", &r.Writer) // which may be something else there
		return nil, &NewerError{Version: r.SchemaVersion, Writer: r.Writer}
	}
	if r.SchemaVersion < 1 {
		return nil, errors.New("it has no schema version")
	}
	var resources []fields
	err := errors.Join(take(all, "writer", &r.Writer), take(all, "boot", &r.Boot), take(all, "resources", &resources))
	if err != nil {
		return nil, err
	}
	if data, ok := all["data"]; ok {
		r.Data = compact(data)
		delete(all, "data")
	}
	r.unknown = all
	for i, of := range resources {
		if err := r.addDecoded(of); err != nil {
			return nil, fmt.Errorf("resource %d: %w", i, err)
		}
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Record) addDecoded(of fields) error {
	var res Resource
	err := errors.Join(take(of, "kind", &res.Kind), take(of, "name", &res.Name),
		take(of, "identity", &res.Identity), take(of, "phase", &res.Phase))
	if err != nil {
		return err
	}
	r.Resources = append(r.Resources, res)
	if len(of) > 0 {
		if r.unknownOf == nil {
			r.unknownOf = map[resourceKey]fields{}
		}
		r.unknownOf[resourceKey{res.Kind, res.Name}] = of
	}
	return nil
}

// take moves a field out of from into value, if it is there. The name counts letter by letter: encoding/json's structs also
// take "KIND" for "kind", and so would lose the one that is not known.
func take(from fields, name string, value any) error {
	text, ok := from[name]
	if !ok {
		return nil
	}
	delete(from, name)
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// encode is the reverse of decode: a line for each field and each resource, for people who look into the file. Data stays
// in one line, so that its size is what the caller gave.
func encode(r *Record) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	version := r.SchemaVersion
	if version == 0 {
		version = SchemaVersion
	}
	if version != SchemaVersion {
		return nil, fmt.Errorf("schema version %d is not %d", version, SchemaVersion)
	}
	o := object{separator: ",\n  "}
	o.add("schemaVersion", version)
	o.add("writer", r.Writer)
	if r.Boot != "" {
		o.add("boot", r.Boot)
	}
	if len(r.Resources) > 0 {
		o.addRaw("resources", r.encodeResources(&o))
	}
	if len(r.Data) > 0 {
		o.add("data", r.Data)
	}
	o.addUnknown(r.unknown)
	if o.err != nil {
		return nil, o.err
	}
	text := fmt.Appendf(nil, "{\n  %s\n}\n", o.text.Bytes())
	if len(text) > maxSize {
		return nil, fmt.Errorf("it would have %d bytes, at most %d", len(text), maxSize)
	}
	return text, nil
}

func (r *Record) encodeResources(parent *object) []byte {
	var lines [][]byte
	for _, res := range r.Resources {
		o := object{separator: ", "}
		o.add("kind", res.Kind)
		o.add("name", res.Name)
		if res.Identity != "" {
			o.add("identity", res.Identity)
		}
		o.add("phase", res.Phase)
		o.addUnknown(r.unknownOf[resourceKey{res.Kind, res.Name}])
		parent.err = errors.Join(parent.err, o.err)
		lines = append(lines, fmt.Appendf(nil, "{%s}", o.text.Bytes()))
	}
	return fmt.Appendf(nil, "[\n    %s\n  ]", bytes.Join(lines, []byte(",\n    ")))
}

// object collects the fields of a JSON object, without its braces.
type object struct {
	separator string
	text      bytes.Buffer
	err       error // of any field
}

func (o *object) add(name string, value any) {
	text, err := marshal(value)
	if err != nil {
		o.err = errors.Join(o.err, fmt.Errorf("%s: %w", name, err))
	}
	o.addRaw(name, text)
}

func (o *object) addRaw(name string, text []byte) {
	if o.text.Len() > 0 {
		o.text.WriteString(o.separator)
	}
	quoted, err := marshal(name)
	o.err = errors.Join(o.err, err)
	fmt.Fprintf(&o.text, "%s: %s", quoted, text)
}

// addUnknown adds fields in the order of their names, so that a record that did not change is the same file.
func (o *object) addUnknown(unknown fields) {
	for _, name := range slices.Sorted(maps.Keys(unknown)) {
		o.add(name, unknown[name])
	}
}

// marshal is json.Marshal but leaves <, > and & as they are: this is no web page.
func marshal(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return bytes.TrimRight(text.Bytes(), "\n"), err
}

// compact takes the blanks out of JSON that was parsed before: what was written comes back the same.
func compact(text json.RawMessage) json.RawMessage {
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil {
		return text
	}
	return out.Bytes()
}
