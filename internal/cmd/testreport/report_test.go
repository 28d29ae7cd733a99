package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The streams in testdata were recorded with Go 1.26 from packages made for the purpose.
func TestAStreamIsJudgedAsAWhole(t *testing.T) {
	t.Parallel()
	tests := []struct {
		stream string
		ok     bool
		last   string
		says   []string
	}{
		{"good", true, "5 passed, 0 failed, 0 skipped", []string{" unit       2 ", " host       2 ", "guest       1 "}},
		{"skips", true, "1 passed, 0 failed, 3 skipped", []string{
			"skipped: host: needs root (1)\n    example/skips.TestHost\n",
			"skipped: real: SMARTVM_FIRECRACKER names no binary (2)\n    example/skips.TestReal\n    example/skips.TestRealToo\n",
		}},
		{"hidden", false, "1 passed, 0 failed, 1 skipped", []string{
			"DEFECT: skipped without a reason of package proof (1)\n    example/hidden.TestHidden\n",
		}},
		{"fails", false, "3 passed, 2 failed, 0 skipped", []string{
			"want 1, got 2", "the parent itself",
			"failed (2)\n    example/fails.TestAround\n    example/fails.TestTable/bad\n",
		}},
		{"broken", false, "0 passed, 1 failed, 0 skipped", []string{"undefined: undefined", "example/broken: does not build"}},
		{"dies", false, "1 passed, 1 failed, 0 skipped", []string{"TestDies", "its package's process ended first"}},
		{"panics", false, "0 passed, 1 failed, 0 skipped", []string{"assignment to entry in nil map"}},
		{"stuck", false, "0 passed, 1 failed, 0 skipped", []string{"panic: test timed out after 1s"}},
		{"mainfails", false, "1 passed, 1 failed, 0 skipped", []string{"example/mainfails: failed outside of its tests"}},
		{"ended-early", false, "1 passed, 2 failed, 0 skipped", []string{"its package's process ended first", "example/good: never ended"}},
	}
	for _, tt := range tests {
		t.Run(tt.stream, func(t *testing.T) {
			t.Parallel()
			ok, out := judge(t, readStream(t, tt.stream))
			if ok != tt.ok {
				t.Errorf("ok = %t, want %t", ok, tt.ok)
			}
			if diff := cmp.Diff(tt.last, lastLine(out)); diff != "" {
				t.Errorf("last line (-want +got):\n%s", diff)
			}
			for _, text := range tt.says {
				if !strings.Contains(out, text) {
					t.Errorf("the report does not say %q", text)
				}
			}
			if t.Failed() {
				t.Log("report:\n" + out)
			}
		})
	}
}

func TestSeveralPackagesAreAddedUp(t *testing.T) {
	t.Parallel()
	stream := readStream(t, "good") + readStream(t, "skips") + readStream(t, "fails")
	ok, out := judge(t, stream)
	if want := "9 passed, 2 failed, 3 skipped"; ok || lastLine(out) != want {
		t.Errorf("ok = %t, last line %q, want false and %q", ok, lastLine(out), want)
	}
}

func TestWhatIsNoEventIsADefect(t *testing.T) {
	t.Parallel()
	ok, out := judge(t, "go: updates to go.mod needed\n"+readStream(t, "good"))
	if ok || !strings.Contains(out, "go: updates to go.mod needed") || !strings.Contains(out, "DEFECT: 1 lines") {
		t.Errorf("ok = %t, report:\n%s", ok, out)
	}
}

func TestAStreamWithoutTestsIsADefect(t *testing.T) {
	t.Parallel()
	ok, out := judge(t, "")
	if ok || !strings.Contains(out, "DEFECT: no test ran") || lastLine(out) != "0 passed, 0 failed, 0 skipped" {
		t.Errorf("ok = %t, report:\n%s", ok, out)
	}
}

