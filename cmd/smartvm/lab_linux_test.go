package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"smartvm/internal/proof"
)

// vmmFlags are what makes `smartvm run` use the lab's VMM.
func vmmFlags(t *testing.T) []string {
	t.Helper()
	if _, emulator := proof.LabVMM(t); emulator {
		return []string{"--emulate"}
	}
	return nil
}

// commandLimit bounds a command: two minutes are a boot on a machine that is busy with something else.
const commandLimit = 3 * time.Minute

// smartvmCommand runs bin/smartvm as a user does, and returns what it printed and its exit code.
func smartvmCommand(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, proof.Command(t), args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("smartvm %s hangs: stdout %q, stderr %q", strings.Join(args, " "), out.String(), errs.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestDoctorFindsTheLabFit(t *testing.T) {
	proof.Lab(t)
	out, errs, code := smartvmCommand(t, "", "doctor")
	fine := []string{"kvm", "tun", "reflink", "image", "emulator", "cgroup"}
	if os.Getenv("SMARTVM_JAILER") != "" {
		fine = append(fine, "firecracker", "jailer")
	}
	for _, check := range fine {
		if !strings.Contains(out, "✓ "+check) {
			t.Errorf("%s is not fine", check)
		}
	}
	if !strings.Contains(out, "\n✓ seccomp") && !strings.Contains(out, "built without seccomp filters") && os.Getenv("SMARTVM_FIRECRACKER") != "" {
		t.Error("nothing is said of seccomp")
	}
	if real := os.Getenv("SMARTVM_FIRECRACKER") != ""; real != (code == 0) {
		t.Errorf("exit code %d, with a Firecracker: %t", code, real)
	}
	if t.Failed() {
		t.Logf("doctor says:\n%s%s", out, errs)
	}
}

func TestRunInTheLabHandsOutputAndExitCodeBack(t *testing.T) {
	flags := vmmFlags(t)
	args := append(append([]string{"run", "-i", "-e", "GREETING=hi"}, flags...), "--", "sh", "-c", "echo $GREETING; cat; echo err >&2; uname -r >/dev/null; exit 3")
	out, errs, code := smartvmCommand(t, "in\n", args...)
	// A guest as slow as this one may take longer to shut down than it is given, and that is said, too.
	if out != "hi\nin\n" || !strings.HasPrefix(errs, "err\n") || code != 3 {
		t.Errorf("stdout %q, stderr %q, exit code %d", out, errs, code)
	}
	for _, dir := range []string{"/var/lib/smartvm/vms", "/run/smartvm"} {
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			if entry.IsDir() {
				t.Errorf("left behind: %s/%s", dir, entry.Name())
			}
		}
	}
}

// The least that is allowed must be enough for a guest that fills its memory as far as its init's tmpfs goes.
func TestAGuestLivesWithinTheTightestLimitsInTheLab(t *testing.T) {
	flags := vmmFlags(t)
	memory, pids := "288M", "5"
	if len(flags) > 0 { // QEMU and the emulator
		memory, pids = "512M", "100"
	}
	args := append([]string{"run", "-m", "256M", "--limit", "cpus=0.9", "--limit", "memory=" + memory, "--limit", "pids=" + pids}, flags...)
	args = append(args, "--", "sh", "-c", "dd if=/dev/zero of=/fill bs=1M count=120 2>/dev/null; cat /fill >/dev/null; echo filled")
	out, errs, code := smartvmCommand(t, "", args...)
	if out != "filled\n" || code != 0 {
		t.Errorf("stdout %q, stderr %q, exit code %d", out, errs, code)
	}
}

func TestALimitThatIsTooLowIsRefusedInTheLab(t *testing.T) {
	args := append(append([]string{"run", "-m", "256M", "--limit", "memory=287M"}, vmmFlags(t)...), "--", "true")
	out, errs, code := smartvmCommand(t, "", args...)
	if out != "" || code != 125 || !strings.Contains(errs, "limits.memoryMib must be at least 288") {
		t.Errorf("stdout %q, stderr %q, exit code %d", out, errs, code)
	}
}
