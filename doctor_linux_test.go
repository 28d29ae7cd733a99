package smartvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"smartvm/internal/proof"
)

func wantCheck(t *testing.T, got Check, status CheckStatus, message, fix string) {
	t.Helper()
	if got.Status != status || !strings.Contains(got.Message, message) || !strings.Contains(got.Fix, fix) || (got.Fix == "") != (fix == "") {
		t.Errorf("%+v; want %q, and in it %q and %q", got, status, message, fix)
	}
}

func TestDoctorTellsWhatCgroupsLack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		controllers  string
		status       CheckStatus
		message, fix string
	}{
		"all":       {"cpuset cpu io memory hugetlb pids", CheckOK, "with cpu, memory, pids, io", ""},
		"without":   {"cpu pids", CheckWarn, "memory (limits.memoryMib), io (limits.readBps, writeBps, readIops and writeIops); ", "cgroup_no_v1=all"},
		"version 1": {"", CheckWarn, "cpu (limits.cpus), memory (limits.memoryMib), pids (limits.pids), io", "cgroup_no_v1=all"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"cgroup.controllers": c.controllers, "cgroup.subtree_control": ""} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			wantCheck(t, checkHierarchy(dir), c.status, c.message, c.fix)
		})
	}
}

func TestAProgramThatIsLinkedDynamicallyIsToldFromAStaticOne(t *testing.T) {
	t.Parallel()
	if got, err := interpreterOf(proof.Command(t)); err != nil || got != "" {
		t.Errorf("smartvm: %q, %v", got, err)
	}
	if got, err := interpreterOf("/bin/sh"); err != nil || !strings.HasPrefix(got, "/lib") || strings.ContainsRune(got, 0) {
		t.Errorf("a shell: %q, %v", got, err)
	}
	if got, err := interpreterOf("doctor_linux_test.go"); err == nil || !strings.Contains(err.Error(), "doctor_linux_test.go") {
		t.Errorf("a text: %q, %v", got, err)
	}
}

func TestDoctorTriesTheFiltersOfARealFirecracker(t *testing.T) {
	binary := proof.Firecracker(t)
	t.Setenv("TMPDIR", t.TempDir())
	check := func(args ...string) Check {
		return newTestManager(t, Options{FirecrackerBinary: binary, VMMArgs: args}).checkSeccomp(t.Context())
	}
	wantCheck(t, check("--enable-pci", "--no-seccomp"), CheckWarn, "--no-seccomp is among", "leave --no-seccomp out")
	missing := filepath.Join(t.TempDir(), "missing.bpf")
	wantCheck(t, check("--seccomp-filter", missing), CheckWarn, "No such file", "install a Firecracker")
	switch got := check(); got.Status {
	case CheckOK:
		wantCheck(t, got, CheckOK, "are held to", "")
	default: // a build for another libc
		wantCheck(t, got, CheckWarn, "built without seccomp filters", "a Firecracker release")
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "smartvm-doctor-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
