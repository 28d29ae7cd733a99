package smartvm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"smartvm/internal/cpuarch"
)

func TestBootArgumentsAreAlwaysSent(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, given, arch string
		guest             []string
		want              string
	}{
		{"default on x86_64", "", cpuarch.X8664, nil, "console=ttyS0 reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd"},
		{"default on aarch64: no i8042, and the boot console stays", "", cpuarch.AArch64, nil, "keep_bootcon console=ttyS0 reboot=k panic=1"},
		{"given ones are kept as they are, order and doubles", "b a b", cpuarch.X8664, nil, "b a b"},
		{"our init's come behind", "a", cpuarch.X8664, []string{"smartvm.hostname=x"}, "a smartvm.hostname=x"},
		{"a guest with our init needs no kernel messages", "", cpuarch.AArch64, []string{"x"}, "keep_bootcon console=ttyS0 reboot=k panic=1 quiet x"},
	} {
		if got := bootArgs(test.given, test.arch, test.guest); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// Every key of a configuration must reach the VMM, but for those that are ours. The configuration in testdata has all.
func TestEveryKeyReachesTheVMM(t *testing.T) {
	t.Parallel()
	config, err := LoadConfig(filepath.Join("testdata", "all-keys.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(vmmConfig(config), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "all-keys.vmm.json")
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got)+"\n" != string(want) {
		t.Errorf("the VMM is told %s", got)
	}
}
