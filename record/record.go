package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"smartvm/internal/atomicfile"
)

const (
	// SchemaVersion is the version of the records that this program writes. It goes up when an older program would do harm
	// by what it does not know; a new field alone is no reason, as unknown ones are kept.
	SchemaVersion = 1
	// maxSize bounds a record, in bytes.
	maxSize = 4 << 20
	// maxResources bounds how many resources a record has.
	maxResources = 1000
)

// Phase is how far a resource has come.
type Phase string

// The phases of a resource.
const (
	Intended Phase = "intended" // about to be made: it may be there, or not, or half
	Done     Phase = "done"     // made
)

// Resource is something that was made outside of the program and has to be taken away again. Kind and name, together
// unique in a record, are not empty and printable (unicode.IsPrint). What they mean is the caller's.
type Resource struct {
	Kind     string `json:"kind"`               // "process", "tap"
	Name     string `json:"name"`               // known before it is made
	Identity string `json:"identity,omitempty"` // what tells it from another of the same name; known once it is made
	Phase    Phase  `json:"phase"`
}

// Record is what a program notes for whoever comes after a crash. The resources are in the order in which they were made,
// so their way back starts at the end. Fields that this version does not know, in the record or its resources, are kept from
// [Read] to [Write].
type Record struct {
	SchemaVersion int             `json:"schemaVersion"`  // 0 is written as [SchemaVersion]
	Writer        string          `json:"writer"`         // version of the program that wrote it
	Boot          string          `json:"boot,omitempty"` // boot id of the host when it was written
	Resources     []Resource      `json:"resources,omitempty"`
	Data          json.RawMessage `json:"data,omitempty"` // the caller's own, not looked at; blanks between its parts may go

	unknown   fields
	unknownOf map[resourceKey]fields
}

type (
	fields      = map[string]json.RawMessage
	resourceKey struct{ kind, name string }
)

// DamagedError is for a file that is no record: torn, empty, or something else. It says nothing about what was made.
type DamagedError struct {
	Path string
	Err  error // what is wrong with it
}

func (e *DamagedError) Error() string { return fmt.Sprintf("record %s is damaged: %v", e.Path, e.Err) }

func (e *DamagedError) Unwrap() error { return e.Err }

// NewerError is for a record with a schema version above [SchemaVersion]. It may be listed, but not touched.
type NewerError struct {
	Path    string
	Version int
	Writer  string // version of the program that wrote it, "" when it does not say
}

func (e *NewerError) Error() string {
	by := ""
	if e.Writer != "" {
		by = fmt.Sprintf(", written by %q", e.Writer)
	}
	return fmt.Sprintf("record %s has schema version %d%s; this program knows versions up to %d: use a newer one",
		e.Path, e.Version, by, SchemaVersion)
}

// Read reads the record at path, of at most 4 MiB. Its errors are a [*DamagedError], a [*NewerError], or those of reading
// a file ([fs.ErrNotExist], when there is none).
func Read(path string) (*Record, error) {
	text, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	r, err := decode(text)
	if newer, ok := errors.AsType[*NewerError](err); ok {
		newer.Path = path
		return nil, newer
	}
	if err != nil {
		return nil, &DamagedError{Path: path, Err: err}
	}
	return r, nil
}

// Write replaces the file at path by this record, with mode 0600: who reads sees the old or the new one, also when the
// writer is killed, and after an error the old one is there still. Durable says whether that holds for a power cut, too:
// then file and folder are synced, which takes the time of the disk. What was at path is not looked at. A record that
// [Read] would refuse is not written.
func Write(path string, r *Record, durable bool) error {
	text, err := encode(r)
	if err != nil {
		return fmt.Errorf("write record %s: %w", path, err)
	}
	write := atomicfile.WriteUnsynced
	if durable {
		write = atomicfile.Write
	}
	if err := write(path, text, 0o600); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

// Intend notes that a resource is about to be made: it stands at the end then. One that is there already keeps its place
// and its identity, and is intended again: what is known may exist, and a new one, too.
func (r *Record) Intend(kind, name string) {
	if i := r.index(kind, name); i >= 0 {
		r.Resources[i].Phase = Intended
		return
	}
	r.Resources = append(r.Resources, Resource{Kind: kind, Name: name, Phase: Intended})
}

// Complete notes that a resource was made, and its identity. One that was not intended is added.
func (r *Record) Complete(kind, name, identity string) {
	i := r.index(kind, name)
	if i < 0 {
		i = len(r.Resources)
		r.Resources = append(r.Resources, Resource{Kind: kind, Name: name})
	}
	r.Resources[i].Identity, r.Resources[i].Phase = identity, Done
}

// Drop notes that a resource is no more. To drop one that is not there does nothing.
func (r *Record) Drop(kind, name string) {
	if i := r.index(kind, name); i >= 0 {
		r.Resources = slices.Delete(r.Resources, i, i+1)
		delete(r.unknownOf, resourceKey{kind, name})
	}
}

// Find returns a resource, and whether there is one.
func (r *Record) Find(kind, name string) (Resource, bool) {
	if i := r.index(kind, name); i >= 0 {
		return r.Resources[i], true
	}
	return Resource{}, false
}

func (r *Record) index(kind, name string) int {
	return slices.IndexFunc(r.Resources, func(res Resource) bool { return res.Kind == kind && res.Name == name })
}

// check finds what neither Read nor Write lets pass.
func (r *Record) check() error {
	if len(r.Resources) > maxResources {
		return fmt.Errorf("%d resources, at most %d", len(r.Resources), maxResources)
	}
	seen := make(map[resourceKey]bool, len(r.Resources))
	for i, res := range r.Resources {
		key := resourceKey{res.Kind, res.Name}
		switch {
		case !printable(res.Kind):
			return fmt.Errorf("resource %d: the kind %q is empty or not printable", i, res.Kind)
		case !printable(res.Name):
			return fmt.Errorf("resource %d (%s): the name %q is empty or not printable", i, res.Kind, res.Name)
		case res.Phase != Intended && res.Phase != Done:
			return fmt.Errorf("resource %d (%s %s): the phase %q is not known", i, res.Kind, res.Name, res.Phase)
		case seen[key]:
			return fmt.Errorf("resource %d: %s %s is there twice", i, res.Kind, res.Name)
		}
		seen[key] = true
	}
	return nil
}

func printable(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) })
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path) // before it is opened: to open a FIFO may take for ever
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, &DamagedError{Path: path, Err: errors.New("it is not a regular file")}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	if len(text) > maxSize {
		return nil, &DamagedError{Path: path, Err: fmt.Errorf("it has more than %d MiB", maxSize>>20)}
	}
	return text, nil
}
