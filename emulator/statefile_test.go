package emulator

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func stateOf(t *testing.T, machine string) []byte {
	t.Helper()
	var b bytes.Buffer
	saved := savedVM{Format: stateFormat, Version: version, Machine: machine, Config: vmConfig{Machine: defaultMachineConfig()}}
	err := writeState(&b, saved, func(w io.Writer) error {
		_, err := io.WriteString(w, "the machine's part")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readBack(t *testing.T, data []byte, machine string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, blob, err := readState(path, machine)
	if err != nil {
		return "", err
	}
	part, err := io.ReadAll(blob)
	return string(part), err
}

func TestAStateComesBackToTheMachineThatWroteIt(t *testing.T) {
	t.Parallel()
	part, err := readBack(t, stateOf(t, "qemu"), "qemu")
	if err != nil || part != "the machine's part" {
		t.Errorf("got %q, %v", part, err)
	}
}

func TestForeignAndDamagedStatesAreRefusedByName(t *testing.T) {
	t.Parallel()
	own := stateOf(t, "null")
	flipped := bytes.Clone(own)
	flipped[20] ^= 1
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"another machine's":   {own, `this is a state of the emulator's machine "null", and this one is "qemu"`},
		"Firecracker's":       {append([]byte{0, 0, 0, 0x64, 0x86, 0x84, 0x19, 0x10, 0x07, 6}, make([]byte, 100)...), "a state of Firecracker itself"},
		"damaged":             {flipped, "CRC64 validation failed"},
		"cut":                 {own[:len(own)-1], "CRC64 validation failed"},
		"cut in the prologue": {own[:10], "File too short"},
		"empty":               {nil, "File too short"},
		"something else":      {bytes.Repeat([]byte("x"), 1000), "bitcode error"},
	} {
		if _, err := readBack(t, tc.data, "qemu"); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want ...%s...", name, err, tc.want)
		}
	}
}

func FuzzAStateFileNeverPanics(f *testing.F) {
	f.Add([]byte(stateMagic))
	f.Add([]byte(stateMagic + "\xff\xff\xff\xff" + strings.Repeat("x", 40)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var vm savedVM
		_, _ = vm.parse(data, "null")
	})
}

func TestAStateIsNotWrittenWhenTheMachineFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	if err := writeState(io.Discard, savedVM{}, func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
