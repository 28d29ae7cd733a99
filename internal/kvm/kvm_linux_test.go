package kvm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

func TestTheProbeOfThisMachineIsConsistent(t *testing.T) {
	proof.Host(t)
	before := descriptors(t)
	r := Probe(t.Context(), DefaultPath)
	t.Logf("%+v", r)
	if after := descriptors(t); !slices.Equal(before, after) {
		t.Errorf("descriptors before the probe: %v, after it: %v", before, after)
	}
	if r.Path != DefaultPath || r.Detail == "" {
		t.Errorf("the result lacks its path or its detail: %+v", r)
	}
	if (r.State == Usable) != (r.Fix == "") {
		t.Errorf("a fix is given exactly when something is wrong, got state %q, fix %q", r.State, r.Fix)
	}
	_, err := os.Stat(DefaultPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if r.State != Missing {
			t.Errorf("there is no device, and the state is %q", r.State)
		}
	case paravirtual():
		// kvm_pvm emulates what is not its own kind of guest: the VM is made, and its guest crawls.
		if r.State != Useless {
			t.Errorf("KVM is kvm_pvm, which emulates real mode, and the state is %q", r.State)
		}
	case r.State == Usable && runtime.GOARCH == "amd64":
		if r.Loop <= 0 || r.Loop >= LoopLimit {
			t.Errorf("usable, but the loop took %v", r.Loop)
		}
	case r.State == Unknown:
		t.Error("the probe came to no end")
	}
}

func TestAProbeThatIsInterruptedSaysSo(t *testing.T) {
	proof.Host(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := Probe(ctx, DefaultPath); r.State == Useless || r.State == Unusable {
		t.Errorf("an interrupted probe judged: %+v", r)
	}
}

func TestWhatIsNoKVMIsMissing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + "-none", "/dev/null"} {
		if r := Probe(t.Context(), path); r.State != Missing || r.Path != path || !strings.Contains(r.Detail, path) || r.Fix == "" {
			t.Errorf("%s: %+v", path, r)
		}
	}
}

func TestErrorsOfTheDeviceGetTheirState(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		got  Result
		want State
	}{
		{openFailed("/dev/kvm", unix.ENOENT), Missing},
		{openFailed("/dev/kvm", unix.ENXIO), Missing},
		{openFailed("/dev/kvm", unix.ENODEV), Missing},
		{openFailed("/dev/null", unix.EACCES), Denied},
		{openFailed("/dev/null", unix.EPERM), Denied},
		{openFailed("/dev/kvm", unix.EBUSY), Busy},
		{openFailed("/dev/kvm", unix.EIO), Unusable},
		{createFailed(unix.EBUSY), Busy},
		{createFailed(unix.ENOMEM), Unusable},
	} {
		if c.got.State != c.want || c.got.Detail == "" || c.got.Fix == "" {
			t.Errorf("got %+v, want state %q", c.got, c.want)
		}
	}
}

func TestDeniedTellsAnOldLoginFromALackOfMembership(t *testing.T) {
	t.Parallel()
	const deviceMode = unix.S_IFCHR | 0o660
	for name, c := range map[string]struct {
		a    access
		want string
	}{
		"no member":      {access{mode: deviceMode}, "usermod -aG kvm anna"},
		"old login":      {access{mode: deviceMode, inDatabase: true}, "newgrp kvm"},
		"owner only":     {access{mode: unix.S_IFCHR | 0o600, inDatabase: true, inProcess: true}, "chmod 660 /dev/kvm"},
		"something else": {access{mode: deviceMode, inDatabase: true, inProcess: true}, "security module"},
	} {
		c.a.path, c.a.user, c.a.group = "/dev/kvm", "anna", "kvm"
		if r := c.a.explain(); r.State != Denied || !strings.Contains(r.Fix, c.want) {
			t.Errorf("%s: %+v, want a fix with %q", name, r, c.want)
		}
	}
}

func TestAdviceFollowsTheCPU(t *testing.T) {
	t.Parallel()
	for flags, want := range map[string]string{
		"fpu vmx": "kvm_intel", "fpu svm": "kvm_amd", "fpu hypervisor": "nested", "fpu": "firmware",
	} {
		if got := adviceFor("processor : 0\nflags\t\t: " + flags + "\nbugs\t\t: vmx svm\n"); !strings.Contains(got, want) {
			t.Errorf("flags %q: %q, want %q in it", flags, got, want)
		}
	}
}

// paravirtual reports whether the machine's KVM is kvm_pvm.
func paravirtual() bool {
	_, err := os.Stat("/sys/module/kvm_pvm")
	return err == nil
}

// descriptors lists what this process has open, but for what Go's poller opens on its own.
func descriptors(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && (strings.Contains(target, "kvm") || strings.HasPrefix(target, "/dev/")) {
			open = append(open, e.Name()+" "+target)
		}
	}
	return open
}
