package guest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"smartvm/guest"
	"smartvm/internal/portmux"
	"smartvm/internal/proof"
)

// machine is a guest in a QEMU of this test's own: init, agent and portmux without the emulator in between.
type machine struct {
	*guest.Agent
	hello   guest.Hello
	console *console
	mux     *portmux.Host
	monitor net.Conn
	ended   chan error
}

// console collects what the guest prints.
type console struct {
	mu   sync.Mutex
	more chan struct{}
	buf  bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf.Write(p)
	select {
	case c.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

func (c *console) expect(t testing.TB, want string) {
	t.Helper()
	timeout := time.After(patience)
	for !strings.Contains(c.String(), want) {
		select {
		case <-c.more:
		case <-timeout:
			t.Fatalf("no %q on the console:\n%s", want, c)
		}
	}
}

// setup is what a test wants of its machine.
type setup struct {
	args   []string // kernel arguments
	drives []string // raw files; one whose name ends in .ro is read-only
	noWait bool     // do not wait for "up"
}

// boot starts a machine and waits until its agent is up.
func boot(t testing.TB, s setup) *machine {
	t.Helper()
	image := proof.Guest(t)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	m := &machine{console: &console{more: make(chan struct{}, 1)}, ended: make(chan error, 1)}
	agentSock, monitorSock := listen(t, filepath.Join(dir, "agent")), listen(t, filepath.Join(dir, "qmp"))

	args := []string{"-M", "microvm,acpi=on,rtc=on,pit=off,pic=off,isa-serial=on", "-cpu", "max", "-accel", "tcg,thread=multi",
		"-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot", "-device", "i8042",
		"-kernel", filepath.Join(image, "vmlinux"), "-initrd", filepath.Join(image, "initrd"),
		"-append", strings.Join(append([]string{"console=ttyS0 reboot=k panic=1", "tsc_early_khz=" + tscKHz(t)}, s.args...), " "),
		"-chardev", "socket,id=agent,path=" + filepath.Join(dir, "agent"), "-device", "virtio-serial-device",
		"-device", "virtserialport,chardev=agent,name=" + portmux.PortName,
		"-chardev", "socket,id=qmp,path=" + filepath.Join(dir, "qmp"), "-mon", "chardev=qmp,mode=control"}
	for i, drive := range s.drives {
		ro := "off"
		if strings.HasSuffix(drive, ".ro") {
			ro = "on"
		}
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,format=raw,file=%s,read-only=%s", i, drive, ro),
			"-device", fmt.Sprintf("virtio-blk-device,drive=d%d", i))
	}
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	qemu.Stdout, qemu.Stderr = m.console, m.console
	qemu.WaitDelay = time.Second
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { m.ended <- qemu.Wait(); close(done) }()
	t.Cleanup(func() { cancel(); <-done })

	m.mux = portmux.NewHost(accept(t, agentSock))
	t.Cleanup(func() { m.mux.Close() })
	m.monitor = accept(t, monitorSock)
	m.qmp(t, "qmp_capabilities", "")
	m.Agent = guest.New(m.mux.Dial)
	if !s.noWait {
		m.waitUp(t)
	}
	return m
}

// waitUp takes the connection on which the guest says that it is up.
func (m *machine) waitUp(t testing.TB) {
	t.Helper()
	conn, port, err := m.mux.Accept()
	if err != nil || port != guest.UpPort {
		t.Fatalf("up: port %d, %v; console:\n%s", port, err, m.console)
	}
	if m.hello, err = guest.ReadUp(t.Context(), conn); err != nil {
		t.Fatalf("%v; console:\n%s", err, m.console)
	}
}

// acceptMain takes the connection on which the guest brings what its main command writes.
func (m *machine) acceptMain(t testing.TB, stdout io.Writer) *guest.Session {
	t.Helper()
	conn, port, err := m.mux.Accept()
	if err != nil || port != guest.MainPort {
		t.Fatalf("main: port %d, %v; console:\n%s", port, err, m.console)
	}
	s, err := guest.AcceptMain(t.Context(), conn, stdout, stdout)
	if err != nil {
		t.Fatalf("%v; console:\n%s", err, m.console)
	}
	return s
}

func (m *machine) qmp(t testing.TB, command, arguments string) {
	t.Helper()
	if arguments == "" {
		arguments = "{}"
	}
	if _, err := fmt.Fprintf(m.monitor, `{"execute":%q,"arguments":%s}`+"\n", command, arguments); err != nil {
		t.Fatal(err)
	}
}

func listen(t testing.TB, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func accept(t testing.TB, l *net.UnixListener) net.Conn {
	t.Helper()
	l.SetDeadline(time.Now().Add(patience))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// tscKHz is this machine's TSC frequency: without it, guests under TCG hang now and then while they measure it.
func tscKHz(t testing.TB) string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	mhz := regexp.MustCompile(`cpu MHz\s*: (\d+)\.(\d{3})`).FindSubmatch(b)
	if mhz == nil {
		t.Fatal("no cpu MHz in /proc/cpuinfo")
	}
	return string(mhz[1]) + string(mhz[2])
}

// run runs a command to its end and returns what it wrote.
func (m *machine) run(t testing.TB, cmd guest.Command) (string, guest.ExitStatus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout, cmd.Stderr = &out, &out
	}
	s, err := m.Start(ctx, cmd)
	if err != nil {
		t.Fatalf("%q: %v; console:\n%s", cmd.Args, err, m.console)
	}
	defer s.Close()
	status, err := s.Wait(ctx)
	if err != nil {
		t.Fatalf("%q: %v; console:\n%s", cmd.Args, err, m.console)
	}
	return out.String(), status
}

func (m *machine) sh(t testing.TB, script string) string {
	t.Helper()
	out, _ := m.run(t, guest.Command{Args: []string{"sh", "-c", script}})
	return strings.TrimSpace(out)
}

// waitEnd waits until the guest has rebooted, which ends this QEMU.
func (m *machine) waitEnd(t testing.TB) {
	t.Helper()
	select {
	case err := <-m.ended:
		if err != nil {
			t.Fatalf("QEMU: %v; console:\n%s", err, m.console)
		}
	case <-time.After(patience):
		t.Fatalf("the guest did not reboot; console:\n%s", m.console)
	}
}

// ext4 makes a file with an ext4 file system of a folder's contents, by mke2fs.
func ext4(t *testing.T, name, contents string) string {
	t.Helper()
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		mke2fs = "/usr/sbin/mke2fs"
	}
	path := filepath.Join(t.TempDir(), name)
	args := []string{"-q", "-t", "ext4", "-F", "-L", "test"}
	if contents != "" {
		args = append(args, "-d", contents)
	}
	out, err := exec.Command(mke2fs, append(args, path, "64M")...).CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	return path
}

// rootFolder is a root file system of busybox and nothing else; init is its /sbin/init, or none.
func rootFolder(t *testing.T, init string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		busybox, err = os.ReadFile("/bin/busybox")
	}
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("bin/busybox", string(busybox), 0o755)
	for _, applet := range []string{"sh", "cat", "mount", "grep", "touch", "ls", "uname", "sync", "mkdir", "sleep", "kill", "ps"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/hostname", "rooted\n", 0o644)
	write("etc/marker", "from the root drive\n", 0o644)
	if init != "" {
		write("sbin/init", init, 0o755)
	}
	return dir
}
