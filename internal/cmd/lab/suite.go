package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// What the name of a test's package in an event ends in when it ran in the lab.
const (
	labMark    = " [lab]"
	beforeMark = " [lab, before a power cut]"
	afterMark  = " [lab, after a power cut]"
)

// suite is the lab tests of one package.
type suite struct {
	pkg     string // import path
	folder  string // relative to the module's root, with slashes; "" for the root itself
	tests   []string
	twice   []string // those that run before and after a power cut (proof.LabPowerCut)
	below   string   // what -run says of subtests
	program string   // the compiled tests
}

// name is a file name for the suite.
func (s suite) name() string {
	return strings.ReplaceAll(strings.Trim(s.folder+"/tests", "/"), "/", "-")
}

// pattern is what -test.run gets.
func (s suite) pattern(tests []string) string {
	pattern := "^(" + strings.Join(tests, "|") + ")$"
	if s.below != "" {
		pattern += "/" + s.below
	}
	return pattern
}

// findSuites finds the lab tests of the module whose names match, a regular expression as go test's -run has it.
func findSuites(ctx context.Context, root, run string) ([]suite, error) {
	wanted, below, _ := strings.Cut(run, "/")
	matches, err := regexp.Compile(wanted)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles", "./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var suites []suite
	for packages := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir           string
			TestGoFiles, XTestGoFiles []string
		}
		if err := packages.Decode(&p); err == io.EOF {
			return suites, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		var tests, twice []string
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			source, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				return nil, err
			}
			found, powerCut, err := labTests(name, source)
			if err != nil {
				return nil, err
			}
			found = slices.DeleteFunc(found, func(name string) bool { return !matches.MatchString(name) })
			if powerCut {
				twice = append(twice, found...)
			} else {
				tests = append(tests, found...)
			}
		}
		if len(tests)+len(twice) == 0 {
			continue
		}
		folder, err := filepath.Rel(root, p.Dir)
		if err != nil {
			return nil, err
		}
		if folder = filepath.ToSlash(folder); folder == "." {
			folder = ""
		}
		suites = append(suites, suite{pkg: p.ImportPath, folder: folder, tests: tests, twice: twice, below: below})
	}
}

// labFile is what the name of a file ends in that belongs to the lab.
const labFile = "_lab_linux_test.go"

// labTests returns the tests of a file that belongs to the lab: one whose name says so, or that calls proof.Lab, or proof.LabX
// for any X, anywhere. In a file of another name, a test that gets there over a function in another file is not found; the
// report shows it as skipped. In a file that calls
// proof.LabPowerCut all are of its kind.
func labTests(name string, source []byte) (tests []string, powerCut bool, err error) {
	ours := strings.HasSuffix(name, labFile)
	if !ours && !bytes.Contains(source, []byte("proof.Lab")) {
		return nil, false, nil
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, false, err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if f, ok := call.Fun.(*ast.SelectorExpr); ok && strings.HasPrefix(f.Sel.Name, "Lab") {
				of, ok := f.X.(*ast.Ident)
				called := ok && of.Name == "proof"
				ours = ours || called
				powerCut = powerCut || called && f.Sel.Name == "LabPowerCut"
			}
		}
		return true
	})
	if !ours {
		return nil, false, nil
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") && f.Name.Name != "TestMain" {
			tests = append(tests, f.Name.Name)
		}
	}
	return tests, powerCut, nil
}

// event is a test event, as far as it is written here.
type event struct {
	Action, Package string
	Test            string `json:",omitempty"`
	Output          string `json:",omitempty"`
	Key, Value      string `json:",omitempty"`

	Elapsed float64 `json:",omitempty"` // seconds
}

// skipAll reports every test as skipped because of err, in the form in which package proof gives reasons.
func skipAll(w io.Writer, suites []suite, err error) error {
	out := json.NewEncoder(w)
	reason := strings.Join(strings.Fields(err.Error()), " ")
	for _, s := range suites {
		pkg := s.pkg + labMark
		for _, test := range slices.Concat(s.tests, s.twice) {
			for _, e := range []event{
				{Action: "run", Package: pkg, Test: test},
				{Action: "attr", Package: pkg, Test: test, Key: "level", Value: "lab"},
				{Action: "output", Package: pkg, Test: test, Output: "    lab.go:1: proof: lab: cannot run here: " + reason + "\n"},
				{Action: "skip", Package: pkg, Test: test},
			} {
				if err := out.Encode(e); err != nil {
					return err
				}
			}
		}
		if err := out.Encode(event{Action: "pass", Package: pkg}); err != nil {
			return err
		}
	}
	return nil
}
