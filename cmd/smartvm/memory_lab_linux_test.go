package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"smartvm/internal/proof"
)

// eat is a line that needs more memory than any guest of these tests has, and gets as much as there is.
const eat = "echo 1 >/proc/sys/vm/overcommit_memory; dd if=/dev/zero of=/dev/null bs=1G count=1 2>/dev/null"

// removeVM takes a VM away whatever became of it.
func removeVM(t *testing.T, name string) {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), proof.Command(t), "rm", "-f", name)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("rm -f: %v: %s", err, out)
	}
}

func TestAGuestThatEatsAllItsMemoryKillsTheEaterAndLivesOnInTheLab(t *testing.T) {
	proof.LabLong(t)
	flags := vmmFlags(t)
	run := func(args ...string) (string, string, int) {
		return smartvmCommand(t, "", append(append([]string{"run", "--name", "eater", "-m", "256M"}, flags...), args...)...)
	}
	defer removeVM(t, "eater")
	if out, errs, code := run("-d"); code != 0 {
		t.Fatalf("%s%s", out, errs)
	}
	if out, errs, code := smartvmCommand(t, "", "exec", "eater", "--", "sh", "-c", eat); out != "" || code != 137 {
		t.Errorf("the eater: stdout %q, stderr %q, exit code %d", out, errs, code)
	}
	if out, errs, code := smartvmCommand(t, "", "exec", "eater", "--", "echo", "still here"); out != "still here\n" || code != 0 {
		t.Errorf("after it: stdout %q, stderr %q, exit code %d", out, errs, code)
	}
	removeVM(t, "eater")
	if out, errs, code := run("--", "sh", "-c", eat); out != "" || code != 137 {
		t.Errorf("the VM's own command: stdout %q, stderr %q, exit code %d", out, errs, code)
	}
	if out, _, _ := smartvmCommand(t, "", "ps", "-a", "-f", "name=eater", "--format", "{{.Phase}} {{.ExitCode}} {{.Detail}}"); out != "exited 137 out of memory\n" {
		t.Errorf("ps says %q", out)
	}
}

func TestAVMThatReachesItsMemoryLimitIsToldInTheLab(t *testing.T) {
	proof.LabLong(t)
	flags := append([]string{"run", "-m", "256M", "--limit", "memory=640M", "--name", "limited"}, vmmFlags(t)...)
	// A limit that could be given is more than the guest's memory, so it is lowered when the VM runs, to what it has then.
	lower := func() {
		t.Helper()
		id, _, _ := smartvmCommand(t, "", "ps", "-q", "-f", "name=limited")
		dir := filepath.Join("/sys/fs/cgroup/smartvm", strings.TrimSpace(id))
		current, err := os.ReadFile(filepath.Join(dir, "memory.current"))
		if err != nil {
			t.Fatal(err)
		}
		bytes, err := strconv.ParseInt(strings.TrimSpace(string(current)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "memory.max"), []byte(strconv.FormatInt(bytes+16<<20, 10)), 0); err != nil {
			t.Fatal(err)
		}
	}
	const words = "raise limits.memoryMib"
	t.Run("attached", func(t *testing.T) {
		defer removeVM(t, "limited")
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, proof.Command(t), append(append([]string{}, flags...), "-i", "--", "sh", "-c", "echo up; read line; "+eat)...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
			t.Fatalf("%v: %s", err, errs.String())
		}
		lower()
		if _, err := io.WriteString(in, "go\n"); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(errs.String(), words) {
			t.Errorf("exit code %d, stderr %s", code, errs.String())
		}
	})
	t.Run("detached", func(t *testing.T) {
		defer removeVM(t, "limited")
		if out, errs, code := smartvmCommand(t, "", append(append([]string{}, flags...), "-d")...); code != 0 {
			t.Fatalf("%s%s", out, errs)
		}
		lower()
		if out, errs, code := smartvmCommand(t, "", "exec", "limited", "--", "sh", "-c", eat); out != "" || code != exitFailed || !strings.Contains(errs, words) {
			t.Errorf("exec: stdout %q, stderr %q, exit code %d", out, errs, code)
		}
		if out, errs, code := smartvmCommand(t, "", "wait", "limited"); out != "137\n" || code != 0 {
			t.Errorf("wait: stdout %q, stderr %q, exit code %d", out, errs, code)
		}
		for _, args := range [][]string{{"inspect", "limited"}, {"ps", "-a", "--format", "{{.Phase}} {{.Detail}}"}} {
			if out, _, _ := smartvmCommand(t, "", args...); !strings.Contains(out, words) || !strings.Contains(out, "killed") {
				t.Errorf("%s says %s", args[0], out)
			}
		}
	})
}
