package smartvm

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"smartvm/internal/cpuarch"
)

const exampleYAML = `# a web server
schemaVersion: 1
id: web
bootSource:
  kernelImagePath: /images/vmlinux
  bootArgs: console=ttyS0 reboot=k panic=1
machineConfig: {vcpuCount: 2, memSizeMib: 512}
drives:
  - driveId: rootfs
    pathOnHost: /images/root.ext4
    isRootDevice: true
    ephemeral: false
    rateLimiter: &limit
      bandwidth: {size: 1000000, refillTime: 100}
  - driveId: data
    pathOnHost: /images/data.ext4
    rateLimiter: *limit
networkInterfaces:
  - ifaceId: eth0
    hostDevName: tap0
mmds:
  version: V2
  networkInterfaces: [eth0]
entropy: {}
`

const exampleJSON = `{
	"schemaVersion": 1,
	"id": "web",
	"bootSource": {"kernelImagePath": "/images/vmlinux", "bootArgs": "console=ttyS0 reboot=k panic=1"},
	"machineConfig": {"vcpuCount": 2, "memSizeMib": 512},
	"drives": [
		{"driveId": "rootfs", "pathOnHost": "\/images\/root.ext4", "isRootDevice": true, "ephemeral": false,
		 "rateLimiter": {"bandwidth": {"size": 1000000, "refillTime": 100}}},
		{"driveId": "data", "pathOnHost": "/images/data.ext4",
		 "rateLimiter": {"bandwidth": {"size": 1000000, "refillTime": 100}}}
	],
	"networkInterfaces": [{"ifaceId": "eth0", "hostDevName": "tap0"}],
	"mmds": {"version": "V2", "networkInterfaces": ["eth0"]},
	"entropy": {}
}`

func TestYAMLAndJSONSayTheSame(t *testing.T) {
	t.Parallel()
	no := false
	limit := func() *RateLimiter { return &RateLimiter{Bandwidth: &TokenBucket{Size: 1000000, RefillTime: 100}} }
	want := &Config{
		SchemaVersion: 1,
		ID:            "web",
		BootSource:    BootSource{KernelImagePath: "/images/vmlinux", BootArgs: "console=ttyS0 reboot=k panic=1"},
		MachineConfig: MachineConfig{VCPUCount: 2, MemSizeMiB: 512},
		Drives: []Drive{
			{DriveID: "rootfs", PathOnHost: "/images/root.ext4", IsRootDevice: true, Ephemeral: &no, RateLimiter: limit()},
			{DriveID: "data", PathOnHost: "/images/data.ext4", RateLimiter: limit()},
		},
		NetworkInterfaces: []NetworkInterface{{IfaceID: "eth0", HostDevName: "tap0"}},
		MMDS:              &MMDS{Version: "V2", NetworkInterfaces: []string{"eth0"}},
		Entropy:           &Entropy{},
	}
	for name, text := range map[string]string{"vm.yaml": exampleYAML, "vm.json": exampleJSON} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := LoadConfig(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got.Drives[0].RateLimiter == got.Drives[1].RateLimiter {
			t.Errorf("%s: two drives share one rate limiter in memory", name)
		}
	}
}

