package serde_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"smartvm/emulator/serde"
)

// sample is a struct with a field of each kind.
type sample struct {
	Name  string
	Size  uint64
	Small uint8
	On    bool
	Note  *string
	Kind  string
	List  []uint16
}

func decodeSample(s *sample) serde.Decode {
	s.Kind = "A"
	return serde.Struct("Sample",
		serde.Required("name", serde.String(&s.Name)),
		serde.Required("size", serde.Uint64(&s.Size)),
		serde.Default("small", serde.Uint8(&s.Small)),
		serde.Default("on", serde.Bool(&s.On)),
		serde.Optional("note", serde.Option(&s.Note, serde.String)),
		serde.Default("kind", serde.Enum(&s.Kind, "A", "B", "C")),
		serde.Default("list", serde.Vec(&s.List, serde.Uint16)))
}

func TestAStructIsAcceptedAsObjectAndAsArray(t *testing.T) {
	t.Parallel()
	note := "n"
	for text, want := range map[string]sample{
		`{"name":"x","size":1}`: {Name: "x", Size: 1, Kind: "A"},
		"\t" + `{"size" : 18446744073709551615 , "name":"\u00e4\ud83d\ude00"} `: {Name: "ä😀", Size: 1<<64 - 1, Kind: "A"},
		`{"name":"x","size":1,"note":null,"kind":{"B":null}}`:                   {Name: "x", Size: 1, Kind: "B"},
		`["x",1,2,true,"n","C",[1,2]]`:                                          {Name: "x", Size: 1, Small: 2, On: true, Note: &note, Kind: "C", List: []uint16{1, 2}},
		`["x",1,2,true,null]`:                                                   {Name: "x", Size: 1, Small: 2, On: true, Kind: "A"},
	} {
		var got sample
		if err := serde.Unmarshal([]byte(text), decodeSample(&got)); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", text, diff)
		}
	}
}

// The messages below are serde_json's own: the differential test holds them against a real Firecracker.
func TestFaultsHaveTheWordsAndPlacesOfSerdeJSON(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``:                                    "EOF while parsing a value at line 1 column 0",
		`{`:                                   "EOF while parsing an object at line 1 column 1",
		`null`:                                "invalid type: null, expected struct Sample at line 1 column 4",
		`[]`:                                  "invalid length 0, expected struct Sample with 7 elements at line 1 column 2",
		`["x",1,2,true]`:                      "invalid length 4, expected struct Sample with 7 elements at line 1 column 14",
		`{}`:                                  "missing field `name` at line 1 column 2",
		`{"name":"x","name":"y"}`:             "duplicate field `name` at line 1 column 18",
		`{"nam":1}`:                           "unknown field `nam`, expected one of `name`, `size`, `small`, `on`, `note`, `kind`, `list` at line 1 column 6",
		`{"name":"x","size":-1}`:              "invalid value: integer `-1`, expected u64 at line 1 column 21",
		`{"name":"x","size":1.0}`:             "invalid type: floating point `1.0`, expected u64 at line 1 column 22",
		`{"name":"x","size":1e30}`:            "invalid type: floating point `1e+30`, expected u64 at line 1 column 23",
		`{"name":"x","size":01}`:              "invalid number at line 1 column 21",
		`{"name":"x","size":1,"kind":1}`:      "expected value at line 1 column 29",
		`{"name":"x","size":1,"kind":"D"}`:    "unknown variant `D`, expected one of `A`, `B`, `C` at line 1 column 31",
		`{"name":"x","size":1} x`:             "trailing characters at line 1 column 23",
		`{"name":"x","size":1,}`:              "trailing comma at line 1 column 22",
		`{"name":"\ud800"}`:                   "unexpected end of hex escape at line 1 column 16",
		"{\"name\":\"x\",\n\"size\":true}":    "invalid type: boolean `true`, expected u64 at line 2 column 11",
		`{"list":` + strings.Repeat("[", 200): "invalid type: sequence, expected u16 at line 1 column 9",
	} {
		var got sample
		err := serde.Unmarshal([]byte(text), decodeSample(&got))
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
}

func TestNestingIsBoundedAt127(t *testing.T) {
	t.Parallel()
	for depth, ok := range map[int]bool{127: true, 128: false, 100_000: false} {
		var v any
		err := serde.Unmarshal([]byte(strings.Repeat("[", depth)+strings.Repeat("]", depth)), serde.Any(&v))
		if (err == nil) != ok {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

// FuzzAnyAgreesWithEncodingJSON holds the parser against another one: what it takes, encoding/json takes too, and what
// it writes reads back as the same. It refuses more: lone surrogates, bytes that are no UTF-8, numbers out of range and
// deep nesting, all of which encoding/json forgives in part.
func FuzzAnyAgreesWithEncodingJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,-2,3.5e7,null,true,"x\u00e4\n"]}`, `"\ud83d\ude00"`, `"\ud800"`, `[1,]`, `{"a" 1}`, `1e400`, `-0`,
		`18446744073709551616`, "\"\x00\"", "\"\xff\"", `01`, `{"a":1,"a":2}`, ` [ ] `, `nul`, `"\q"`, `123456789.123456789123456789`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var v any
		err := serde.Unmarshal(text, serde.Any(&v))
		valid := json.Valid(text)
		if err == nil && !valid {
			t.Fatalf("took %q, which is no JSON", text)
		}
		if err != nil {
			message := err.Error()
			excused := !utf8.Valid(text)
			for _, more := range []string{"number out of range", "surrogate", "hex escape", "recursion limit", "unicode"} {
				excused = excused || strings.Contains(message, more)
			}
			if valid && !excused {
				t.Fatalf("refused %q: %v", text, err)
			}
			return
		}
		written := serde.Marshal(v)
		var again any
		if err := serde.Unmarshal(written, serde.Any(&again)); err != nil {
			t.Fatalf("%q was written as %q, which does not read: %v", text, written, err)
		}
	})
}

// FuzzStructNeverPanics feeds the typed decoder, and the path that skips unknown fields.
func FuzzStructNeverPanics(f *testing.F) {
	for _, seed := range []string{`{"name":"x","size":1}`, `["x",1,2,true,"n","C",[1,2]]`, `{"z":{"a":[1,{"b":"\u12"}]},"name":1}`, `{"kind":{"B":null}}`, `{"z":[`, `{"z":"\`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var s sample
		_ = serde.Unmarshal(text, decodeSample(&s))
		open := serde.OpenStruct("Open", serde.Optional("name", serde.Option(new(*string), serde.String)))
		if err := serde.Unmarshal(text, open); err == nil && !json.Valid(text) {
			t.Fatalf("took %q, which is no JSON", text)
		}
	})
}
