package emulator_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
)

// stepTimeout bounds everything that a process under test does at once.
const stepTimeout = 20 * time.Second

var built struct {
	sync.Once
	dir, path string
	err       error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// emulatorBinary builds the emulator once per test run.
func emulatorBinary(tb testing.TB) string {
	tb.Helper()
	root := proof.Root(tb)
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "emulator-test-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "firecracker-emulator")
		build := exec.Command("go", "build", "-o", built.path, "./cmd/firecracker-emulator")
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build the emulator: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		tb.Fatal(built.err)
	}
	return built.path
}

// lab is a network namespace with tap0, tap1 and tap2, held by a thread of its own. What is run in it starts there.
type lab struct {
	work chan func()
}

func newLab(tb testing.TB) *lab {
	tb.Helper()
	l := &lab{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its namespace with it
		ready <- enterNamespace()
		for f := range l.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { close(l.work) })
	return l
}

func enterNamespace() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("new network namespace: %w", err)
	}
	// A process that another test forks meanwhile has a copy of each TAP's descriptor until it runs its program, and keeps
	// the TAP busy.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for _, name := range []string{"tap0", "tap1", "tap2"} {
		tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP,
			Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}
		if err := netlink.LinkAdd(tap); err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
		for _, f := range tap.Fds {
			_ = f.Close()
		}
	}
	return nil
}

// do runs f on the lab's thread.
func (l *lab) do(f func()) {
	done := make(chan struct{})
	l.work <- func() { f(); close(done) }
	<-done
}

// newFolder makes a folder with the files that the recordings used. Its name has 16 bytes, as theirs had: the columns in
// the messages depend on it.
func newFolder(tb testing.TB) string {
	tb.Helper()
	dir := fmt.Sprintf("/tmp/fc-%08x", rand.Uint32())
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, content := range map[string][]byte{
		"kernel": kernelELF(), "initrd": make([]byte, 4096), "odd.img": make([]byte, 1000), "empty.img": {},
		"disk.img": make([]byte, 1<<20), "disk2.img": make([]byte, 2<<20), "notelf": bytes.Repeat([]byte("no kernel\n"), 819),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// kernelELF is the smallest vmlinux that Firecracker starts: one segment and a note with the PVH entry point. The code is
// a jump to itself.
func kernelELF() []byte {
	const entry, code, note = 0x100000, 0x1000, 0x2000
	le := binary.LittleEndian
	b := make([]byte, note, note+20)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)  // ET_EXEC
	le.PutUint16(b[18:], 62) // EM_X86_64
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], entry)
	le.PutUint64(b[32:], 64) // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 2)
	segment := func(at int, kind uint32, offset, address, size uint64) {
		le.PutUint32(b[at:], kind)
		le.PutUint32(b[at+4:], 7)
		for i, v := range []uint64{offset, address, address, size, size, 0x1000} {
			le.PutUint64(b[at+8+8*i:], v)
		}
	}
	segment(64, 1, code, entry, note-code)
	segment(120, 4, note, 0, 20)
	copy(b[code:], []byte{0xeb, 0xfe})
	b = le.AppendUint32(b, 4)
	b = le.AppendUint32(b, 4)
	b = le.AppendUint32(b, 18) // XEN_ELFNOTE_PHYS32_ENTRY
	b = append(b, "Xen\x00"...)
	return le.AppendUint32(b, entry)
}

// vmm is a process under test: the emulator or a real Firecracker.
type vmm struct {
	socket string
	cmd    *exec.Cmd
	exited chan struct{}

	mu  sync.Mutex
	out []string // lines of stdout and stderr
}

// start runs a VMM with its socket in dir and waits until it listens or ended.
func (l *lab) start(tb testing.TB, dir, binary string, args ...string) *vmm {
	tb.Helper()
	v := &vmm{socket: filepath.Join(dir, "api.sock"), exited: make(chan struct{})}
	v.cmd = exec.Command(binary, append([]string{"--api-sock", v.socket, "--id", "t"}, args...)...)
	v.cmd.Dir = dir
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	v.cmd.Stdout, v.cmd.Stderr = w, w
	l.do(func() { err = v.cmd.Start() })
	_ = w.Close()
	if err != nil {
		tb.Fatal(err)
	}
	listening := make(chan struct{})
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		defer r.Close()
		var once sync.Once
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if strings.Contains(lines.Text(), "Listening on API socket") {
				once.Do(func() { close(listening) })
			}
			v.mu.Lock()
			v.out = append(v.out, lines.Text())
			v.mu.Unlock()
		}
	}()
	go func() {
		<-drained
		_ = v.cmd.Wait()
		close(v.exited)
	}()
	tb.Cleanup(func() { v.kill() })
	select {
	case <-listening:
	case <-v.exited:
	case <-time.After(stepTimeout):
		tb.Fatalf("%s does not listen:\n%s", binary, strings.Join(v.log(), "\n"))
	}
	return v
}

func (v *vmm) kill() {
	_ = v.cmd.Process.Kill()
	<-v.exited
}

func (v *vmm) log() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string{}, v.out...)
}

// alive tells whether the process is still there. One that answers a request is.
func (v *vmm) alive() bool {
	select {
	case <-v.exited:
		return false
	default:
		return true
	}
}

// waitExit waits for the end and returns the exit code, -N for signal N.
func (v *vmm) waitExit(tb testing.TB) int {
	tb.Helper()
	select {
	case <-v.exited:
	case <-time.After(stepTimeout):
		tb.Fatalf("the VMM does not end:\n%s", strings.Join(v.log(), "\n"))
	}
	status := v.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return -int(status.Signal())
	}
	return status.ExitStatus()
}

// answer is a reply. Status 0 is none.
type answer struct {
	Status      int
	Body        string
	Deprecation string
}

// call sends one request on a connection of its own and reads that many replies, as raw does.
func (v *vmm) call(method, path, body string, replies int) (answer, error) {
	request := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n", method, path)
	if body != "" {
		request += fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	return v.raw(request+"\r\n"+body, replies)
}

// dial opens a connection that the caller keeps.
func (v *vmm) dial(tb testing.TB) net.Conn {
	tb.Helper()
	conn, err := net.DialTimeout("unix", v.socket, stepTimeout)
	if err != nil {
		tb.Fatal(err)
	}
	return conn
}

// raw sends bytes and reads that many replies. It returns the first, with the others as they came behind its body.
func (v *vmm) raw(request string, replies int) (answer, error) {
	conn, err := net.DialTimeout("unix", v.socket, stepTimeout)
	if err != nil {
		return answer{}, nil // nobody there
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(stepTimeout))
	if _, err := io.WriteString(conn, request); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return answer{}, err
	}
	r := bufio.NewReader(conn)
	first, err := readAnswer(r)
	for ; replies > 1 && err == nil; replies-- {
		var raw bytes.Buffer
		if _, err = readAnswer(bufio.NewReaderSize(io.TeeReader(r, &raw), 1)); err == nil {
			first.Body += raw.String()
		}
	}
	return first, err
}

func readAnswer(r *bufio.Reader) (answer, error) {
	reply, err := http.ReadResponse(r, nil)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) {
		return answer{}, nil
	}
	if err != nil {
		return answer{}, fmt.Errorf("read the reply: %w", err)
	}
	defer reply.Body.Close()
	content, err := io.ReadAll(reply.Body)
	return answer{reply.StatusCode, string(content), reply.Header.Get("Deprecation")}, err
}