func TestParseConfigSaysWhereAndWhat(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"mistyped key": {
			"bootSource:\n  kernelImagePath: k\nmachineConfig:\n  vcpucount: 2\n",
			"line 4: unknown key `vcpucount` in machineConfig; did you mean `vcpuCount`?"},
		"Firecracker's key": {
			"drives:\n- path_on_host: x\n", "line 2: unknown key `path_on_host` in drives[0]; did you mean `pathOnHost`?"},
		"Firecracker's section": {
			"boot-source: {}\n", "line 1: unknown key `boot-source` in the file; did you mean `bootSource`?"},
		"key of another part": {
			"vcpuCount: 2\n", "line 1: unknown key `vcpuCount` in the file; it belongs in machineConfig"},
		"key of a part of a list": {
			"hostDevName: tap0\n", "line 1: unknown key `hostDevName` in the file; it belongs in networkInterfaces[]"},
		"key that is like none": {
			"vsock:\n  colour: red\n", "line 2: unknown key `colour` in vsock; the nearest known key is `udsPath`, all are: guestCid, udsPath"},
		"key twice":          {"id: a\nid: b\n", "line 2: id is given twice, first in line 1"},
		"key twice in JSON":  {`{"id": "a", "id": "b"}`, "line 1: id is given twice, first in line 1"},
		"merge key":          {"bootSource:\n  <<: {kernelImagePath: k}\n", "line 2: a key of bootSource must be plain text, is a merge key (<<), which is not supported"},
		"key that is a list": {"? [a]\n: b\n", "line 1: a key of the file must be plain text, is a list"},
		"key that is a number": {
			"1: b\n", "line 1: a key of the file must be plain text, is the number 1"},
		"second document":   {"id: a\n---\nid: b\n", "line 2: a second document: a file describes one VM"},
		"nothing":           {"", "is empty"},
		"only a comment":    {"# id: a\n", "is empty"},
		"null document":     {"null\n", "line 1: the file has no value"},
		"a list":            {"- id: a\n", "line 1: the file must be a mapping of keys to values, is a list"},
		"a word":            {"hello\n", "line 1: the file must be a mapping of keys to values, is the text \"hello\""},
		"text for number":   {"machineConfig:\n  vcpuCount: two\n", "line 2: machineConfig.vcpuCount must be a whole number in decimal digits, is the text \"two\""},
		"quoted number":     {"machineConfig: {vcpuCount: '2'}\n", "machineConfig.vcpuCount must be a whole number in decimal digits, is the text \"2\""},
		"fraction":          {"machineConfig: {vcpuCount: 1.5}\n", "machineConfig.vcpuCount must be a whole number in decimal digits, is the number 1.5"},
		"octal":             {"machineConfig: {memSizeMib: 0512}\n", "must be a whole number in decimal digits, is the number 0512"},
		"hex":               {"machineConfig: {memSizeMib: 0x200}\n", "must be a whole number in decimal digits, is the number 0x200"},
		"underscores":       {"machineConfig: {memSizeMib: 1_024}\n", "must be a whole number in decimal digits, is the number 1_024"},
		"size with a unit":  {"machineConfig: {memSizeMib: 512M}\n", "must be a whole number in decimal digits, is the text \"512M\""},
		"too large":         {"vsock: {guestCid: 4294967296}\n", "vsock.guestCid is out of range: the number 4294967296"},
		"negative":          {"vsock: {guestCid: -1}\n", "vsock.guestCid is out of range: the number -1"},
		"number for text":   {"id: 123\n", "line 1: id must be text, is the number 123: put it in quotes"},
		"boolean for text":  {"id: true\n", "line 1: id must be text, is \"true\": put it in quotes"},
		"date for text":     {"id: 2026-11-23\n", "line 1: id must be text, is \"2026-11-23\": put it in quotes"},
		"tag":               {"id: !secret x\n", "line 1: id must be text, is \"x\""},
		"text for boolean":  {"machineConfig: {smt: yes}\n", "machineConfig.smt must be true or false, is the text \"yes\""},
		"mapping for list":  {"drives: {driveId: a}\n", "drives must be a list, is a mapping"},
		"list for mapping":  {"bootSource: [a]\n", "bootSource must be a mapping of keys to values, is a list"},
		"mapping for text":  {"id: {a: b}\n", "id must be text, is a mapping"},
		"text for mapping":  {"entropy: on\n", "entropy must be a mapping of keys to values, is the text \"on\""},
		"no value":          {"id:\n", "line 1: id has no value: give one, or leave the key out for the default"},
		"null in JSON":      {`{"vsock": null}`, "line 1: vsock has no value"},
		"null in a list":    {"drives: [~]\n", "line 1: drives[0] has no value"},
		"explicit 0 vCPUs":  {"machineConfig: {vcpuCount: 0}\n", "machineConfig.vcpuCount must not be 0: leave the key out for the default"},
		"explicit 0 memory": {"machineConfig: {memSizeMib: 0}\n", "machineConfig.memSizeMib must not be 0"},
		"explicit 0 schema": {"schemaVersion: 0\n", "schemaVersion must not be 0"},
		"explicit 0 mtu":    {"networkInterfaces: [{mtu: 0}]\n", "networkInterfaces[0].mtu must not be 0"},
		"bad indentation":   {"id: a\n  b: c\n", "line 2: mapping values are not allowed in this context"},
		"a tab":             {"bootSource:\n\tkernelImagePath: k\n", "line 2: "},
		"open bracket":      {"drives: [\n", "line 2: did not find expected node content"},
		"unknown anchor":    {"id: *x\n", "line 1: unknown anchor 'x' referenced"},
		"a NUL":             {"id: \"a\x00b\"\n", "control characters are not allowed"},
		"broken second":     {"id: a\n---\n[\n", "line 4: "},
		"too many bytes":    {"# " + strings.Repeat("x", maxConfigBytes), "is larger than the limit of 1048576 bytes"},
	} {
		got, err := ParseConfig("vm.yaml", []byte(c.text))
		if err == nil || !errors.Is(err, InvalidConfig) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "read vm.yaml: ") {
			t.Errorf("%s:\n got %v\nwant %s", name, err, c.want)
		}
		if got != nil {
			t.Errorf("%s: a configuration came back with the error", name)
		}
	}
}

func TestParseConfigReportsAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := ParseConfig("vm.yaml", []byte("Id: a\nbootSource:\n  kernel: k\n  bootArgs: 5\ndrives:\n- driveId: a\n  driveId: b\n"))
	want := "read vm.yaml: 4 faults\n" +
		"  line 1: unknown key `Id` in the file; did you mean `id`?\n" +
		"  line 3: unknown key `kernel` in bootSource; did you mean `kernelImagePath`?\n" +
		"  line 4: bootSource.bootArgs must be text, is the number 5: put it in quotes\n" +
		"  line 7: drives[0].driveId is given twice, first in line 6 (INVALID_CONFIG)"
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

func TestParseConfigStopsAtABomb(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		// 1000 leaves with 1000 modifiers each, from 20 KiB of text.
		"aliases": "cpuConfig:\n  cpuidModifiers:\n  - &leaf\n    leaf: '0x0'\n    modifiers:\n    - &m {register: eax, bitmap: '0b1'}\n" +
			strings.Repeat("    - *m\n", 1000) + strings.Repeat("  - *leaf\n", 1000),
		"a list that holds itself": "drives: &a [*a]\n",
		"depth":                    strings.Repeat("[", 1<<19),
		"faults":                   "drives:\n" + strings.Repeat("- {x: 1}\n", 100_000),
	} {
		_, err := ParseConfig("vm.yaml", []byte(text))
		if err == nil {
			t.Errorf("%s was read", name)
		} else if len(err.Error()) > 20_000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestLoadConfigNamesTheFile(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "vm.yaml")
	_, err := LoadConfig(missing)
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, InvalidConfig) || !strings.Contains(err.Error(), missing) {
		t.Errorf("got %v", err)
	}
	folder := t.TempDir()
	if _, err := LoadConfig(folder); !errors.Is(err, InvalidConfig) || !strings.Contains(err.Error(), folder) {
		t.Errorf("got %v", err)
	}
}

// FuzzParseConfig: whatever comes in, either a configuration or an error comes out; a configuration survives being
// written and read, and no input makes validation fail otherwise than by an error.
func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{
		exampleYAML, exampleJSON, "", "id: a\n---\nid: b\n", "a: &x [*x]\n", "<<: {id: a}\n", "id: !!binary aGk=\n", "? [a]\n: b\n",
		"vsock: {guestCid: -0}\n", "machineConfig: {vcpuCount: 18446744073709551616}\n", "\xff\xfei\x00d\x00", "%YAML 1.2\n---\nid: a\n",
		"mmds: {}\n", "cpuConfig: {cpuidModifiers: [{}]}\n", // found: a missing list was written as null
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig("fuzz", data)
		if err != nil {
			if c != nil || !errors.Is(err, InvalidConfig) {
				t.Fatalf("%v, %v", c, err)
			}
			return
		}
		for _, arch := range []string{cpuarch.X8664, cpuarch.AArch64} {
			if err := c.validate(arch); err != nil && !errors.Is(err, InvalidConfig) {
				t.Fatal(err)
			}
		}
		written, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseConfig("written", written)
		if err != nil {
			t.Fatalf("cannot read back %s: %v", written, err)
		}
		rewritten, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(written), string(rewritten)); diff != "" {
			t.Fatal(diff)
		}
	})
}
