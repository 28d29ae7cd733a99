package smartvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/internal/proof"
	"smartvm/record"
)

// A house is a data folder and what stands in it, used by several processes.
type house struct {
	Dir      string `json:"dir"`
	Emulator string `json:"emulator"`
	Alone    bool   `json:"alone,omitempty"`   // without a supervisor: VMs are monitored by whoever starts them
	Limited  bool   `json:"limited,omitempty"` // VMs have limits

	// In a jail: a real Firecracker's path, its jailer's, and a folder on another filesystem than the house's, which has the kernel.
	Firecracker string `json:"firecracker,omitempty"`
	Jailer      string `json:"jailer,omitempty"`
	Elsewhere   string `json:"elsewhere,omitempty"`
}

// markAt is where in a VM's drive its guest has left its mark, in a test's mind.
const markAt = 8192

// newHouse builds a house whose paths are short enough for sockets.
func newHouse(tb testing.TB) house {
	tb.Helper()
	dir, err := os.MkdirTemp("", "house-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	h := house{Dir: dir, Emulator: proof.Emulator(tb)}
	proof.WriteKernel(tb, h.path("vmlinux"))
	for _, err := range []error{
		os.WriteFile(h.path("disk"), bytes.Repeat([]byte("as it was "), 2000), 0o600),
		os.WriteFile(h.path("other"), bytes.Repeat([]byte("another"), 3000), 0o600),
		os.Mkdir(h.path("vsock"), 0o700),
	} {
		if err != nil {
			tb.Fatal(err)
		}
	}
	return h
}

func (h house) path(name string) string { return filepath.Join(h.Dir, name) }

func (h house) jailed() bool { return h.Jailer != "" }

// open opens a manager, as every process has one of its own. What befalls it and the supervisors that it starts is told.
func (h house) open(here, supervisor fault) (*Manager, error) {
	options := Options{
		DataDir: h.path("data"), RuntimeDir: h.path("run"),
		ShutdownTimeout: time.Millisecond, // no guest is there that could obey
		hook:            here.hook(),
	}
	if h.jailed() {
		options.FirecrackerBinary, options.JailerBinary = h.Firecracker, h.Jailer
	} else {
		options.Emulate, options.EmulatorBinary, options.VMMArgs = true, h.Emulator, []string{"--machine", "null"}
	}
	if !h.Alone {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		told, err := json.Marshal(part{House: h, Fault: supervisor})
		if err != nil {
			return nil, err
		}
		options.Supervisor = []string{self, playSupervisor, string(told)}
	}
	return NewManager(options)
}

func (h house) manager(tb testing.TB) *Manager {
	tb.Helper()
	m, err := h.open(fault{}, fault{})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// do performs a deed in this process, which must go well.
func (h house) do(tb testing.TB, d deed) {
	tb.Helper()
	if err := d.perform(tb.Context(), h.manager(tb), h); err != nil {
		tb.Fatalf("%+v: %v", d, err)
	}
}

// config is the configuration of the VM with this id: with something of every kind that is to be taken away again.
func (h house) config(id string) Config {
	config := Config{
		ID: id, BootSource: BootSource{KernelImagePath: h.path("vmlinux")},
		Drives: []Drive{{DriveID: "data", PathOnHost: h.path("disk")}},
		Vsock:  &Vsock{GuestCID: 3},
	}
	if h.Limited {
		config.Limits = &Limits{CPUs: 1, MemoryMiB: 512, PIDs: 200}
	}
	if h.jailed() {
		config.BootSource.KernelImagePath = filepath.Join(h.Elsewhere, "vmlinux")
		return config
	}
	if !strings.HasPrefix(id, "source") { // of a snapshot: there the path would be another VM's, too
		config.Vsock.UDSPath = h.path("vsock/" + id)
	}
	return config
}

func (h house) vmFolder(id string) string { return h.path("data/vms/" + keyOf(id)) }

func (h house) runtime(id string) string { return h.path("run/" + keyOf(id)) }

func (h house) staged(id string) string {
	return filepath.Join(h.vmFolder(id), h.work(id), "drives", "data-disk")
}

// work is the VMM's folder in the VM's.
func (h house) work(id string) string {
	if h.jailed() {
		return filepath.Join(jailDir, filepath.Base(h.Firecracker), keyOf(id), "root")
	}
	return workDir
}

// mark writes into the VM's drive what is the VM's alone.
func (h house) mark(tb testing.TB, id string) {
	tb.Helper()
	file, err := os.OpenFile(h.staged(id), os.O_WRONLY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = file.WriteAt([]byte("written by "+id), markAt)
	if err := errors.Join(err, file.Close()); err != nil {
		tb.Fatal(err)
	}
}

// wantMark checks that the VM's drive holds what was written to it.
func (h house) wantMark(tb testing.TB, id, by string) {
	tb.Helper()
	text, err := os.ReadFile(h.staged(id))
	if want := []byte("written by " + by); err != nil || len(text) < markAt || !bytes.HasPrefix(text[markAt:], want) {
		tb.Errorf("the drive of %s lost what was written to it: %v", id, err)
	}
}

// endVMM kills the VM's VMM, and returns when its monitor has seen that, and is gone.
func (h house) endVMM(ctx context.Context, id string) error {
	_, jour, err := readJournal(h.runtime(id))
	if err != nil {
		return err
	}
	if err := jour.VMM.Kill(ctx); err != nil {
		return err
	}
	return awaitProcess(jour.Monitor.PID)
}

// lose kills the VM's VMM while nobody is there to see it.
func (h house) lose(tb testing.TB, id string) {
	tb.Helper()
	_, jour, err := readJournal(h.runtime(id))
	if err != nil {
		tb.Fatal(err)
	}
	for _, p := range []record.Process{jour.Monitor, jour.VMM} {
		if err := p.Kill(tb.Context()); err != nil {
			tb.Fatal(err)
		}
	}
}

// list tells the phase of each VM, by id.
func (h house) list(tb testing.TB) map[string]Phase {
	tb.Helper()
	all, err := h.manager(tb).List(tb.Context(), ListOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	phases := map[string]Phase{}
	for _, s := range all {
		phases[s.ID] = s.Phase
	}
	return phases
}

// play starts the test binary in a part.
func (h house) play(tb testing.TB, word string, p part) *exec.Cmd {
	tb.Helper()
	p.House = h
	told, err := json.Marshal(p)
	if err != nil {
		tb.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	command := exec.Command(self, word, string(told))
	command.Dir = "/"
	return command
}

// processLimit is how long a process may take to end that has nothing left to do.
const processLimit = 10 * time.Second

// awaitProcess waits for a process's end. One that has ended, or is a zombie, has done so.
func awaitProcess(pid int) error {
	if pid == os.Getpid() {
		return nil
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(pidfd)
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(processLimit.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("the process %d does not end", pid)
		default:
			return nil
		}
	}
}

// processes returns the house's processes, by the kernel: what each is by its command line. This one is none of them.
func (h house) processes(tb testing.TB) map[int]string {
	tb.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		tb.Fatal(err)
	}
	found := map[int]string{}
	inside, err := record.ProcessesIn(h.Dir) // a jailed one's folder has another name inside
	if err != nil {
		tb.Fatal(err)
	}
	for _, p := range inside {
		line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "cmdline"))
		found[p.PID] = string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil || len(line) == 0 { // it has ended
			continue
		}
		dir, _ := os.Readlink(filepath.Join("/proc", entry.Name(), "cwd"))
		if bytes.Contains(line, []byte(h.Dir)) || strings.HasPrefix(dir, h.Dir) {
			found[pid] = string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
	return found
}

// files lists all that is in the house's folders, by path below the house.
func (h house) files(tb testing.TB) (files []string) {
	tb.Helper()
	for _, dir := range []string{"data", "run", "vsock"} {
		err := filepath.WalkDir(h.path(dir), func(path string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if rel, relErr := filepath.Rel(h.Dir, path); relErr == nil {
				files = append(files, rel)
			}
			return err
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	slices.Sort(files)
	return files
}

// mounts lists what is mounted below the house.
func (h house) mounts(tb testing.TB) (mounts []string) {
	tb.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, h.Dir) {
			mounts = append(mounts, line)
		}
	}
	return mounts
}
