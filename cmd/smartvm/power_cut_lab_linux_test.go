package main

import (
	"encoding/json"
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

func TestAfterAPowerCutOfTheHostVMsAreToldStartedAndCleanedUp(t *testing.T) {
	flags := func(args ...string) []string { return append(args, vmmFlags(t)...) }
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
	if out := do(t, "exec", "keeps", "--", "sh", "-c", "mount -t ext4 /dev/vda /mnt && cat /mnt/kept"); out != "kept" {
		t.Errorf("the VM's drive has %q", out)
	}
	do(t, "start", "made")
	do(t, "rm", "-f", "keeps", "goes", "made")
	do(t, "gc")
	if vms := tellAll(t); len(vms) > 0 {
		t.Errorf("left are %v", vms)
	}
	nothingLeft(t)
}
