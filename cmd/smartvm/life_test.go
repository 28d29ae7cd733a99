//go:build linux

package main

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

// One guest for all that can be done with a VM that lives on: each boot takes seconds.
func TestAVMLivesOnAndEveryCommandFindsIt(t *testing.T) {
	h := newVMHost(t)
	id := h.do(t, "run", "-d", "--emulate", "--name", "web", "-e", "GREETING=hello", "--", "sh", "-c",
		`trap 'echo caught' USR1; trap 'echo bye; exit 3' TERM; echo $GREETING; while :; do sleep 1000 & wait; done`)
	t.Cleanup(func() { finish(h.smartvm(t, "rm", "-f", "web", "copy")) })
	if got := h.do(t, "ps", "--format", "{{.ID}} {{.Name}} {{.Phase}} {{.Image}}"); got != id+" web ready debian" {
		t.Errorf("ps: %q", got)
	}
	t.Run("exec", func(t *testing.T) { h.execInWeb(t, id) })
	t.Run("cp", func(t *testing.T) { h.copyToAndFromWeb(t) })
	t.Run("logs", func(t *testing.T) { h.logsOfWeb(t) })
	t.Run("a signal ends what waits and leaves the VM alone", func(t *testing.T) { h.interruptWaiting(t) })
	t.Run("snapshot and restore", func(t *testing.T) { h.snapshotWeb(t) })
	t.Run("two commands at once on one VM", func(t *testing.T) { h.twoAtOnce(t) })
	t.Run("the command ends, and the VM with it", func(t *testing.T) { h.endOfWeb(t) })
	h.do(t, "rm", "web")
}

func (h *vmHost) execInWeb(t *testing.T, id string) {
	if got := h.do(t, "exec", "web", "--", "hostname"); got != "web" {
		t.Errorf("host name %q", got)
	}
	finish(h.smartvm(t, "exec", "-e", "A=b", "-w", "/proc", "-u", "12:34", id[:8], "sh", "-c", `echo $A; pwd; id -u; echo err >&2; exit 7`)).want(t, "7", "b\n/proc\n12\n", "err\n")
	finish(h.smartvm(t, "exec", "web", "--", "no-such-program")).want(t, "127", "", "was not started in the guest")
	finish(h.smartvm(t, "exec", "web", "--", "/proc/version")).want(t, "126", "", "was not started in the guest")
	finish(h.smartvm(t, "exec", "--timeout", "200ms", "web", "--", "sleep", "1000")).want(t, "124", "", "--timeout of 200ms is over")
	finish(h.smartvm(t, "exec", "web", "sh", "-c", "kill -9 $$")).want(t, "137", "", "")
	input := h.smartvm(t, "exec", "-i", "web", "--", "wc", "-c")
	input.Stdin = strings.NewReader("12345")
	finish(input).want(t, "0", "5\n", "")
	shell := h.smartvm(t, "shell", "web")
	shell.Stdin = strings.NewReader("echo from a shell; exit 5\n")
	finish(shell).want(t, "5", "from a shell\n", "")
	h.do(t, "exec", "-d", "web", "--", "sh", "-c", "mkfifo /tmp/fifo; echo detached >/tmp/fifo")
	if got := h.do(t, "exec", "web", "--", "sh", "-c", "until test -p /tmp/fifo; do :; done; cat /tmp/fifo"); got != "detached" {
		t.Errorf("the detached command wrote %q", got)
	}
	finish(h.smartvm(t, "exec", "-t", "web", "--", "true")).want(t, "125", "", "-t needs a terminal")
}

