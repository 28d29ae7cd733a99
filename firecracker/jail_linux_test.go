package firecracker

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"smartvm/internal/proof"
)

func TestAJailIsCheckedBeforeAnythingRuns(t *testing.T) {
	t.Parallel()
	proof.Host(t)
	dir := t.TempDir()
	good := Jail{Jailer: "/bin/true", UID: 1234, GID: 1234, Base: dir}
	for want, change := range map[string]func(*Command){
		"uid 0":        func(c *Command) { c.Jail.UID = 0 },
		"needs an id":  func(c *Command) { c.ID = "" },
		"the jail's":   func(c *Command) { c.Dir = dir },
		"no such file": func(c *Command) { c.Path = filepath.Join(dir, "missing") },
	} {
		jail := good
		command := Command{Path: "/bin/true", ID: "a", Socket: "s", Jail: &jail}
		name, err := ExecName("/bin/true")
		if err != nil {
			t.Fatal(err)
		}
		command.Dir = jail.Root(name, "a")
		if err := os.MkdirAll(command.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		change(&command)
		if _, err := Spawn(t.Context(), command); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestARealVMMRunsInAJail(t *testing.T) {
	t.Parallel()
	jailer := proof.Jailer(t)
	binary := proof.Firecracker(t)
	const id, uid = "jailed-vm", 1_234_567
	jail := &Jail{Jailer: jailer, UID: uid, GID: uid, Base: shortDir(t), NoFile: 1024}
	name, err := ExecName(binary)
	if err != nil {
		t.Fatal(err)
	}
	root := jail.Root(name, id)
	if err := os.MkdirAll(filepath.Join(root, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	console := newConsole(t, shortDir(t), "console")
	p, err := Start(t.Context(), Command{Path: binary, ID: id, Dir: root, Socket: "run/firecracker.sock", Console: console, Jail: jail})
	if err != nil {
		t.Fatal(err)
	}
	info, err := p.Client().Info(t.Context())
	if err != nil || info.ID != id {
		t.Errorf("info %+v, %v", info, err)
	}
	stat, err := os.Stat(filepath.Join("/proc", strconv.Itoa(p.PID())))
	if err != nil || stat.Sys().(*syscall.Stat_t).Uid != uid {
		t.Errorf("the VMM is not uid %d: %v, %v", uid, stat, err)
	}
	inside, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.PID()), "root"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"run": true}
	for _, left := range Leftovers(name) {
		known[left] = true
	}
	for _, entry := range inside {
		if !known[entry.Name()] {
			t.Errorf("in the jail there is %s", entry.Name())
		}
	}
	if how, err := p.Stop(t.Context(), Kill()); err != nil {
		t.Errorf("stop: %v, %v", how, err)
	}
}

func TestAVMMInAPIDNamespaceIsRefusedToACallerThatIsNoSubreaper(t *testing.T) {
	t.Parallel()
	const id, uid = "orphaned-vm", 1_234_568
	binary := proof.Firecracker(t)
	jail := &Jail{Jailer: proof.Jailer(t), UID: uid, GID: uid, Base: shortDir(t), NewPIDNS: true}
	name, err := ExecName(binary)
	if err != nil {
		t.Fatal(err)
	}
	root := jail.Root(name, id)
	if err := os.MkdirAll(filepath.Join(root, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = Spawn(t.Context(), Command{Path: binary, ID: id, Dir: root, Socket: "run/firecracker.sock", Jail: jail})
	if err == nil || !strings.Contains(err.Error(), "must be a child subreaper") {
		t.Errorf("got %v", err)
	}
	text, err := os.ReadFile(filepath.Join(root, name+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	orphan, err := Attach(Attachment{PID: pid, Socket: filepath.Join(root, "run/firecracker.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer orphan.Release()
	if _, err := orphan.Stop(t.Context(), Kill()); err != nil {
		t.Error(err)
	}
}
