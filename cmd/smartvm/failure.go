//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"smartvm"
)

// failure is an error as it is told: what failed, at which stage, why, what to try, and where to read on.
type failure struct {
	what  string // "the VM did not boot"; empty: err says it all
	stage stage  // how far the run came
	err   error  // why
	try   []string
	log   string // path of a file with more
	code  int    // exit code; 0 means exitFailed
}

func (f *failure) Error() string {
	if f.what == "" {
		return f.err.Error()
	}
	return fmt.Sprintf("%s: %v", f.what, f.err)
}

func (f *failure) Unwrap() error { return f.err }

func (f *failure) exitCode() int { return cmp.Or(f.code, exitFailed) }

// print writes it in the form
//
//	Error: what failed
//	  stage:  at which stage, and what was done before it
//	  cause:  why
//	  try:    what may help
//	  log:    where to read on
func (f *failure) print(w io.Writer) {
	row := func(name, text string) {
		if text != "" {
			// Further lines of a text stand under the first.
			fmt.Fprintf(w, "  %-7s %s\n", name+":", strings.ReplaceAll(printable(text), "\n", "\n          "))
		}
	}
	if f.what == "" {
		fmt.Fprintf(w, "Error: %s\n", printable(f.err.Error()))
	} else {
		fmt.Fprintf(w, "Error: %s\n", printable(f.what))
	}
	row("stage", f.stage.String())
	if f.what != "" {
		row("cause", f.err.Error())
	}
	row("try", strings.Join(append(f.try, advice(f.err)...), "\n"))
	row("log", f.log)
}

// advice tells what may help against an error of the front door, beyond what its message says.
func advice(err error) []string {
	if errors.Is(err, smartvm.InsecurePath) {
		return []string{"SMARTVM_DATA_DIR=<a folder of your own> smartvm …"}
	}
	return nil
}

// stage is how far a run came.
type stage int

// The stages of a run, in order.
const (
	stageNone stage = iota
	stageConfigure
	stageHost
	stageImage
	stageStart
	stageBoot
	stageCommand
	stageCleanUp
)

var stageNames = map[stage]string{
	stageConfigure: "configuration",
	stageHost:      "host",
	stageImage:     "image",
	stageStart:     "VMM",
	stageBoot:      "boot",
	stageCommand:   "command",
	stageCleanUp:   "clean-up",
}

// String names the stage and what was passed before it.
func (s stage) String() string {
	if s == stageNone {
		return ""
	}
	var passed []string
	for earlier := stageConfigure; earlier < s; earlier++ {
		passed = append(passed, stageNames[earlier]+" ✓")
	}
	if len(passed) == 0 {
		return stageNames[s]
	}
	return fmt.Sprintf("%s  (%s)", stageNames[s], strings.Join(passed, "  "))
}
