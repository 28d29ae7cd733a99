package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a running QEMU.
type process struct {
	cmd    *exec.Cmd
	output tail
	done   chan struct{} // closed when it has ended and is reaped
	err    error         // how it ended; good after done
}

// startProcess starts QEMU with files as its descriptors 3 and up.
//
// The kernel sends the parent-death signal when the *thread* ends that started the child. So the goroutine that starts it
// is locked to its thread, and stays there until the child has ended.
func startProcess(path string, args []string, files []*os.File) (*process, error) {
	p := &process{done: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	p.cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.ExtraFiles = files
	p.cmd.WaitDelay = quitTimeout // a descendant may hold the output open; the sandbox allows none
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // a Ctrl-C in the terminal is for the emulator
	}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	return p, nil
}

// ended says how QEMU ended, with its last words.
func (p *process) ended() error {
	how := "QEMU ended"
	if state := p.cmd.ProcessState; state != nil {
		how = "QEMU ended with " + state.String()
	}
	if words := p.output.String(); words != "" {
		return fmt.Errorf("%s: %s", how, words)
	}
	return errors.New(how)
}

// kill ends QEMU and waits for it.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// wait waits for QEMU's end and tells whether it came in time.
func (p *process) wait(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}

// findBinary resolves the QEMU to run.
func findBinary(binary string) (string, error) {
	path, err := exec.LookPath(binary)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s is not installed: install Debian's package qemu-system-x86 (apt-get install qemu-system-x86)", binary)
	}
	if err != nil {
		return "", fmt.Errorf("QEMU: %w", err)
	}
	return path, nil
}

// socketpair makes a stream socket with our end and the child's.
func socketpair(name string) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair for QEMU's %s: %w", name, err)
	}
	theirs := os.NewFile(uintptr(fds[1]), name)
	file := os.NewFile(uintptr(fds[0]), name)
	defer file.Close() // FileConn has a copy
	ours, err := net.FileConn(file)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make a socket pair for QEMU's %s: %w", name, err)
	}
	return ours.(*net.UnixConn), theirs, nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - maxOutput; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// String returns it as one line, without the program's name that QEMU puts before each.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for line := range strings.Lines(string(t.text)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "qemu-system-x86_64: ")
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
