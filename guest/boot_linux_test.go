package guest_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"smartvm/guest"
)

func TestAGuestBootsRunsCommandsAndShutsDown(t *testing.T) {
	m := boot(t, setup{args: []string{"smartvm.hostname=lark"}})
	if m.hello.Epoch != 0 || len(m.hello.Boot) != 32 {
		t.Errorf("hello: %+v", m.hello)
	}
	if got := m.sh(t, "uname -n; id -u; pwd; cat /proc/1/comm; test -c /dev/ptmx && test -d /dev/pts && echo pts; mount | grep -c cgroup2"); got != "lark\n0\n/\ninit\npts\n1" {
		t.Errorf("in the guest: %q", got)
	}
	sent := make([]byte, 10<<20)
	rand.Read(sent)
	var back bytes.Buffer
	m.run(t, guest.Command{Args: []string{"cat"}, Stdin: bytes.NewReader(sent), Stdout: &back})
	if !bytes.Equal(sent, back.Bytes()) {
		t.Errorf("10 MiB through cat: %d bytes came back, or others", back.Len())
	}
	if out, status := m.run(t, guest.Command{Args: []string{"tty"}, TTY: true}); status.Code != 0 || !strings.HasPrefix(out, "/dev/pts/") {
		t.Errorf("tty: %v, %q", status, out)
	}
	var refused *guest.StartError
	if _, err := m.Start(t.Context(), guest.Command{Args: []string{"none"}}); !errors.As(err, &refused) || refused.ExitCode() != 127 {
		t.Errorf("a command that is not there: %v", err)
	}
	// Orphans become PID 1's and are reaped.
	if got := m.sh(t, "(sleep 0.1 & exec true); (sh -c 'sleep 0 & exit' &); wait; sleep 0.5; ps | grep -c '\\[sleep\\]'"); got != "0" {
		t.Errorf("zombies: %q", got)
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.waitEnd(t)
}

func TestTheGuestRebootsWhenItsMainCommandHasEnded(t *testing.T) {
	m := boot(t, setup{})
	out, status := m.run(t, guest.Command{Args: []string{"sh", "-c", "seq 100000; exit 42"}, Main: true})
	if status.Code != 42 || !strings.HasSuffix(out, "\n100000\n") {
		t.Errorf("%v, %d bytes", status, len(out))
	}
	m.waitEnd(t)
}

func TestADetachedMainCommandIsToldToTheHostAndEndsTheGuest(t *testing.T) {
	m := boot(t, setup{})
	// Nobody listens at first: what comes then is kept.
	if _, err := m.StartDetached(t.Context(), guest.Command{Args: []string{"sh", "-c", "echo first; while ! test -e /tmp/go; do sleep 0.1; done; seq 100000; exit 42"},
		Main: true}); err != nil {
		t.Fatal(err)
	}
	s := m.acceptMain(t, nil)
	s.Close()
	m.sh(t, "touch /tmp/go")
	var out bytes.Buffer
	status, err := m.acceptMain(t, &out).Wait(t.Context())
	if err != nil || status.Code != 42 || !strings.HasSuffix(out.String(), "\n100000\n") {
		t.Errorf("%v, %v, %d bytes", status, err, out.Len())
	}
	m.waitEnd(t)
}

func TestAFolderIsCopiedIntoAGuestAndBack(t *testing.T) {
	root := ext4(t, "root", rootFolder(t, ""))
	m := boot(t, setup{args: []string{"root=/dev/vda rw"}, drives: []string{root}})
	src, back := filepath.Join(t.TempDir(), "src"), t.TempDir()
	large := make([]byte, 5<<20)
	rand.Read(large)
	for _, err := range []error{os.MkdirAll(filepath.Join(src, "sub"), 0o750), os.WriteFile(filepath.Join(src, "large"), large, 0o644),
		os.WriteFile(filepath.Join(src, "sub", "run"), []byte("#!/bin/sh\necho it runs\n"), 0o755), os.Symlink("sub/run", filepath.Join(src, "link"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if report, err := m.CopyTo(t.Context(), src, "root", guest.CopyOptions{}); err != nil || report.Files != 2 {
		t.Fatalf("%+v, %v; console:\n%s", report, err, m.console)
	}
	if got := m.sh(t, "/root/src/link; ls -ld /root/src/sub | grep -c '^drwxr-x---.*root'"); got != "it runs\n1" {
		t.Errorf("in the guest: %q", got)
	}
	if report, err := m.CopyFrom(t.Context(), "/root/src/.", back, guest.CopyOptions{}); err != nil || report.Files != 2 || report.Links != 1 {
		t.Fatalf("%+v, %v; console:\n%s", report, err, m.console)
	}
	if got, err := os.ReadFile(filepath.Join(back, "large")); err != nil || !bytes.Equal(got, large) {
		t.Errorf("%d bytes came back, or others: %v", len(got), err)
	}
	if target, err := os.Readlink(filepath.Join(back, "link")); err != nil || target != "sub/run" {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	// What a guest makes up is no part of a copy.
	if report, err := m.CopyFrom(t.Context(), "/", filepath.Join(t.TempDir(), "all"), guest.CopyOptions{}); err != nil || !slices.Contains(report.Skipped, "proc") {
		t.Errorf("%+v, %v", report, err)
	}
	if report, err := m.CopyFrom(t.Context(), "/proc/cpuinfo", back, guest.CopyOptions{}); err != nil || report.Bytes == 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestCtrlAltDelShutsTheGuestDown(t *testing.T) {
	m := boot(t, setup{})
	m.qmp(t, "send-key", `{"keys":[{"type":"qcode","data":"ctrl"},{"type":"qcode","data":"alt"},{"type":"qcode","data":"delete"}]}`)
	m.waitEnd(t)
}

func TestAGuestThatIsRestoredHasTheRightTimeAndNewRandomNumbers(t *testing.T) {
	m := boot(t, setup{})
	then := time.Date(2033, 3, 4, 5, 6, 7, 0, time.UTC)
	hello, err := m.Resume(t.Context(), guest.ResumeRequest{Epoch: 1, Now: then, Entropy: []byte("0123456789abcdef0123456789abcdef")})
	if err != nil || hello.Epoch != 1 {
		t.Fatalf("%+v, %v; console:\n%s", hello, err, m.console)
	}
	if got := m.sh(t, "date -u +%Y-%m-%dT%H:%M"); got != "2033-03-04T05:06" {
		t.Errorf("date: %s", got)
	}
}

func TestTheAgentComesBackWhenItDies(t *testing.T) {
	m := boot(t, setup{})
	s, err := m.Start(t.Context(), guest.Command{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	m.Start(t.Context(), guest.Command{Args: []string{"sh", "-c", "kill -9 $PPID"}})
	if _, err := s.Wait(t.Context()); !errors.Is(err, guest.ErrLost) {
		t.Errorf("a command of the dead agent: %v", err)
	}
	m.waitUp(t)
	if got := m.sh(t, "echo back"); got != "back" {
		t.Errorf("got %q", got)
	}
	m.console.expect(t, "the agent has ended (killed by killed): starting it again")
}

func TestAddressesComeFromEveryIPArgument(t *testing.T) {
	m := boot(t, setup{args: []string{"ip=127.5.0.2:::255.255.255.0::lo:off:192.0.2.53", "ip=10.9.9.9:::255.255.255.0::nosuch:off"}})
	if got := m.sh(t, "ip -o -4 addr show lo | grep -o '127.5.0.2/24'; cat /etc/resolv.conf"); got != "127.5.0.2/24\nnameserver 192.0.2.53" {
		t.Errorf("got %q", got)
	}
	m.console.expect(t, `there is no interface "nosuch"`)
}

func TestTheRootDriveIsTheRoot(t *testing.T) {
	drive := ext4(t, "root", rootFolder(t, ""))
	m := boot(t, setup{args: []string{"root=/dev/vda rw"}, drives: []string{drive}})
	if got := m.sh(t, "cat /etc/marker; uname -n; touch /etc/written && echo written; ls /init 2>/dev/null"); got != "from the root drive\nrooted\nwritten" {
		t.Errorf("got %q", got)
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.waitEnd(t)
	out, err := exec.Command("/usr/sbin/dumpe2fs", "-h", drive).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("Filesystem state:         clean")) || bytes.Contains(out, []byte("needs_recovery")) {
		t.Errorf("after the shutdown: %v: %s", err, out)
	}
}

func TestAReadOnlyRootDriveGetsAnOverlay(t *testing.T) {
	root := ext4(t, "root.ro", rootFolder(t, ""))
	changes := ext4(t, "changes", "")
	const script = "mount | grep -c '^overlay on / '; cat /etc/marker; cat /etc/mine 2>/dev/null; echo mine > /etc/mine; sync"
	for i, want := range []string{"1\nfrom the root drive", "1\nfrom the root drive\nmine"} {
		m := boot(t, setup{args: []string{"smartvm.overlay=vdb", "root=/dev/vda ro"}, drives: []string{root, changes}})
		if got := m.sh(t, script); got != want {
			t.Errorf("boot %d: got %q, want %q", i, got, want)
		}
		m.Shutdown(t.Context())
		m.waitEnd(t)
		if strings.Contains(m.console.String(), "read-only: ") {
			t.Errorf("the shutdown left something behind:\n%s", m.console)
		}
	}
	m := boot(t, setup{args: []string{"smartvm.overlay=memory", "root=/dev/vda ro"}, drives: []string{root}})
	if got := m.sh(t, script); got != "1\nfrom the root drive" {
		t.Errorf("in memory: got %q", got)
	}
}

func TestADriveThatCannotServeEndsTheGuestWithAReason(t *testing.T) {
	root := ext4(t, "root.ro", rootFolder(t, ""))
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m := boot(t, setup{noWait: true, args: []string{"smartvm.overlay=vdb", "root=/dev/vda ro"}, drives: []string{root, empty}})
	m.waitEnd(t)
	m.console.expect(t, "cannot boot: overlay: mount /dev/vdb as ext4: invalid argument: the host must format this drive as ext4")
	m = boot(t, setup{noWait: true, args: []string{"root=/dev/vda"}, drives: []string{empty}})
	m.waitEnd(t)
	m.console.expect(t, "cannot boot: root drive: /dev/vda holds no file system that this kernel knows")
}

func TestTheImagesOwnInitTakesOverAndTheAgentStays(t *testing.T) {
	drive := ext4(t, "root", rootFolder(t, "#!/bin/sh\necho the image has begun as $$\nwhile :; do sleep 1000; done\n"))
	m := boot(t, setup{args: []string{"smartvm.init=image", "root=/dev/vda rw"}, drives: []string{drive}})
	m.console.expect(t, "the image has begun as 1")
	if got := m.sh(t, "cat /proc/1/cmdline | grep -c /sbin/init; cat /etc/marker"); got != "1\nfrom the root drive" {
		t.Errorf("got %q", got)
	}
}
