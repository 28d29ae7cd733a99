package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"testing"

	"smartvm/internal/proof"
)

func TestAFileBelongsToTheLabWhenItCallsOneOfProofsLabFunctions(t *testing.T) {
	t.Parallel()
	const tests = `
func TestMain(m *testing.M) {}
func TestA(t *testing.T) { helper(t) }
func TestB(t *testing.T) {}
func BenchmarkC(b *testing.B) {}
func (x x) TestD(t *testing.T) {}
`
	for name, c := range map[string]struct {
		source string
		want   []string
	}{
		"direct":      {`package p; func helper(t *testing.T) { proof.Lab(t) }` + tests, []string{"TestA", "TestB"}},
		"with result": {`package p; func helper(t *testing.T) { x := proof.LabFirecracker(t) }` + tests, []string{"TestA", "TestB"}},
		"by its name": {`package p; func helper(t *testing.T) { elsewhere(t) }` + tests, []string{"TestA", "TestB"}},
		"a power cut": {`package p; func helper(t *testing.T) { if proof.LabPowerCut(t) { proof.Lab(t) } }` + tests, []string{"TestA", "TestB"}},
		"a comment":   {"package p\n// proof.Lab\nfunc helper(t *testing.T) { proof.Host(t) }" + tests, nil},
		"a string":    {`package p; func helper(t *testing.T) { t.Log("proof.Lab(t)") }` + tests, nil},
		"another's":   {`package p; func helper(t *testing.T) { improof.Lab(t) }` + tests, nil},
		"not called":  {`package p; var level = proof.LabLevel` + tests, nil},
	} {
		file := "a_test.go"
		if name == "by its name" {
			file = "a_lab_linux_test.go"
		}
		got, twice, err := labTests(file, []byte(c.source))
		if err != nil || !slices.Equal(got, c.want) || twice != (name == "a power cut") {
			t.Errorf("%s: %v, twice %t, %v, want %v", name, got, twice, err, c.want)
		}
	}
}

func TestThePatternNamesTheTestsAndWhatIsBelow(t *testing.T) {
	t.Parallel()
	s := suite{folder: "cmd/smartvm", tests: []string{"TestA", "TestB"}}
	if got := s.pattern(s.tests); got != "^(TestA|TestB)$" {
		t.Errorf("pattern %q", got)
	}
	if s.below = "one$"; s.pattern(s.tests) != "^(TestA|TestB)$/one$" {
		t.Errorf("pattern %q", s.pattern(s.tests))
	}
	if got := s.name(); got != "cmd-smartvm-tests" {
		t.Errorf("name %q", got)
	}
	if got := (suite{}).name(); got != "tests" {
		t.Errorf("name of the root's %q", got)
	}
}

func TestTheSuitesOfThisTreeAreFound(t *testing.T) {
	t.Parallel()
	suites, err := findSuites(t.Context(), proof.Root(t), "KVM|DoctorFinds/x")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for _, s := range suites {
		found[s.folder] = s.tests
	}
	if !slices.Contains(found["lab"], "TestTheLabsKVMRunsGuests") || !slices.Contains(found["cmd/smartvm"], "TestDoctorFindsTheLabFit") {
		t.Errorf("found %v", found)
	}
	if slices.Contains(found["lab"], "TestTheLabReachesNobody") {
		t.Error("one that was not asked for is there")
	}
}

// What skipAll writes is judged by testreport, which takes a reason that looks like one of package proof's only.
func TestWhatCannotRunIsSkippedWithTheReason(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := skipAll(&out, []suite{{pkg: "example/p", tests: []string{"TestA", "TestB"}}}, errors.New("no\nQEMU"))
	if err != nil {
		t.Fatal(err)
	}
	proofReason := regexp.MustCompile(`(?m)^\s*\S+\.go:\d+: proof: (.+)$`)
	skipped, reasons, ended := 0, 0, false
	for events := json.NewDecoder(&out); events.More(); {
		var e event
		if err := events.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Package != "example/p [lab]" {
			t.Errorf("package %q", e.Package)
		}
		switch {
		case e.Action == "skip" && e.Test != "":
			skipped++
		case e.Action == "output":
			if m := proofReason.FindStringSubmatch(e.Output); m == nil || m[1] != "lab: cannot run here: no QEMU" {
				t.Errorf("output %q", e.Output)
			}
			reasons++
		case e.Action == "pass" && e.Test == "":
			ended = true
		}
	}
	if skipped != 2 || reasons != 2 || !ended {
		t.Errorf("%d skips, %d reasons, ended: %t", skipped, reasons, ended)
	}
}