func (h *vmHost) copyToAndFromWeb(t *testing.T) {
	site := filepath.Join(h.dir, "site")
	if err := os.MkdirAll(site, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(site, "index"), []byte("a page\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.do(t, "cp", site, "web:/srv")
	if got := h.do(t, "exec", "web", "--", "cat", "/srv/index"); got != "a page" {
		t.Errorf("in the guest: %q", got)
	}
	h.do(t, "cp", "web:/srv/index", filepath.Join(h.dir, "back"))
	if back, err := os.ReadFile(filepath.Join(h.dir, "back")); err != nil || string(back) != "a page\n" {
		t.Errorf("back on the host: %q, %v", back, err)
	}
	archive := finish(h.smartvm(t, "cp", "web:/srv", "-"))
	archive.want(t, "0", archive.stdout, "")
	back := h.smartvm(t, "cp", "-", "web:/tmp")
	back.Stdin = strings.NewReader(archive.stdout)
	finish(back).want(t, "0", "", "")
	if got := h.do(t, "exec", "web", "--", "cat", "/tmp/srv/index"); got != "a page" {
		t.Errorf("out of the archive: %q", got)
	}
	finish(h.smartvm(t, "cp", "web:/nowhere", h.dir)).want(t, "1", "", "nowhere")
	finish(h.smartvm(t, "cp", site, "web:/no/such/folder")).want(t, "1", "", "no such file or directory")
	finish(h.smartvm(t, "cp", "web:/srv", filepath.Join(h.dir, "no/such/folder"))).want(t, "1", "", "no such file or directory")
}

func (h *vmHost) logsOfWeb(t *testing.T) {
	follow := h.smartvm(t, "logs", "-f", "web")
	lines, _ := startReading(t, follow)
	lines.want(t, "hello")
	h.do(t, "kill", "--signal", "USR1", "web")
	lines.want(t, "caught")
	interrupt(t, follow)
	if got := exitText(follow.Wait()); got != "130" {
		t.Errorf("logs -f ended with %s after SIGINT", got)
	}
	if got := h.do(t, "logs", "--tail", "1", "web"); got != "caught" {
		t.Errorf("the last line is %q", got)
	}
	if got := h.do(t, "logs", "--source", "console", "web"); !strings.Contains(got, "Linux") && !strings.Contains(got, "smartvm") {
		t.Errorf("the console: %q", got)
	}
	closed := h.smartvm(t, "logs", "-f", "web")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	closed.Stdout = write
	read.Close()
	if got := exitText(closed.Run()); got != "141" {
		t.Errorf("logs ended with %s when nobody read them", got)
	}
	write.Close()
}

func (h *vmHost) interruptWaiting(t *testing.T) {
	console := h.smartvm(t, "console", "web")
	lines, _ := startReading(t, console)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Error(err)
	}
	if err := console.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := exitText(console.Wait()); got != "143" {
		t.Errorf("console ended with %s after SIGTERM", got)
	}
	stats := h.smartvm(t, "stats", "--format", "{{.Name}}", "web")
	lines, _ = startReading(t, stats)
	lines.want(t, "web") // it has its signals by now
	interrupt(t, stats)
	if got := exitText(stats.Wait()); got != "130" {
		t.Errorf("stats ended with %s after SIGINT", got)
	}
	if got := h.do(t, "ps", "--format", "{{.Phase}}"); got != "ready" {
		t.Errorf("the VM is %q", got)
	}
}

func (h *vmHost) snapshotWeb(t *testing.T) {
	h.do(t, "exec", "web", "--", "sh", "-c", "echo kept >/tmp/kept")
	if got := h.do(t, "snapshot", "create", "web", "s1"); got != "s1" {
		t.Errorf("the snapshot's name is %q", got)
	}
	if got := h.do(t, "ps", "--format", "{{.Phase}}"); got != "ready" {
		t.Errorf("the VM is %q after its snapshot", got)
	}
	h.do(t, "exec", "web", "--", "rm", "/tmp/kept")
	h.do(t, "restore", "--name", "copy", "s1")
	if got := h.do(t, "exec", "copy", "--", "cat", "/tmp/kept"); got != "kept" {
		t.Errorf("in the restored guest: %q", got)
	}
	finish(h.smartvm(t, "snapshot", "rm", "s1")).want(t, "1", "", "stop the VM first")
	h.do(t, "kill", "--signal", "TERM", "copy")
	if got := h.do(t, "wait", "copy"); got != "3" {
		t.Errorf("the restored command ended with %q", got)
	}
	h.do(t, "rm", "copy")
	h.do(t, "snapshot", "rm", "s1")
}

func (h *vmHost) twoAtOnce(t *testing.T) {
	var wait sync.WaitGroup
	results := make([]result, 4)
	for i := range results {
		wait.Go(func() { results[i] = finish(h.smartvm(t, "pause", "web")) })
	}
	wait.Wait()
	paused := 0
	for _, r := range results {
		if r.exit == "0" {
			paused++
		} else if r.exit != "1" || !strings.Contains(r.stderr, "the VM is paused") {
			t.Errorf("%+v", r)
		}
	}
	if paused != 1 {
		t.Errorf("%d of %d paused the VM", paused, len(results))
	}
	finish(h.smartvm(t, "exec", "web", "--", "true")).want(t, "1", "", "smartvm resume web")
	h.do(t, "resume", "web")
	h.do(t, "exec", "web", "--", "true")
}

func (h *vmHost) endOfWeb(t *testing.T) {
	waiting := h.smartvm(t, "wait", "web")
	var out bytes.Buffer
	waiting.Stdout = &out
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	h.do(t, "kill", "-s", "TERM", "web")
	if exit := exitText(waiting.Wait()); exit != "0" || out.String() != "3\n" {
		t.Errorf("wait: exit code %s, %q", exit, out.String())
	}
	if got := h.do(t, "ps", "-a", "--format", "{{.Name}} {{.Phase}} {{.ExitCode | json}}"); got != "web exited 3" {
		t.Errorf("ps -a: %q", got)
	}
	if got := h.do(t, "logs", "--tail", "1", "web"); got != "bye" {
		t.Errorf("the last line is %q", got)
	}
	finish(h.smartvm(t, "exec", "web", "--", "true")).want(t, "1", "", "the VM does not run: exited (3)\n  try:    smartvm start web")
	h.do(t, "start", "web")
	h.do(t, "exec", "web", "--", "true")
	if got := h.do(t, "stop", "web"); got != "web" {
		t.Errorf("stop printed %q", got)
	}
}

func TestANamedForegroundVMStaysWithItsDisk(t *testing.T) {
	h := newVMHost(t)
	finish(h.start(t, "--name", "job", "--disk", "16MiB", "--", "sh", "-c",
		"mount /dev/vda /mnt && cat /mnt/file 2>/dev/null; echo kept >/mnt/file; umount /mnt; exit 4")).want(t, "4", "", "")
	if got := h.do(t, "ps", "-a", "--format", "{{.Name}} {{.Phase}} {{.Monitor}}"); got != "job exited " {
		t.Errorf("ps -a: %q", got)
	}
	if got := h.do(t, "gc"); got != "" {
		t.Errorf("gc: %q", got)
	}
	finish(h.start(t, "--name", "job", "--", "true")).want(t, "125", "", "there is such a VM already")
	h.do(t, "start", "job") // which runs the command again
	if got := h.do(t, "wait", "job"); got != "4" {
		t.Errorf("the second run ended with %q", got)
	}
	if got := h.do(t, "logs", "job"); got != "kept" {
		t.Errorf("on the disk: %q", got)
	}
	h.do(t, "rm", "-f", "job")
}

func TestARunThatIsKilledLeavesNothingBehind(t *testing.T) {
	h := newVMHost(t)
	cmd := h.start(t, "--", "sh", "-c", "echo ready; sleep 1000")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reading{bufio.NewReader(stdout)}.want(t, "ready")
	id := h.do(t, "ps", "-q")
	waiting := h.smartvm(t, "wait", id)
	var out, errs bytes.Buffer
	waiting.Stdout, waiting.Stderr = &out, &errs
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := exitText(cmd.Wait()); got != "signal: killed" {
		t.Errorf("the run ended with %s", got)
	}
	// It may come when the VM is gone already, or is going.
	gone := regexp.MustCompile("there is no VM of this|the VM was removed")
	if err := waiting.Wait(); err != nil && !gone.MatchString(errs.String()) {
		t.Errorf("wait: %v: %s", err, errs.String())
	}
}

func TestWhoMayNotSeeTheVMsIsToldSo(t *testing.T) {
	proof.Host(t)
	t.Parallel()
	h := &vmHost{command: proof.Command(t), dir: t.TempDir()}
	data := filepath.Join(h.dir, "data")
	h.env = append(os.Environ(), envDataDir+"="+data)
	if err := os.MkdirAll(filepath.Join(data, "vms", "web"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"ps"}, {"stop", "web"}, {"rm", "-f", "web"}, {"exec", "web", "--", "true"}, {"wait", "web"}, {"inspect", "web"}} {
		cmd := h.smartvm(t, args...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		got := finish(cmd)
		if got.exit != "125" || !strings.Contains(got.stderr, "these VMs are another user's") {
			t.Errorf("%q: exit code %s, stderr %q", args, got.exit, got.stderr)
		}
	}
}

func TestAVMStartsAgainByItsPolicy(t *testing.T) {
	h := newVMHost(t)
	h.do(t, "run", "-d", "--emulate", "--name", "again", "--restart", "on-failure:1", "--", "sh", "-c", "echo up; exit 9")
	for got, end := "", time.Now().Add(patience); got != "1 on-failure:1 exited 2"; {
		if time.Now().After(end) {
			t.Fatalf("it is %q", got)
		}
		if code := h.do(t, "wait", "again"); code != "9" {
			t.Errorf("exit code %s", code)
		}
		got = h.do(t, "inspect", "--format", "{{.Restarts}} {{.Restart}} {{.Phase}}{{with .Exit}} {{.Instance}}{{end}}", "again")
	}
	if got := h.do(t, "logs", "again"); got != "up\nup" {
		t.Errorf("the log of both runs: %q", got)
	}
	h.do(t, "rm", "-f", "again")
}
