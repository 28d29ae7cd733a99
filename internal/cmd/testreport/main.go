// Command testreport runs `go test -json` and tells what came of it, so that nothing can be overlooked:
//
//	testreport go test -json ./...
//	testreport go test -json ./... --then lab
//
// What follows --then is a second command, whose events belong to the same run: it runs when the first has ended, however
// that went. So the tests that go test leaves to the lab are counted where they ran; one that did not run there stays
// skipped.
//
// A failure is printed with its output as soon as its package ends, every other package is one line. At the end stand
// how many tests passed, failed and were skipped at each level of proof (see package proof), why tests were skipped, and
// one line for programs to read: `N passed, N failed, N skipped`.
//
// The exit code is 0 when everything that ran passed and every skip has a reason that package proof gave. It is 1 for
// a failed test, a package that does not build, a test binary that died or ran out of time, a skip without such a
// reason, a stream that ends early and a run without any test; 2 when it is called wrongly.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: testreport go test -json [flags] [packages] [--then command]")
		os.Exit(2)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the commands, reports on their standard output and returns the exit code.
func run(argv []string, stdout, stderr io.Writer) int {
	r := newReport(stdout)
	ok := true
	for _, command := range split(argv, "--then") {
		went, err := r.follow(command, stderr)
		if err != nil {
			fmt.Fprintln(stderr, "testreport:", err)
			return 2
		}
		ok = ok && went
	}
	r.finish()
	ok = ok && r.ok()
	r.write(stdout) // last, so that its last line is the stream's
	if !ok {
		return 1
	}
	return 0
}

// follow runs a command, takes its events in and tells whether it went well. An error is one of ours: there is no such
// command.
func (r *report) follow(argv []string, stderr io.Writer) (bool, error) {
	if len(argv) == 0 {
		return false, errors.New("a command is missing")
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = stderr
	stream, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return false, err
	}
	ok := true
	if err := r.read(stream); err != nil {
		// What cannot be read must not keep the command from ending.
		io.Copy(io.Discard, stream)
		fmt.Fprintln(r.progress, "testreport: reading the stream:", err)
		ok = false
	}
	// The command's own verdict counts too: it may fail for a reason that is in no event.
	if err := cmd.Wait(); err != nil {
		fmt.Fprintf(r.progress, "testreport: %s: %v\n", argv[0], err)
		ok = false
	}
	return ok, nil
}

// split parts the arguments at a word.
func split(argv []string, word string) (parts [][]string) {
	for {
		i := slices.Index(argv, word)
		if i < 0 {
			return append(parts, argv)
		}
		parts = append(parts, argv[:i])
		argv = argv[i+1:]
	}
}
