package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"smartvm/guest"
	"smartvm/lab"
)

// killGrace is what a test program gets, beyond its own time-out, to say what hung.
const killGrace = 30 * time.Second

// compile makes the suite's test program.
func (o options) compile(ctx context.Context, s *suite) error {
	s.program = filepath.Join(o.dir, "tests", s.name())
	args := []string{"test", "-c", "-o", s.program}
	if o.coverProfile != "" {
		args = append(args, "-coverpkg=./...")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+s.folder)...)
	cmd.Dir = o.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the lab has no C library that would have to fit
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compile the tests of %s: %w", s.pkg, err)
	}
	return nil
}

// runAll runs the suites, and then what they have that runs before and after a power cut. An error says that the host is
// lost.
func (o options) runAll(ctx context.Context, host *lab.Host, suites []suite) (passed bool, err error) {
	passed = true
	run := func(p part) {
		for i := range suites {
			if tests := p.tests(&suites[i]); len(tests) > 0 && err == nil {
				var ok bool
				ok, err = o.runSuite(ctx, host, &suites[i], p, tests)
				passed = passed && ok
			}
		}
	}
	run(part{mark: labMark, count: o.count, tests: func(s *suite) []string { return s.tests }})
	twice := func(s *suite) []string { return s.twice }
	if o.short || err != nil || !slices.ContainsFunc(suites, func(s suite) bool { return len(s.twice) > 0 }) {
		return passed, err
	}
	run(part{mark: beforeMark, count: 1, tests: twice, cover: coverBefore})
	if err != nil {
		return false, err
	}
	began := time.Now()
	if err := host.PowerCut(ctx); err != nil {
		return false, err
	}
	say("lab: the host is up again after %.1f s, after a power cut", time.Since(began).Seconds())
	run(part{mark: afterMark, count: 1, tests: twice, cover: coverAfter, env: []string{"SMARTVM_LAB_POWER_CUT=1"}})
	return passed, err
}

// part is what runs of each suite, and how.
type part struct {
	tests func(*suite) []string
	mark  string // behind the package's name
	count int
	env   []string
	cover string // what tells its profile from other parts'
}

// runSuite runs a suite's tests on the host, writes their events and tells whether they passed. An error says that the host is
// lost.
func (o options) runSuite(ctx context.Context, host *lab.Host, s *suite, p part, tests []string) (bool, error) {
	began := time.Now()
	c, err := o.convert(ctx, s.pkg+p.mark)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.testTimeout+killGrace)
	defer cancel()
	out := &oneWriter{w: c.output}
	status, err := host.Run(ctx, guest.Command{Args: o.testArgs(s, p, tests), Env: append(environment(), p.env...), Dir: path.Join(lab.Payload, "src", s.folder), Stdout: out, Stderr: out})
	if err != nil {
		select {
		case <-host.Done():
			err = fmt.Errorf("%w; the host has ended", err)
		default:
		}
		err = fmt.Errorf("the tests of %s: %w; the host's console is in %s", s.pkg, err, filepath.Join(o.dir, "console.log"))
		fmt.Fprintf(out, "\nlab: %v\n", err)
	} else if status.ExitCode() != 0 {
		fmt.Fprintf(out, "\nlab: the test program ended with %v\n", status)
	}
	passed := err == nil && status.ExitCode() == 0
	return passed, errors.Join(err, c.finish(passed, time.Since(began)))
}

func (o options) testArgs(s *suite, p part, tests []string) []string {
	args := []string{lab.Payload + "/tests/" + s.name(), "-test.v=test2json", "-test.run=" + s.pattern(tests), "-test.timeout=" + o.testTimeout.String(),
		"-test.count=" + strconv.Itoa(p.count)}
	if o.short {
		args = append(args, "-test.short")
	}
	if o.coverProfile != "" {
		args = append(args, "-test.coverprofile="+coverPath(s)+p.cover)
	}
	return args
}

