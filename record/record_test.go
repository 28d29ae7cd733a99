package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func written(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "record.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) *Record {
	t.Helper()
	r, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestARecordComesBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	for _, durable := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "record.json")
		r := &Record{Writer: "1.2.3", Boot: "a boot", Data: json.RawMessage(`{"id":"<web>","n":1e400}`)}
		r.Intend("tap", "sv-web-0")
		r.Complete("process", "vmm", "4711")
		if err := Write(path, r, durable); err != nil {
			t.Fatal(err)
		}
		got := read(t, path)
		if got.SchemaVersion != SchemaVersion || got.Writer != r.Writer || got.Boot != r.Boot {
			t.Errorf("got %+v", got)
		}
		if diff := cmp.Diff(r.Resources, got.Resources); diff != "" {
			t.Error(diff)
		}
		if string(got.Data) != string(r.Data) {
			t.Errorf("data %s", got.Data)
		}
		if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
}

// The file stays as it is for ever: a program must read what any before it wrote.
func TestARecordOfVersion1IsReadAndKeepsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	const source = "testdata/v1.json"
	r := read(t, source)
	want := []Resource{
		{Kind: "folder", Name: "vms/web", Phase: Done},
		{Kind: "process", Name: "vmm", Identity: "4711/123456", Phase: Done},
		{Kind: "tap", Name: "sv-web-0", Phase: Intended},
	}
	if diff := cmp.Diff(want, r.Resources); diff != "" {
		t.Error(diff)
	}
	if r.SchemaVersion != 1 || r.Writer != "0.1.0" || r.Boot != "5f0ad6a6-5c1c-4a2e-9d9f-0a8a3a5f0f11" {
		t.Errorf("got %+v", r)
	}

	copied := filepath.Join(t.TempDir(), "record.json")
	if err := Write(copied, r, false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(decodedJSON(t, source), decodedJSON(t, copied)); diff != "" {
		t.Errorf("lost or changed: %s", diff)
	}

	r.Complete("tap", "sv-web-0", "7")
	r.Drop("process", "vmm")
	r.Intend("process", "vmm")
	if err := Write(copied, r, false); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"identity": "7", "phase": "done", "KIND": "of another kind"`) {
		t.Errorf("a completed resource lost what is unknown:\n%s", text)
	}
	if strings.Contains(string(text), "jailed") {
		t.Errorf("a resource has what is unknown of one that was dropped:\n%s", text)
	}
}

// decodedJSON is a file's JSON with its numbers letter by letter.
func decodedJSON(t *testing.T, path string) any {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	decoder := json.NewDecoder(f)
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestDamageIsReportedAndNeverTrusted(t *testing.T) {
	t.Parallel()
	resource := func(text string) string { return `{"schemaVersion":1,"writer":"w","resources":[` + text + `]}` }
	const good = `{"kind":"tap","name":"a","phase":"done"}`
	for name, text := range map[string]string{
		"empty":                    "",
		"zeros, after a power cut": strings.Repeat("\x00", 512),
		"torn":                     resource(good)[:40],
		"two in one":               resource(good) + resource(good),
		"not JSON":                 "hello",
		"not an object":            "[1]",
		"null":                     "null",
		"no version":               `{"writer":"w"}`,
		"a version below":          `{"schemaVersion":0}`,
		"half a version":           `{"schemaVersion":1.5}`,
		"a version in letters":     `{"schemaVersion":"1"}`,
		"not UTF-8":                "{\"schemaVersion\":1,\"writer\":\"\xff\"}",
		"resources of no kind":     `{"schemaVersion":1,"resources":{}}`,
		"writer of no kind":        `{"schemaVersion":1,"writer":1}`,
		"no resource":              resource("null"),
		"no kind":                  resource(`{"name":"a","phase":"done"}`),
		"no name":                  resource(`{"kind":"tap","phase":"done"}`),
		"a name of two lines":      resource(`{"kind":"tap","name":"a\nb","phase":"done"}`),
		"a kind with an escape":    resource(`{"kind":"\u001b[1m","name":"a","phase":"done"}`),
		"no phase":                 resource(`{"kind":"tap","name":"a"}`),
		"an unknown phase":         resource(`{"kind":"tap","name":"a","phase":"doing"}`),
		"the same twice":           resource(good + "," + good),
		"too many":                 resource(strings.Repeat(good+",", maxResources) + good),
		"too large":                `{"schemaVersion":1,"data":"` + strings.Repeat("x", maxSize) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := written(t, text)
			r, err := Read(path)
			damaged, ok := errors.AsType[*DamagedError](err)
			if !ok || r != nil {
				t.Fatalf("got %+v, %v", r, err)
			}
			if damaged.Path != path || !strings.Contains(err.Error(), path) || damaged.Err == nil {
				t.Errorf("got %v", damaged)
			}
		})
	}
}

