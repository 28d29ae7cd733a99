// Command lab runs the tests that belong to the lab, on a throw-away Linux host in QEMU (package lab):
//
//	lab [flags]             every lab test, or those that -run names
//	lab [flags] -shell      a shell on the host, for a person
//	lab [flags] -- COMMAND  a command on the host
//
// A test belongs to the lab when its file calls a function of package proof whose name begins with "Lab". The test
// programs are compiled here and run there; what they say comes out as test events (`go doc test2json`), with " [lab]"
// behind the package's name, which testreport understands.
//
// The exit code is 0 when everything passed, 1 when something did not, 2 when the lab was called wrongly or could not run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/lab"
)

// options are the command line's.
type options struct {
	run          string
	short        bool
	orSkip       bool
	shell        bool
	count, cpus  int
	limit        time.Duration
	testTimeout  time.Duration
	coverProfile string
	dir          string
	root         string // of the module
	command      []string
	events       io.Writer // gets a copy of the events, for a person to look at afterwards
}

func main() {
	o, err := parseFlags(os.Args[1:])
	if err != nil {
		os.Exit(2)
	}
	// `go run` and make may be killed without a word to us; the host must not live on then. It is the kernel that tells,
	// and it does as long as this thread lives: main's.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("the lab's time is up (%v)", o.limit))
		defer cancel()
	}
	code, err := o.do(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		fmt.Fprintln(os.Stderr, "lab:", err)
		code = 2
	}
	os.Exit(code)
}

func parseFlags(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	flags.StringVar(&o.run, "run", "", "only tests whose name matches this regular `expression`, as in go test")
	flags.IntVar(&o.count, "count", 1, "run each test so many times")
	// With two, QEMU's nested virtualization (TCG, 7.2) damaged three of eight guests: panics with registers full of noise,
	// boots that stand still. With one, none of eight.
	flags.IntVar(&o.cpus, "cpus", 1, "the host's CPUs; with more than one, QEMU damages some of the guests")
	flags.BoolVar(&o.short, "short", false, "leave out what takes long (testing.Short)")
	flags.BoolVar(&o.orSkip, "or-skip", false, "where the lab cannot run, report its tests as skipped, with the reason")
	flags.BoolVar(&o.shell, "shell", false, "a shell on the host instead of tests")
	flags.DurationVar(&o.limit, "limit", 25*time.Minute, "bounds the whole run")
	flags.DurationVar(&o.testTimeout, "timeout", 12*time.Minute, "bounds each package's tests")
	flags.StringVar(&o.coverProfile, "coverprofile", "", "write a coverage profile to this `file`")
	flags.StringVar(&o.dir, "dir", "", "what is kept between runs (default build/lab)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.command = flags.Args()
	if _, err := regexp.Compile(o.run); err != nil {
		fmt.Fprintln(os.Stderr, "lab: -run:", err)
		return o, err
	}
	var err error
	if o.root, err = moduleRoot(); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return o, err
	}
	if o.dir == "" {
		o.dir = filepath.Join(o.root, "build", "lab")
	}
	return o, nil
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			err = errors.New("no go.mod here or above")
		}
		dir = parent
	}
	return "", err
}

// do runs what was asked for and returns the exit code.
func (o options) do(ctx context.Context) (int, error) {
	if o.shell {
		return o.onHost(ctx, []string{"bash", "-l"})
	}
	if len(o.command) > 0 {
		return o.onHost(ctx, o.command)
	}
	suites, err := findSuites(ctx, o.root, o.run)
	if err != nil {
		return 2, err
	}
	if len(suites) == 0 {
		return 2, fmt.Errorf("no lab test matches %q", o.run)
	}
	host, err := o.startWith(ctx, suites)
	var unavailable *lab.UnavailableError
	if o.orSkip && errors.As(err, &unavailable) {
		return 0, skipAll(os.Stdout, suites, unavailable.Err)
	}
	if err != nil {
		return 2, err
	}
	defer host.Close()
	kept, err := os.Create(filepath.Join(o.dir, "events.json"))
	if err != nil {
		return 2, err
	}
	defer kept.Close()
	o.events = kept
	passed, err := o.runAll(ctx, host, suites)
	if err != nil {
		return 2, err
	}
	if o.coverProfile != "" {
		if err := o.collectCoverage(ctx, host, suites); err != nil {
			return 2, err
		}
	}
	if !passed {
		return 1, nil
	}
	return 0, nil
}

// startWith compiles the suites and starts a host that has them.
func (o options) startWith(ctx context.Context, suites []suite) (*lab.Host, error) {
	payload := map[string]string{"src/go.mod": filepath.Join(o.root, "go.mod")}
	for _, dir := range []string{"bin", "build/image"} {
		payload["src/"+dir] = filepath.Join(o.root, dir)
	}
	for variable, name := range map[string]string{"SMARTVM_FIRECRACKER": "firecracker", "SMARTVM_JAILER": "jailer"} {
		if path := os.Getenv(variable); path != "" {
			payload["vmm/"+name] = path
		}
	}
	for i := range suites {
		s := &suites[i]
		if err := o.compile(ctx, s); err != nil {
			return nil, err
		}
		payload["tests/"+s.name()] = s.program
		folder := path.Join("src", s.folder)
		payload[folder] = "" // where the tests run
		if testdata := filepath.Join(o.root, s.folder, "testdata"); isFolder(testdata) {
			payload[path.Join(folder, "testdata")] = testdata
		}
	}
	began := time.Now()
	host, err := lab.Start(ctx, lab.Options{
		Dir: o.dir, Bundle: filepath.Join(o.root, "build", "image"), Packages: filepath.Join(o.root, "build", "data", "packages"),
		CPUs: o.cpus, Limit: o.limit, Payload: payload, Log: say,
	})
	if err == nil {
		say("lab: the host is up after %.1f s", time.Since(began).Seconds())
	}
	return host, err
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// say tells the user what takes long. Events go to standard output, this does not.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// environment is that of everything on the host.
func environment() []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"TMPDIR=" + lab.Scratch + "/tmp", "SMARTVM_LAB=1", "SMARTVM_TEST_IMAGE=" + lab.Payload + "/src/build/image",
	}
	for variable, name := range map[string]string{"SMARTVM_FIRECRACKER": "firecracker", "SMARTVM_JAILER": "jailer"} {
		if os.Getenv(variable) != "" {
			env = append(env, variable+"=/usr/local/bin/"+name)
		}
	}
	return env
}