// converter makes test events of what a test program prints, by the go command's own tool.
type converter struct {
	pkg    string
	tool   *exec.Cmd
	output io.WriteCloser // what the test program prints
	events io.Writer
	copied chan error
}

func (o options) convert(ctx context.Context, pkg string) (*converter, error) {
	c := &converter{pkg: pkg, events: io.MultiWriter(os.Stdout, o.events), copied: make(chan error, 1)}
	c.tool = exec.CommandContext(ctx, "go", "tool", "test2json", "-t", "-p", pkg)
	c.tool.Stderr = os.Stderr
	var err error
	if c.output, err = c.tool.StdinPipe(); err != nil {
		return nil, err
	}
	events, err := c.tool.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.tool.Start(); err != nil {
		return nil, err
	}
	go func() { c.copied <- copyEvents(c.events, events) }()
	return c, nil
}

// copyEvents hands on all events but the package's verdict. The tool only guesses that from what was printed; it says none
// at all of a program that died.
func copyEvents(to io.Writer, from io.Reader) error {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil && e.Test == "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
			line = nil
		}
		if _, err := to.Write(line); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// finish ends the stream with the package's verdict.
func (c *converter) finish(passed bool, took time.Duration) error {
	verdict := event{Action: "fail", Package: c.pkg, Elapsed: took.Seconds()}
	if passed {
		verdict.Action = "pass"
	}
	closed := c.output.Close()
	copied := <-c.copied
	waited := c.tool.Wait()
	return errors.Join(closed, copied, waited, json.NewEncoder(c.events).Encode(verdict))
}

// What tells the profiles of a suite's parts apart.
const (
	coverBefore = ".before"
	coverAfter  = ".after"
)

func coverPath(s *suite) string { return lab.Scratch + "/cover/" + s.name() }

// collectCoverage brings the suites' profiles out and makes one of them.
func (o options) collectCoverage(ctx context.Context, host *lab.Host, suites []suite) error {
	var all bytes.Buffer
	var paths []string
	for i := range suites {
		path := coverPath(&suites[i])
		paths = append(paths, path, path+coverBefore, path+coverAfter)
	}
	for _, path := range paths {
		var one bytes.Buffer
		status, err := host.Run(ctx, guest.Command{Args: []string{"cat", path}, Stdout: &one})
		if err != nil {
			return fmt.Errorf("bring out the coverage: %w", err)
		}
		if status.ExitCode() != 0 {
			continue // it did not run, or its program died before it wrote one
		}
		mode, counts, _ := strings.Cut(one.String(), "\n")
		if all.Len() == 0 {
			all.WriteString(mode + "\n")
		}
		all.WriteString(counts)
	}
	return os.WriteFile(o.coverProfile, all.Bytes(), 0o644)
}

// onHost runs a command on a fresh host, with a terminal where there is one, and returns its exit code.
func (o options) onHost(ctx context.Context, args []string) (int, error) {
	host, err := o.startWith(ctx, nil)
	if err != nil {
		return 2, err
	}
	defer host.Close()
	cmd := guest.Command{Args: args, Env: environment(), Dir: lab.Payload + "/src", Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	in := int(os.Stdin.Fd())
	if term.IsTerminal(in) && term.IsTerminal(int(os.Stdout.Fd())) {
		cmd.TTY = true
		if width, height, err := term.GetSize(in); err == nil {
			cmd.Rows, cmd.Cols = uint16(height), uint16(width)
		}
		cmd.Env = append(cmd.Env, "TERM="+os.Getenv("TERM"))
		saved, err := term.MakeRaw(in)
		if err != nil {
			return 2, err
		}
		defer term.Restore(in, saved)
	}
	status, err := host.Run(ctx, cmd)
	if err != nil {
		return 2, err
	}
	return status.ExitCode(), nil
}

// oneWriter lets two streams be one.
type oneWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *oneWriter) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}
