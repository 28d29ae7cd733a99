package smartvm

import (
	"strings"
	"testing"
)

func TestTheConsolesEndTellsWhyAGuestFailed(t *testing.T) {
	t.Parallel()
	panicked := "[    1.0] something\r\n[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs\x1b[31m on unknown-block(0,0)\r\n[    1.3] Rebooting in 1 seconds..\r\n"
	if got := panicLine([]byte(panicked)); got != "Kernel panic - not syncing: VFS: Unable to mount root fs[31m on unknown-block(0,0)" {
		t.Errorf("the panic's line: %q", got)
	}
	if got := panicLine([]byte("all is well\n")); got != "" {
		t.Errorf("a panic where there is none: %q", got)
	}
	if got := panicLine([]byte("Kernel panic - " + strings.Repeat("x", 10_000))); len(got) > 300 {
		t.Errorf("a line of %d bytes", len(got))
	}
	if !guestOutOfMemory([]byte("[ 9.9] Out of memory: Killed process 12 (make)\n")) || guestOutOfMemory([]byte("Out of luck\n")) {
		t.Error("out of memory is not told apart")
	}
	if got := lastOutput([]byte("  \n"), []byte("guest\x07 says\n")); got != "guest says" {
		t.Errorf("the last output: %q", got)
	}
	if got := lastOutput([]byte("the VMM says\n"), []byte("guest\n")); got != "the VMM says" {
		t.Errorf("the VMM's words come first: %q", got)
	}
}

func TestAnExitNoteIsACodeAsAShellTellsIt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		note ExitNote
		want int
	}{
		{ExitNote{}, 0},
		{ExitNote{Code: 148}, 148},
		{ExitNote{Code: -1, Signal: 11}, 139},
		{ExitNote{Code: -1, Signal: 9, By: byKill}, 137},
		{ExitNote{Code: -1, Signal: 9, By: byStop}, 0},
		{ExitNote{By: byTimeout}, 124},
		{ExitNote{Panic: "Kernel panic"}, 125},
		{ExitNote{Code: -1, Unknown: true}, 125},
		{ExitNote{Command: &CommandExit{Code: 7}}, 7},
		{ExitNote{Command: &CommandExit{Signal: 15}, By: byStop}, 143},
		{ExitNote{Command: &CommandExit{Code: -1, Error: "unknown"}, Code: 1}, 1},
	} {
		if got := test.note.ExitCode(); got != test.want {
			t.Errorf("%+v: %d, want %d", test.note, got, test.want)
		}
	}
}
