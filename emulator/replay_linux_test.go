package emulator_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"smartvm/internal/proof"
)

// scenario is a recording of what a process of a real Firecracker answered, call by call.
type scenario struct {
	Name   string          `json:"name"`
	Args   []string        `json:"args"`
	Config json.RawMessage `json:"config"`
	Steps  []step          `json:"steps"`
	Alive  bool            `json:"alive"`
	Exit   int             `json:"exit"`
	Log    []string        `json:"log"`
}

type step struct {
	Method, Path, Body string
	Raw                string
	Status             int
	Reply              json.RawMessage
	ReplyText          string `json:"reply_text"`
	Deprecation        string
}

func TestTheEmulatorAnswersAsTheRecordedFirecrackerDid(t *testing.T) {
	proof.Host(t)
	data, err := os.ReadFile("testdata/firecracker-answers.json")
	if err != nil {
		t.Fatal(err)
	}
	var recording struct{ Scenarios []scenario }
	if err := json.Unmarshal(data, &recording); err != nil {
		t.Fatal(err)
	}
	const scenarios, calls = 43, 324
	n := 0
	for _, s := range recording.Scenarios {
		n += len(s.Steps)
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			replay(t, s)
		})
	}
	if len(recording.Scenarios) != scenarios || n != calls {
		t.Errorf("the recording has %d scenarios and %d calls, want %d and %d", len(recording.Scenarios), n, scenarios, calls)
	}
}

func replay(t *testing.T, s scenario) {
	dir := newFolder(t)
	args := []string{"--machine", "null"}
	for _, a := range s.Args {
		args = append(args, strings.ReplaceAll(a, "{dir}", dir))
	}
	if s.Config != nil {
		path := filepath.Join(dir, "config.json")
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(pythonJSON(s.Config), "{dir}", dir)), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config-file", path)
	}
	v := newLab(t).start(t, dir, emulatorBinary(t), args...)
	for i, st := range s.Steps {
		var got answer
		var err error
		replies := 1 + strings.Count(st.ReplyText, "HTTP/1.1 ") // a body over the limit is taken for requests of its own
		if st.Raw != "" {
			got, err = v.raw(strings.ReplaceAll(st.Raw, "{dir}", dir), replies)
		} else {
			got, err = v.call(st.Method, st.Path, strings.ReplaceAll(st.Body, "{dir}", dir), replies)
		}
		if err != nil {
			t.Fatal(err)
		}
		want := answer{Status: st.Status, Body: st.ReplyText, Deprecation: st.Deprecation}
		if st.ReplyText == "" && st.Reply != nil {
			want.Body = string(st.Reply)
		}
		want.Body = strings.ReplaceAll(want.Body, "{dir}", dir)
		if diff := cmp.Diff(comparable(want), comparable(got)); diff != "" {
			t.Errorf("call %d, %s %s %.200s: (-Firecracker +emulator)\n%s", i, st.Method, st.Path, st.Body, diff)
		}
	}
	if s.Alive != v.alive() && s.Alive {
		t.Errorf("the emulator ended:\n%s", strings.Join(v.log(), "\n"))
	}
	if s.Alive {
		return
	}
	if code := v.waitExit(t); code != s.Exit {
		t.Errorf("exit code %d, want %d", code, s.Exit)
	}
	log := messages(v.log())
	for _, want := range messages(s.Log) {
		if !slices.Contains(log, strings.ReplaceAll(want, "{dir}", dir)) {
			t.Errorf("the log lacks %q:\n%s", want, strings.Join(log, "\n"))
		}
	}
}

// comparable brings an answer into a form in which app_name and the order of devices do not count.
func comparable(a answer) any {
	var v any
	if json.Unmarshal([]byte(a.Body), &v) != nil {
		v = a.Body
	}
	if v == nil {
		v = ""
	}
	if m, ok := v.(map[string]any); ok {
		delete(m, "app_name")
		for _, list := range []string{"drives", "network-interfaces", "pmem"} {
			if devices, ok := m[list].([]any); ok {
				slices.SortFunc(devices, func(x, y any) int { return strings.Compare(fmt.Sprint(x), fmt.Sprint(y)) })
			}
		}
	}
	return map[string]any{"status": a.Status, "body": v, "deprecation": a.Deprecation}
}

var logPrefix = regexp.MustCompile(`^\S+ \[\S+\] `)

// messages takes time and thread off log lines.
func messages(lines []string) []string {
	list := []string{}
	for _, l := range lines {
		list = append(list, logPrefix.ReplaceAllString(l, ""))
	}
	return list
}

// pythonJSON writes JSON as the recorder wrote it, with a space after each comma and colon; a string stands for itself.
func pythonJSON(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var b strings.Builder
	inString, escaped := false, false
	for _, c := range raw {
		switch {
		case inString:
			inString = c != '"' || escaped
			escaped = c == '\\' && !escaped
		case c == ' ' || c == '\n':
			continue
		case c == '"':
			inString = true
		case c == ',' || c == ':':
			b.WriteByte(c)
			b.WriteByte(' ')
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
