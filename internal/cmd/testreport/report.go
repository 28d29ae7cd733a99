package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// levelUnit is the level of a test that names none.
const levelUnit = "unit"

// maxLine bounds one line of the stream. The go command splits output at line ends, and a test may print long ones.
const maxLine = 16 << 20

// event is one line of the stream (`go doc test2json`).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build output; "path [path.test]" for a test binary
	Test        string
	Elapsed     float64 // seconds
	Output      string
	Key, Value  string // of an attribute (testing.TB.Attr)
	FailedBuild string
}

// report gathers what became of every test.
type report struct {
	progress io.Writer
	packages map[string]*pkg
	builds   map[string]*strings.Builder // what the compiler said, by ImportPath
	foreign  int                         // lines that were no events
}

// pkg is one package's tests while they run, and what came of the package.
type pkg struct {
	path    string
	tests   map[string]*test
	output  strings.Builder // what belongs to no test: a panic's trace, a time-out
	verdict string          // "pass", "fail", "skip"; empty while it runs
	broken  string          // why the package failed although no test did
}

// test is one test or subtest.
type test struct {
	name    string
	level   string // as its own attribute says; empty otherwise
	verdict string
	output  strings.Builder
}

func newReport(progress io.Writer) *report {
	return &report{progress: progress, packages: map[string]*pkg{}, builds: map[string]*strings.Builder{}}
}

// read takes in a stream to its end. Lines that are no events are handed through and count as a defect: nothing but
// events belongs there.
func (r *report) read(stream io.Reader) error {
	lines := bufio.NewScanner(stream)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Action == "" {
			if len(bytes.TrimSpace(lines.Bytes())) > 0 {
				r.foreign++
				fmt.Fprintf(r.progress, "%s\n", lines.Bytes())
			}
			continue
		}
		r.take(e)
	}
	return lines.Err()
}

func (r *report) take(e event) {
	switch {
	case e.Action == "build-output":
		r.build(e.ImportPath).WriteString(e.Output)
	case e.Package == "":
	case e.Test == "":
		r.takePackage(e)
	default:
		r.takeTest(e)
	}
}

func (r *report) takePackage(e event) {
	p := r.pkg(e.Package)
	switch e.Action {
	case "output":
		p.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		p.verdict = e.Action
		if e.FailedBuild != "" {
			p.broken = "does not build"
			p.output.WriteString(r.build(e.FailedBuild).String())
		}
		p.end()
		r.printPackage(p, time.Duration(e.Elapsed*float64(time.Second)))
	}
}

func (r *report) takeTest(e event) {
	p := r.pkg(e.Package)
	t := p.tests[e.Test]
	if t == nil {
		t = &test{name: e.Test}
		p.tests[e.Test] = t
	}
	switch e.Action {
	case "output":
		t.output.WriteString(e.Output)
	case "attr":
		if e.Key == "level" {
			t.level = e.Value
		}
	case "pass", "fail", "skip":
		t.verdict = e.Action
	}
}

// finish judges what the stream left open: a package that never ended is a failure.
func (r *report) finish() {
	for _, path := range slices.Sorted(maps.Keys(r.packages)) {
		if p := r.packages[path]; p.verdict == "" {
			p.verdict, p.broken = "fail", "never ended"
			p.end()
			r.printPackage(p, 0)
		}
	}
}

// end gives every test a verdict. One that had none when its package ended was under way when the binary died.
func (p *pkg) end() {
	failed := false
	for _, t := range p.tests {
		if t.verdict == "" {
			t.verdict = "fail"
			t.output.WriteString("    (did not end: its package's process ended first)\n")
		}
		failed = failed || t.verdict == "fail"
	}
	if p.verdict == "fail" && !failed && p.broken == "" {
		p.broken = "failed outside of its tests"
	}
}

// leaves returns the tests that count, sorted: those without subtests, and parents that failed by themselves.
func (p *pkg) leaves() []*test {
	parents, blamed := map[string]bool{}, map[string]bool{}
	for name, t := range p.tests {
		for parent := range ancestors(name) {
			parents[parent] = true
			if t.verdict == "fail" {
				blamed[parent] = true
			}
		}
	}
	var leaves []*test
	for _, name := range slices.Sorted(maps.Keys(p.tests)) {
		t := p.tests[name]
		if !parents[name] || t.verdict == "fail" && !blamed[name] {
			leaves = append(leaves, t)
		}
	}
	return leaves
}

// levelOf returns the level of a test: its own, or that of the nearest test around it.
func (p *pkg) levelOf(t *test) string {
	if t.level != "" {
		return t.level
	}
	for parent := range ancestors(t.name) {
		if around := p.tests[parent]; around != nil && around.level != "" {
			return around.level
		}
	}
	return levelUnit
}

// ancestors yields the names of the tests around a subtest, the nearest first.
func ancestors(name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for {
			slash := strings.LastIndexByte(name, '/')
			if slash < 0 {
				return
			}
			name = name[:slash]
			if !yield(name) {
				return
			}
		}
	}
}

func (r *report) pkg(path string) *pkg {
	p := r.packages[path]
	if p == nil {
		p = &pkg{path: path, tests: map[string]*test{}}
		r.packages[path] = p
	}
	return p
}

func (r *report) build(importPath string) *strings.Builder {
	b := r.builds[importPath]
	if b == nil {
		b = &strings.Builder{}
		r.builds[importPath] = b
	}
	return b
}
