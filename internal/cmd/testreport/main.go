// Command testreport runs `go test -json` and tells what came of it, so that nothing can be overlooked:
//
//	testreport go test -json ./...
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
	"fmt"
	"io"
	"os"
	"os/exec"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: testreport go test -json [flags] [packages]")
		os.Exit(2)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the command, reports on its standard output and returns the exit code.
func run(argv []string, stdout, stderr io.Writer) int {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = stderr
	stream, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(stderr, "testreport:", err)
		return 2
	}
	r := newReport(stdout)
	readErr := r.read(stream)
	if readErr != nil {
		// What cannot be read must not keep the command from ending.
		io.Copy(io.Discard, stream)
	}
	waitErr := cmd.Wait()
	r.finish()
	ok := r.ok()
	if readErr != nil {
		fmt.Fprintln(stdout, "testreport: reading the stream:", readErr)
		ok = false
	}
	// The command's own verdict counts too: it may fail for a reason that is in no event.
	if waitErr != nil {
		fmt.Fprintf(stdout, "testreport: %s: %v\n", argv[0], waitErr)
		ok = false
	}
	r.write(stdout) // last, so that its last line is the stream's
	if !ok {
		return 1
	}
	return 0
}
