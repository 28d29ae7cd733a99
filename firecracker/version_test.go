package firecracker

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVersionsAreReadAndOrdered(t *testing.T) {
	t.Parallel()
	ordered := []string{"0.25.2", "1.9.1", "1.12.0", "v1.13.0", "1.16.0", "1.16.1", "1.17.0-alpha", "1.17.0-dev", "1.17.0", "2.0.0"}
	var read []Version
	for _, s := range ordered {
		v, err := ParseVersion(s)
		if err != nil || v.String() != strings.TrimPrefix(s, "v") {
			t.Errorf("%q: %v %v", s, v, err)
		}
		read = append(read, v)
	}
	if !slices.IsSortedFunc(read, Version.Compare) {
		t.Errorf("not in order: %v", read)
	}
	for _, s := range []string{"", "1", "1.2", "1.2.3.4", "vv1.2.3", "1.2.x", " 1.2.3", "1.2.3\n", "1.2.3-", "1.2.3- x",
		"1.2.-3", "9999999.1.1", "1.2.3-" + strings.Repeat("a", 65)} {
		if v, err := ParseVersion(s); err == nil {
			t.Errorf("%q was read as %v", s, v)
		}
	}
}

func TestVersionsWithKnownHolesAreRefusedUnlessNamed(t *testing.T) {
	t.Parallel()
	fixed := []Version{{1, 14, 4, ""}, {1, 15, 1, ""}}
	for s, unsafe := range map[string]bool{
		"1.12.0": false, "1.12.9": false, "1.13.0": true, "1.13.2": true, "1.14.0": true, "1.14.3": true, "1.14.4": false,
		"1.15.0": true, "1.15.1": false, "1.16.1": false, "1.17.0-dev": false, "1.15.0-dev": true,
	} {
		v, err := ParseVersion(s)
		if err != nil {
			t.Fatal(err)
		}
		err = CheckVersion(v, []string{"1.14.9", "latest", ""})
		if !unsafe {
			if err != nil {
				t.Errorf("%s: %v", s, err)
			}
			continue
		}
		var hole *UnsafeVersionError
		if !errors.As(err, &hole) {
			t.Errorf("%s: got %v", s, err)
			continue
		}
		if diff := cmp.Diff(&UnsafeVersionError{Version: v, CVE: "CVE-2026-5747", FixedIn: fixed}, hole); diff != "" {
			t.Error(diff)
		}
		if !strings.Contains(err.Error(), "fixed in 1.14.4 and 1.15.1") {
			t.Error(err)
		}
		if err := CheckVersion(v, []string{"v" + s}); err != nil {
			t.Errorf("%s, allowed by name: %v", s, err)
		}
	}
	old := Version{1, 11, 0, ""}
	var unsupported *UnsupportedVersionError
	if err := CheckVersion(old, nil); !errors.As(err, &unsupported) || unsupported.Oldest != Oldest() {
		t.Errorf("1.11.0: %v", err)
	}
	if err := CheckVersion(old, []string{"1.11.0"}); err != nil {
		t.Errorf("1.11.0, allowed by name: %v", err)
	}
}

func TestABinaryTellsWhatItIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, test := range map[string]struct {
		script string
		want   Build
		err    string
	}{
		"firecracker": {"echo Firecracker v1.16.1; echo; echo 2026 exiting; echo noise >&2", Build{"Firecracker", Version{1, 16, 1, ""}}, ""},
		"emulator":    {"echo Firecracker v1.16.1; echo this is an emulator", Build{emulatorName, Version{1, 16, 1, ""}}, ""},
		"another":     {"echo QEMU emulation v7.2.0", Build{}, "is it the right binary?"},
		"no version":  {"echo Firecracker", Build{}, "is it the right binary?"},
		"silent":      {":", Build{}, "is it the right binary?"},
		"failing":     {"echo one >&2; echo 'bad flag' >&2; exit 153", Build{}, "exit status 153: one | bad flag"},
		"talkative":   {"yes Firecracker | head -c 10000000", Build{}, "is it the right binary?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			if err := writeScript(path, "#!/bin/sh\nPATH=/usr/bin:/bin\n"+test.script+"\n"); err != nil {
				t.Fatal(err)
			}
			got, err := BinaryVersion(t.Context(), path)
			if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %+v, %v", got, err)
			}
			if got.Emulator() && name == "firecracker" {
				t.Error("Firecracker is taken for the emulator")
			}
		})
	}
	if _, err := BinaryVersion(t.Context(), filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing binary: %v", err)
	}
}

func TestABinarysOutputIsKeptInPart(t *testing.T) {
	t.Parallel()
	var b bounded
	if n, err := io.Copy(&b, strings.NewReader(strings.Repeat("x", 3*maxBinaryOutput))); n != 3*maxBinaryOutput || err != nil {
		t.Errorf("took %d bytes: %v", n, err)
	}
	if b.kept.Len() != maxBinaryOutput {
		t.Errorf("kept %d bytes", b.kept.Len())
	}
}

// writeScript makes an executable file. It must not be open for writing in a process that another test forks meanwhile
// (ETXTBSY), so no fork may happen while it is.
func writeScript(path, text string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, []byte(text), 0o700)
}

func TestEveryExitCodeOfFirecrackersHasAMeaning(t *testing.T) {
	t.Parallel()
	seen := make(map[string]int)
	for _, code := range []int{0, 1, 2, 134, 148, 149, 150, 151, 152, 153, 154, 155, 156, 157} {
		meaning := ExitMeaning(code, 0)
		if meaning == ExitMeaning(77, 0) {
			t.Errorf("code %d has no meaning", code)
		}
		seen[meaning]++
	}
	if len(seen) < 13 { // 134 is the shell's way to say SIGABRT
		t.Errorf("meanings are shared: %v", seen)
	}
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGABRT, syscall.SIGSEGV} {
		if got := (Exit{Code: -1, Signal: s}).String(); !strings.HasPrefix(got, "signal ") {
			t.Error(got)
		}
	}
	if got := (Exit{Code: 153}).String(); got != "exit code 153: wrong command line arguments" {
		t.Error(got)
	}
}
