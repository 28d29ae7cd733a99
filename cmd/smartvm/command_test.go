//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"smartvm"
)

// exitText is a command's exit code, or the signal that ended it.
func exitText(err error) string {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "0"
	case !errors.As(err, &exit):
		return err.Error()
	case exit.ExitCode() >= 0:
		return strconv.Itoa(exit.ExitCode())
	default:
		return exit.String()
	}
}

func TestDrivesAreReadFromTheirEnd(t *testing.T) {
	t.Parallel()
	no := false
	tests := []struct {
		text  string
		want  smartvm.Drive
		fault string
	}{
		{text: "a.img", want: smartvm.Drive{DriveID: "drive1", PathOnHost: "a.img"}},
		{text: "a.img:ro", want: smartvm.Drive{DriveID: "drive1", PathOnHost: "a.img", IsReadOnly: true}},
		{text: "a.img:in-place", want: smartvm.Drive{DriveID: "drive1", PathOnHost: "a.img", Ephemeral: &no}},
		{text: "a.img:id=data:ro", want: smartvm.Drive{DriveID: "data", PathOnHost: "a.img", IsReadOnly: true}},
		{text: "/dev/disk/by-path/pci-0000:00:1f.2", want: smartvm.Drive{DriveID: "drive1", PathOnHost: "/dev/disk/by-path/pci-0000:00:1f.2"}},
		{text: "b:c/a.img:ro", want: smartvm.Drive{DriveID: "drive1", PathOnHost: "b:c/a.img", IsReadOnly: true}},
		{text: "a.img:rw", fault: `no option "rw"`},
		{text: "a.img:", fault: `no option ""`},
		{text: ":ro", fault: "no path"},
		{text: "", fault: "no path"},
		{text: "a.img:ro:in-place", fault: "only one of both"},
	}
	for _, tt := range tests {
		got, err := parseDrive(tt.text, "drive1")
		switch {
		case tt.fault == "" && err != nil:
			t.Errorf("%q: %v", tt.text, err)
		case tt.fault != "" && (err == nil || !strings.Contains(err.Error(), tt.fault)):
			t.Errorf("%q: error %v, want one with %q", tt.text, err, tt.fault)
		case tt.fault == "":
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%q (-want +got):\n%s", tt.text, diff)
			}
		}
	}
}