func TestAFolderIsNoRecord(t *testing.T) {
	t.Parallel()
	if _, err := Read(t.TempDir()); err == nil {
		t.Error("read")
	} else if _, ok := errors.AsType[*DamagedError](err); !ok {
		t.Errorf("got %v", err)
	}
}

func TestARecordThatIsMissingIsNotDamaged(t *testing.T) {
	t.Parallel()
	_, err := Read(filepath.Join(t.TempDir(), "record.json"))
	if _, damaged := errors.AsType[*DamagedError](err); damaged || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestANewerRecordIsToldApart(t *testing.T) {
	t.Parallel()
	for text, writer := range map[string]string{
		`{"schemaVersion":2,"writer":"9.0","resources":"elsewhere"}`: "9.0",
		`{"schemaVersion":2,"writer":{"name":"9.0"}}`:                "",
	} {
		path := written(t, text)
		_, err := Read(path)
		newer, ok := errors.AsType[*NewerError](err)
		if !ok || newer.Path != path || newer.Version != 2 || newer.Writer != writer {
			t.Errorf("%s: got %+v, %v", text, newer, err)
		}
	}
}

func TestWhatReadWouldRefuseIsNotWritten(t *testing.T) {
	t.Parallel()
	many := &Record{}
	for i := range maxResources + 1 {
		many.Intend("tap", fmt.Sprint(i))
	}
	for name, r := range map[string]*Record{
		"a newer version":     {SchemaVersion: SchemaVersion + 1},
		"no phase":            {Resources: []Resource{{Kind: "tap", Name: "a"}}},
		"no name":             {Resources: []Resource{{Kind: "tap", Phase: Done}}},
		"data that is torn":   {Data: json.RawMessage(`{"a":`)},
		"too many resources":  many,
		"too much data":       {Data: json.RawMessage(`"` + strings.Repeat("x", maxSize) + `"`)},
		"a name of two lines": {Resources: []Resource{{Kind: "tap", Name: "a\nb", Phase: Done}}},
	} {
		path := filepath.Join(t.TempDir(), "record.json")
		if err := Write(path, &Record{Writer: "old"}, false); err != nil {
			t.Fatal(err)
		}
		if err := Write(path, r, false); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", name, err)
		}
		if old := read(t, path); old.Writer != "old" {
			t.Errorf("%s: the old record is %+v", name, old)
		}
	}
}

func TestWriteIntoAMissingFolderSaysSo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "missing", "record.json")
	for _, durable := range []bool{false, true} {
		if err := Write(path, &Record{}, durable); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAResourceGoesFromIntendedToDoneToDropped(t *testing.T) {
	t.Parallel()
	r := &Record{}
	r.Intend("folder", "a")
	r.Intend("tap", "a")
	r.Intend("tap", "a")
	r.Complete("folder", "a", "inode 7")
	r.Complete("process", "vmm", "4711")
	want := []Resource{
		{Kind: "folder", Name: "a", Identity: "inode 7", Phase: Done},
		{Kind: "tap", Name: "a", Phase: Intended},
		{Kind: "process", Name: "vmm", Identity: "4711", Phase: Done},
	}
	if diff := cmp.Diff(want, r.Resources); diff != "" {
		t.Error(diff)
	}
	r.Intend("process", "vmm") // a second one: the first may be there still
	if got, ok := r.Find("process", "vmm"); !ok || got.Phase != Intended || got.Identity != "4711" {
		t.Errorf("got %+v, %t", got, ok)
	}
	r.Drop("tap", "a")
	r.Drop("tap", "a")
	if got, ok := r.Find("tap", "a"); ok {
		t.Errorf("got %+v", got)
	}
	if len(r.Resources) != 2 {
		t.Errorf("left: %+v", r.Resources)
	}
}

// FuzzRead reads any bytes. What is accepted must be written again, and then stays the same.
func FuzzRead(f *testing.F) {
	v1, err := os.ReadFile("testdata/v1.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(v1)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, fmt.Sprint(os.Getpid()))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Read(path)
		if err != nil {
			_, damaged := errors.AsType[*DamagedError](err)
			if _, newer := errors.AsType[*NewerError](err); !damaged && !newer || r != nil {
				t.Fatalf("got %+v, %v", r, err)
			}
			return
		}
		once := rewritten(t, path, r)
		again := read(t, path)
		if diff := cmp.Diff(r.Resources, again.Resources); diff != "" {
			t.Error(diff)
		}
		if r.Writer != again.Writer || r.Boot != again.Boot || string(r.Data) != string(again.Data) {
			t.Errorf("was %+v, is %+v", r, again)
		}
		if len(r.unknown) != len(again.unknown) || len(r.unknownOf) != len(again.unknownOf) {
			t.Errorf("was %+v, is %+v", r, again)
		}
		if twice := rewritten(t, path, again); once != twice {
			t.Errorf("not stable:\n%s\n%s", once, twice)
		}
	})
}

func rewritten(t *testing.T, path string, r *Record) string {
	t.Helper()
	if err := Write(path, r, false); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