func TestTheCommandsOwnVerdictCounts(t *testing.T) {
	t.Parallel()
	good := filepath.Join("testdata", "good.json")
	tests := []struct {
		name string
		argv []string
		want int
	}{
		{"all is well", []string{"cat", good}, 0},
		{"the command fails", []string{"cat", good, "testdata/missing.json"}, 1},
		{"two commands", []string{"cat", good, "--then", "cat", good}, 0},
		{"the second one fails", []string{"cat", good, "--then", "false"}, 1},
		{"the first one fails", []string{"false", "--then", "cat", good}, 1},
		{"there is no second one", []string{"cat", good, "--then"}, 2},
		{"a test failed", []string{"cat", filepath.Join("testdata", "fails.json")}, 1},
		{"there is no such command", []string{filepath.Join("testdata", "missing")}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out, errOut bytes.Buffer
			if got := run(tt.argv, &out, &errOut); got != tt.want {
				t.Errorf("exit code %d, want %d; output:\n%s%s", got, tt.want, &out, &errOut)
			}
		})
	}
}

func judge(t *testing.T, stream string) (bool, string) {
	t.Helper()
	var out bytes.Buffer
	r := newReport(&out)
	if err := r.read(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	r.finish()
	r.write(&out)
	return r.ok(), out.String()
}

func readStream(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	return lines[len(lines)-1]
}

func TestASkipForTheLabCountsUnlessTheLabHasAVerdict(t *testing.T) {
	t.Parallel()
	lines := func(pkg, test, reason, verdict string) string {
		text := `{"Action":"run","Package":"` + pkg + `","Test":"` + test + `"}` + "\n" +
			`{"Action":"attr","Package":"` + pkg + `","Test":"` + test + `","Key":"level","Value":"lab"}` + "\n"
		if reason != "" {
			text += `{"Action":"output","Package":"` + pkg + `","Test":"` + test + `","Output":"    a_test.go:1: proof: ` + reason + `\n"}` + "\n"
		}
		return text + `{"Action":"` + verdict + `","Package":"` + pkg + `","Test":"` + test + `"}` + "\n"
	}
	end := func(pkg, verdict string) string { return `{"Action":"` + verdict + `","Package":"` + pkg + `"}` + "\n" }
	host := lines("p", "TestA", labReason, "skip") + lines("p", "TestB", labReason, "skip") + lines("p", "TestC", "host: needs root", "skip") + end("p", "pass")
	pass := readStream(t, "good")
	for name, c := range map[string]struct{ lab, last string }{
		"no lab":                    {"", "5 passed, 0 failed, 3 skipped"},
		"both ran":                  {lines("p [lab]", "TestA", "", "pass") + lines("p [lab]", "TestB", "", "pass") + end("p [lab]", "pass"), "7 passed, 0 failed, 1 skipped"},
		"one before a power cut":    {lines("p [lab]", "TestA", "", "pass") + lines("p [lab, before a power cut]", "TestB", "", "pass") + end("p [lab]", "pass") + end("p [lab, before a power cut]", "pass"), "7 passed, 0 failed, 1 skipped"},
		"one did not":               {lines("p [lab]", "TestA", "", "pass") + end("p [lab]", "pass"), "6 passed, 0 failed, 2 skipped"},
		"another package's":         {lines("q [lab]", "TestA", "", "pass") + end("q [lab]", "pass"), "6 passed, 0 failed, 3 skipped"},
		"one failed":                {lines("p [lab]", "TestA", "", "fail") + end("p [lab]", "fail"), "5 passed, 1 failed, 2 skipped"},
		"one was skipped there too": {lines("p [lab]", "TestA", "lab: no binary", "skip") + end("p [lab]", "pass"), "5 passed, 0 failed, 3 skipped"},
		"one did not end":           {`{"Action":"run","Package":"p [lab]","Test":"TestA"}` + "\n", "5 passed, 2 failed, 2 skipped"},
		"a skip of another reason":  {lines("p [lab]", "TestC", "", "pass") + end("p [lab]", "pass"), "6 passed, 0 failed, 3 skipped"},
	} {
		if _, out := judge(t, pass+host+c.lab); lastLine(out) != c.last {
			t.Errorf("%s: %q, want %q; report:\n%s", name, lastLine(out), c.last, out)
		}
	}
}
