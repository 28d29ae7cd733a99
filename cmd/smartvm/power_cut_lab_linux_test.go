package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

// told is what `smartvm ps -a --format json` says of a VM.
type told struct{ Name, State, Phase, Detail string }

// tellAll asks for all VMs of the host.
func tellAll(t *testing.T) map[string]told {
	t.Helper()
	out, errs, code := smartvmCommand(t, "", "ps", "-a", "--format", "json")
	var all []told
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 {
		t.Fatalf("ps says %q, %q, exit code %d: %v", out, errs, code, err)
	}
	byName := map[string]told{}
	for _, vm := range all {
		byName[vm.Name] = vm
	}
	return byName
}

// do runs a command that has to succeed, and returns its output.
func do(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := smartvmCommand(t, "", args...)
	if code != 0 {
		t.Fatalf("smartvm %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

func TestAfterAPowerCutOfTheHostVMsAreToldStartedAndCleanedUp(t *testing.T) {
	_, emulator := proof.LabVMM(t)
	flags := func(args ...string) []string {
		if emulator {
			args = append(args, "--emulate")
		}
		return args
	}
	if !proof.LabPowerCut(t) {
		do(t, flags("run", "-d", "--name", "keeps", "-m", "256M", "--disk", "64M", "--limit", "pids=100")...)
		do(t, "exec", "keeps", "--", "sh", "-c", "mount -t ext4 /dev/vda /mnt && echo kept >/mnt/kept && umount /mnt")
		unix.Sync() // the matter is not what of the guest's data has reached the drive
		do(t, flags("run", "-d", "--name", "goes", "-m", "256M")...)
		do(t, flags("create", "--name", "made")...) // and off
		return
	}

	vms := tellAll(t)
	for name, phase := range map[string]string{"keeps": "lost", "goes": "lost", "made": "created"} {
		if vm := vms[name]; vm.Phase != phase || phase == "lost" && !strings.Contains(vm.Detail, "rebooted") {
			t.Errorf("%s is told as %+v", name, vm)
		}
	}
	do(t, "start", "keeps")
	if out := do(t, "exec", "keeps", "--", "sh", "-c", "mount -t ext4 /dev/vda /mnt && cat /mnt/kept"); out != "kept\n" {
		t.Errorf("the VM's drive has %q", out)
	}
	do(t, "start", "made")
	do(t, "rm", "-f", "keeps", "goes", "made")
	do(t, "gc")
	if vms := tellAll(t); len(vms) > 0 {
		t.Errorf("left are %v", vms)
	}
	for _, pattern := range []string{"/var/lib/smartvm/vms/*", "/var/lib/smartvm/uids/[^.]*", "/var/lib/smartvm/names/[^.]*", "/run/smartvm/*", "/sys/fs/cgroup/smartvm/*/"} {
		left, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), "/var/lib/smartvm/vms") {
		t.Errorf("mounts are left: %v\n%s", err, mounts)
	}
}
