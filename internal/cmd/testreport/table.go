package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// proofReason finds in a skipped test's output what package proof said.
var proofReason = regexp.MustCompile(`(?m)^\s*\S+\.go:\d+: proof: (.+)$`)

// order is how levels stand in the table; any other follows.
var order = []string{levelUnit, "host", "guest", "real", "lab"}

// counts are the tests of one level, or of all.
type counts struct{ passed, failed, skipped int }

func (c *counts) add(verdict string) {
	switch verdict {
	case "pass":
		c.passed++
	case "skip":
		c.skipped++
	default:
		c.failed++
	}
}

// summary is what the closing list shows.
type summary struct {
	levels   map[string]*counts
	total    counts
	skipped  map[string][]string // names of tests by reason
	unproved []string            // tests that were skipped without a reason of package proof
	inLab    int                 // tests that go test skipped and that ran in the lab
	failed   []string            // tests and packages
}

func (r *report) summarize() summary {
	s := summary{levels: map[string]*counts{}, skipped: map[string][]string{}}
	for _, path := range slices.Sorted(maps.Keys(r.packages)) {
		p := r.packages[path]
		if p.broken != "" {
			s.level(levelUnit).add("fail")
			s.total.add("fail")
			s.failed = append(s.failed, path+": "+p.broken)
		}
		for _, t := range p.leaves() {
			if r.elsewhere(p, t) {
				s.inLab++
				continue
			}
			s.level(p.levelOf(t)).add(t.verdict)
			s.total.add(t.verdict)
			name := path + "." + t.name
			switch t.verdict {
			case "fail":
				s.failed = append(s.failed, name)
			case "skip":
				if reason := proofReason.FindStringSubmatch(t.output.String()); reason != nil {
					s.skipped[reason[1]] = append(s.skipped[reason[1]], name)
				} else {
					s.unproved = append(s.unproved, name)
				}
			}
		}
	}
	return s
}

// The lab runs the tests of a package under names that begin with the package's and labMark: " [lab]", " [lab, after a power
// cut]". What go test says of such a test, when it leaves it to the lab, is labReason (package proof).
const (
	labMark   = " [lab"
	labReason = "lab: runs in the lab (make lab)"
)

// elsewhere tells whether the skip of a test says nothing, as the same test has a verdict of the lab's, whatever it is.
// Nothing else makes up for a skip: a test that the lab left out stays skipped.
func (r *report) elsewhere(p *pkg, t *test) bool {
	if t.verdict != "skip" {
		return false
	}
	reason := proofReason.FindStringSubmatch(t.output.String())
	if reason == nil || reason[1] != labReason {
		return false
	}
	for path, inLab := range r.packages {
		if strings.HasPrefix(path, p.path+labMark) && inLab.tests[t.name] != nil {
			return true
		}
	}
	return false
}

func (s *summary) level(name string) *counts {
	c := s.levels[name]
	if c == nil {
		c = &counts{}
		s.levels[name] = c
	}
	return c
}

// ok reports whether the stream as a whole is a success.
func (r *report) ok() bool {
	s := r.summarize()
	return s.total.failed == 0 && s.total.passed > 0 && len(s.unproved) == 0 && r.foreign == 0
}

// write prints the closing list.
func (r *report) write(w io.Writer) {
	s := r.summarize()
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "level\tpassed\tfailed\tskipped\t")
	for _, level := range slices.SortedFunc(maps.Keys(s.levels), byOrder) {
		c := s.levels[level]
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t\n", level, c.passed, c.failed, c.skipped)
	}
	table.Flush()

	writeNames(w, "failed", s.failed)
	for _, reason := range slices.Sorted(maps.Keys(s.skipped)) {
		writeNames(w, "skipped: "+reason, s.skipped[reason])
	}
	writeNames(w, "DEFECT: skipped without a reason of package proof", s.unproved)
	if s.inLab > 0 {
		fmt.Fprintf(w, "\nskipped by go test, and counted as what they came to in the lab: %d\n", s.inLab)
	}
	if r.foreign > 0 {
		fmt.Fprintf(w, "\nDEFECT: %d lines of the stream were no test events (printed above)\n", r.foreign)
	}
	if s.total == (counts{}) {
		fmt.Fprintln(w, "\nDEFECT: no test ran")
	}
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", s.total.passed, s.total.failed, s.total.skipped)
}

func writeNames(w io.Writer, title string, names []string) {
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s (%d)\n", title, len(names))
	for _, name := range names {
		fmt.Fprintln(w, "   ", name)
	}
}

// printPackage prints one line for a package that ended, and in front of it the output of all that failed in it.
func (r *report) printPackage(p *pkg, took time.Duration) {
	var c counts
	for _, t := range p.leaves() {
		c.add(t.verdict)
	}
	for _, name := range slices.Sorted(maps.Keys(p.tests)) {
		if t := p.tests[name]; t.verdict == "fail" {
			io.WriteString(r.progress, endLine(t.output.String()))
		}
	}
	if p.verdict == "fail" {
		io.WriteString(r.progress, endLine(p.output.String()))
	}
	if len(p.tests) == 0 && p.verdict != "fail" {
		return // a package without tests is not worth a line
	}
	word := "ok  "
	if p.verdict == "fail" {
		word = "FAIL"
	}
	fmt.Fprintf(r.progress, "%s  %s  %.1fs  %d passed", word, p.path, took.Seconds(), c.passed)
	if c.failed > 0 {
		fmt.Fprintf(r.progress, ", %d failed", c.failed)
	}
	if c.skipped > 0 {
		fmt.Fprintf(r.progress, ", %d skipped", c.skipped)
	}
	if p.broken != "" {
		fmt.Fprintf(r.progress, ": %s", p.broken)
	}
	fmt.Fprintln(r.progress)
}

func endLine(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}

func byOrder(a, b string) int {
	rank := func(level string) int {
		if i := slices.Index(order, level); i >= 0 {
			return i
		}
		return len(order)
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
}
