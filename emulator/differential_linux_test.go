package emulator_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"smartvm/internal/proof"
)

// question is a scenario without answers: both VMMs give them. A step's method may also be `rm` or `truncate`, which
// acts on a file of the folder. Then lists scenarios for processes of their own, each in a folder where the first ones'
// steps were done.
type question struct {
	scenario
	// Ends tells that the process ends by itself. (It is not asked then: a request at the wrong time makes Firecracker panic.)
	Ends bool       `json:"ends"`
	Then []question `json:"then"`
}

func TestTheEmulatorAnswersAsFirecrackerDoes(t *testing.T) {
	firecracker := proof.Firecracker(t)
	proof.Host(t)
	data, err := os.ReadFile("testdata/differential.json")
	if err != nil {
		t.Fatal(err)
	}
	var questions []question
	if err := json.Unmarshal(data, &questions); err != nil {
		t.Fatal(err)
	}
	for _, q := range questions {
		t.Run(q.Name, func(t *testing.T) {
			t.Parallel()
			compare(t, firecracker, []question{q})
			for _, then := range q.Then {
				t.Run(then.Name, func(t *testing.T) { compare(t, firecracker, []question{q, then}) })
			}
		})
	}
}

// compare runs questions one after the other with both VMMs and holds the last one's answers against each other.
func compare(t *testing.T, firecracker string, questions []question) {
	t.Helper()
	want := ask(t, firecracker, nil, questions)
	got := ask(t, emulatorBinary(t), []string{"--machine", "null"}, questions)
	last := questions[len(questions)-1]
	for i, s := range last.Steps {
		if !reflect.DeepEqual(want.answers[i], got.answers[i]) { // cmp takes too long over deep metadata
			t.Errorf("call %d, %s %s %.300s:\n-Firecracker %v\n+emulator    %v", i, s.Method, s.Path, s.Body, want.answers[i], got.answers[i])
		}
	}
	if want.exit != got.exit {
		t.Errorf("exit: Firecracker %s, emulator %s\n%s", want.exit, got.exit, strings.Join(got.log, "\n"))
	}
	if diff := cmp.Diff(ending(want.log), ending(got.log)); want.exit != "alive" && diff != "" {
		t.Errorf("log: (-Firecracker +emulator)\n%s", diff)
	}
}

// outcome is what a process did.
type outcome struct {
	answers []any
	exit    string // "alive" or the code
	log     []string
}

func ask(t *testing.T, binary string, args []string, questions []question) (last outcome) {
	t.Helper()
	dir := newFolder(t)
	l := newLab(t)
	if err := os.WriteFile(filepath.Join(dir, "meta.json"), []byte(`{"m": 1}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, q := range questions {
		_ = os.Remove(filepath.Join(dir, "api.sock"))
		all := slices.Clone(args)
		for _, a := range q.Args {
			all = append(all, strings.ReplaceAll(a, "{dir}", dir))
		}
		if q.Config != nil {
			path := filepath.Join(dir, "config.json")
			if err := os.WriteFile(path, []byte(strings.ReplaceAll(pythonJSON(q.Config), "{dir}", dir)), 0o644); err != nil {
				t.Fatal(err)
			}
			all = append(all, "--config-file", path)
		}
		last = askOne(t, l, dir, binary, all, q)
	}
	return last
}

func askOne(t *testing.T, l *lab, dir, binary string, args []string, q question) outcome {
	v := l.start(t, dir, binary, args...)
	defer v.kill()
	var o outcome
	for _, s := range q.Steps {
		path := strings.ReplaceAll(s.Path, "{dir}", dir)
		var a answer
		var err error
		switch s.Method {
		case "rm":
			err = os.Remove(path)
		case "truncate":
			err = os.Truncate(path, 4096)
		default:
			a, err = v.call(s.Method, path, strings.ReplaceAll(s.Body, "{dir}", dir), 1)
		}
		if err != nil {
			t.Fatal(err)
		}
		a.Body = strings.ReplaceAll(a.Body, dir, "{dir}")
		o.answers = append(o.answers, comparable(a))
	}
	o.exit = "alive"
	if q.Ends {
		o.exit = fmt.Sprint(v.waitExit(t))
	} else if a, _ := v.call("GET", "/version", "", 1); a.Status == 0 {
		o.exit = "silent"
	}
	for _, line := range messages(v.log()) {
		o.log = append(o.log, strings.ReplaceAll(line, dir, "{dir}"))
	}
	return o
}

var place = regexp.MustCompile(`panicked at .*`)

// ending is what a VMM's log says about its end: not where in the source, and not as developers see it.
func ending(log []string) []string {
	list := []string{}
	for _, l := range log {
		switch {
		case strings.HasPrefix(l, "Error: "), strings.HasPrefix(l, "Running Firecracker"), strings.HasPrefix(l, "Listening on"),
			strings.HasPrefix(l, "KVM_"):
		case strings.Contains(l, "panicked at"):
			list = append(list, place.ReplaceAllString(l, "panicked"))
		case strings.Contains(l, "error"), strings.Contains(l, "exit_code"), strings.HasPrefix(l, "v1"):
			list = append(list, l)
		}
	}
	return list
}