func TestLimitsAreReadAndTheLastOfAKindWins(t *testing.T) {
	t.Parallel()
	f := vmFlags{limits: []string{"cpus=1.5", "memory=600M", "pids=32", "pids=64",
		"read-bps=2M", "write-bps=100000", "read-iops=10", "write-iops=20", "open-files=99", "file-size=2GiB"}}
	config, err := f.vmConfig()
	if err != nil || *config.Limits != (smartvm.Limits{
		CPUs: 1.5, MemoryMiB: 600, PIDs: 64, ReadBps: 2 << 20, WriteBps: 100000, ReadIOPS: 10, WriteIOPS: 20, OpenFiles: 99, FileSizeMiB: 2048,
	}) {
		t.Errorf("got %+v, %v", config, err)
	}
	for text, want := range map[string]string{
		"":               "the limits are cpus=NUMBER, memory=SIZE, pids=NUMBER, read-bps=SIZE",
		"io=1M":          "the limits are",
		"cpus":           "no number of CPUs",
		"cpus=0":         "no number of CPUs",
		"cpus=two":       "no number of CPUs",
		"memory=1000":    "", // MiB
		"memory=0":       "no whole number of MiB",
		"memory=1K":      "no whole number of MiB",
		"pids=1.5":       "no number of processes",
		"pids=0":         "no number of processes",
		"read-bps=0":     "lets no byte through",
		"write-bps=x":    "is no size",
		"read-iops=0":    "no number of operations",
		"write-iops=1.5": "no number of operations",
		"open-files=0":   "no number of files",
		"file-size=1K":   "no whole number of MiB",
	} {
		f := vmFlags{limits: []string{text}}
		_, err := f.vmConfig()
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "--limit "+text)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTheEnvironmentIsReadAsDockerReadsIt(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "env")
	text := "\ufeffA=1\n# a comment\n\n   B= two \nQUOTED=\"x\"\nHERE\nNOWHERE\nEQ=a=b\nEMPTY=\nA=2"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (string, bool) {
		return "from " + name, name == "HERE"
	}
	got, err := guestEnvironment([]string{"HERE", "NOWHERE", "A=3"}, []string{file}, lookup)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"A=1", "B= two ", `QUOTED="x"`, "HERE=from HERE", "EQ=a=b", "EMPTY=", "A=2", "HERE=from HERE", "A=3"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestAnEnvFileIsBounded(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"a long line":  "A=" + strings.Repeat("x", maxEnvLine),
		"a large file": strings.Repeat("A=1234567890\n", maxEnvFile/13+2),
		"a NUL byte":   "A=\x00",
	} {
		file := filepath.Join(t.TempDir(), "env")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := guestEnvironment(nil, []string{file}, os.LookupEnv); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSignalsGoToTheCommandOrEndTheVM(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		command bool // one runs
		signals []unix.Signal
		want    string // what happened, in order
	}{
		{"SIGINT while booting ends the VM", false, []unix.Signal{unix.SIGINT}, "cancel SIGINT"},
		{"SIGINT goes to the command", true, []unix.Signal{unix.SIGINT}, "forward SIGINT"},
		{"a second one ends the VM", true, []unix.Signal{unix.SIGINT, unix.SIGINT}, "forward SIGINT, cancel SIGINT"},
		{"a third one does not wait", true, []unix.Signal{unix.SIGINT, unix.SIGINT, unix.SIGINT}, "forward SIGINT, cancel SIGINT, hurry"},
		{"and a fourth one is nothing new", true, []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGINT, unix.SIGINT}, "forward SIGINT, cancel SIGTERM, hurry"},
		{"SIGTERM ends the VM", true, []unix.Signal{unix.SIGTERM}, "cancel SIGTERM"},
		{"SIGHUP ends the VM", false, []unix.Signal{unix.SIGHUP}, "cancel SIGHUP"},
		{"SIGPIPE is nothing", true, []unix.Signal{unix.SIGPIPE, unix.SIGWINCH}, "resize"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var happened []string
			in := &interrupts{hurry: make(chan struct{}), toGuest: make(chan func(), maxToGuest), cancel: func(cause error) {
				happened = append(happened, "cancel "+unix.SignalName(cause.(interrupted).signal))
			}}
			if tt.command {
				in.attach(func(s unix.Signal) { happened = append(happened, "forward "+unix.SignalName(s)) }, nil)
				in.resize = func() { happened = append(happened, "resize") }
			}
			for _, s := range tt.signals {
				in.take(s)
				for len(in.toGuest) > 0 { // here nobody else sends it
					(<-in.toGuest)()
				}
			}
			select {
			case <-in.hurry:
				happened = append(happened, "hurry")
			default:
			}
			if got := strings.Join(happened, ", "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestErrorsAreToldInOneForm(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	code := report(&failure{
		what: "the VM did not boot", stage: stageBoot, err: errors.New("kernel panic\x1b[31m\nafter 0.4s"),
		try: []string{"this", "or that"}, log: "console.log",
	}, &out)
	want := `Error: the VM did not boot
  stage:  boot  (configuration ✓  host ✓  image ✓  VMM ✓)
  cause:  kernel panic[31m
          after 0.4s
  try:    this
          or that
  log:    console.log
`
	if diff := cmp.Diff(want, out.String()); diff != "" || code != exitFailed {
		t.Errorf("exit code %d; (-want +got):\n%s", code, diff)
	}
}

func TestTheExitCodeSaysWhoFailed(t *testing.T) {
	t.Parallel()
	root := newRootCommand(streams{os.Stdin, os.Stdout, os.Stderr})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted{unix.SIGTERM})
	tests := []struct {
		err  error
		code int
	}{
		{nil, 0},
		{exitCode(7), 7},
		{&usageError{root, errors.New("no")}, 2},
		{errors.New("some error"), 125},
		{&failure{err: errors.New("late"), code: exitTimeout}, 124},
		{fmt.Errorf("wrapped: %w", &failure{err: errors.New("x")}), 125},
		{interruptedOr(ctx, errors.New("x")), 143},
		{interruptedOr(t.Context(), exitCode(3)), 3},
	}
	for _, tt := range tests {
		if got := report(tt.err, &bytes.Buffer{}); got != tt.code {
			t.Errorf("%v: exit code %d, want %d", tt.err, got, tt.code)
		}
	}
}
