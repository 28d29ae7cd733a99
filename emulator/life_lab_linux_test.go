package emulator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"smartvm/firecracker"
	"smartvm/guest"
	"smartvm/internal/proof"
)

// upTimeout is how long a guest may take to come up, or to do what it was told.
const upTimeout = 2 * time.Minute

// TestAGuestsWholeLifeLooksTheSameInTheLab takes a guest that runs through its life, once under each VMM, and holds the
// answers against each other: status, body, and what the guest sees. (The other comparisons have no guest that runs.)
func TestAGuestsWholeLifeLooksTheSameInTheLab(t *testing.T) {
	proof.LabLong(t)
	want := live(t, proof.LabFirecracker(t))
	got := live(t, proof.Emulator(t), "--machine", "qemu")
	if len(want) != len(got) {
		t.Fatalf("%d exchanges with Firecracker, %d with the emulator", len(want), len(got))
	}
	differ := map[string]bool{}
	for i := range want {
		label := want[i].label
		if label != got[i].label {
			t.Fatalf("exchange %d is %q with Firecracker and %q with the emulator", i, label, got[i].label)
		}
		if reflect.DeepEqual(want[i].answer, got[i].answer) {
			continue
		}
		differ[label] = true
		if knownDifferences[label] == "" {
			t.Errorf("%s:\n-Firecracker %v\n+emulator    %v", label, want[i].answer, got[i].answer)
		}
	}
	for label := range knownDifferences {
		if !differ[label] {
			t.Errorf("%s: the known difference is none any more", label)
		}
	}
	t.Logf("%d exchanges, %d differ", len(want), len(differ))
}

// exchange is a question to a VMM or to its guest, and the answer as far as it can be compared.
type exchange struct {
	label  string // no two have the same
	answer any
}

// conversation is what is asked and answered in a VM's life.
type conversation struct {
	t     *testing.T
	vmm   *vmm
	agent *guest.Agent
	dir   string
	stage string
	said  []exchange
}

// live takes a guest through its life.
func live(t *testing.T, binary string, args ...string) []exchange {
	t.Helper()
	l := newLab(t)
	c := &conversation{t: t}
	began := time.Now()
	first := c.begin(l, "first", binary, args)
	c.configure()
	c.run()
	c.rest()
	c.end()
	t.Logf("%s: the first VM took %v", filepath.Base(binary), time.Since(began).Round(time.Millisecond))
	c.begin(l, "second", binary, args)
	for _, name := range []string{"data", "swapped", "disk", "state", "memory"} {
		if err := os.Link(filepath.Join(first, name), filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	c.load()
	c.end()
	labels := map[string]bool{}
	for _, e := range c.said {
		if labels[e.label] {
			t.Fatalf("%q is asked twice", e.label)
		}
		labels[e.label] = true
	}
	return c.said
}

// begin starts a VMM in a folder of its own; all paths that it is given are relative to it.
func (c *conversation) begin(l *lab, stage, binary string, args []string) string {
	c.t.Helper()
	dir, err := os.MkdirTemp("", "life-")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c.dir, c.stage = dir, stage
	c.vmm = l.start(c.t, dir, binary, args...)
	socket := filepath.Join(dir, "v.sock")
	c.agent = guest.New(func(ctx context.Context, port uint32) (net.Conn, error) {
		return firecracker.DialVsock(ctx, socket, port)
	})
	return dir
}

// ask makes a call and keeps the answer.
func (c *conversation) ask(method, path, body string) {
	c.t.Helper()
	c.note(strings.TrimSpace(fmt.Sprintf("%s %s %s", method, path, body)), comparable(c.call(method, path, body)))
}

func (c *conversation) call(method, path, body string) answer {
	c.t.Helper()
	a, err := c.vmm.call(method, path, body, 1)
	if err != nil || a.Status == 0 {
		c.t.Fatalf("%s: %s %s %s: %+v, %v\n%s", c.stage, method, path, body, a, err, strings.Join(c.vmm.log(), "\n"))
	}
	return a
}

func (c *conversation) note(what string, answer any) {
	c.said = append(c.said, exchange{c.stage + ": " + what, answer})
}

// askShape makes a call whose answer holds figures, and keeps which there are, and of what kind.
func (c *conversation) askShape(path string) {
	c.t.Helper()
	a := c.call("GET", path, "")
	var fields map[string]any
	if err := json.Unmarshal([]byte(a.Body), &fields); err != nil {
		c.t.Fatalf("GET %s: %v: %s", path, err, a.Body)
	}
	shape := map[string]string{}
	for key, value := range fields {
		shape[key] = fmt.Sprintf("%T", value)
	}
	c.note("shape of GET "+path, map[string]any{"status": a.Status, "body": shape})
}

// askAll reads all that can be read.
func (c *conversation) askAll() {
	c.t.Helper()
	for _, path := range []string{"/", "/version", "/vm/config", "/machine-config", "/balloon", "/mmds", "/hotplug/memory", "/balloon/hinting/status", "/nothing"} {
		c.ask("GET", path, "")
	}
	c.askShape("/balloon/statistics")
}

// at names what comes next, so that the same call can be made again.
func (c *conversation) at(stage string) {
	name, _, _ := strings.Cut(c.stage, ",")
	c.stage = name + ", " + stage
}

// until looks again and again: no event tells of what a guest does.
func (c *conversation) until(what string, done func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), upTimeout)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			c.t.Fatalf("%s: %s: not after %v\n%s", c.stage, what, upTimeout, strings.Join(c.vmm.log(), "\n"))
		case <-c.vmm.exited:
			c.t.Fatalf("%s: %s: the VMM ended\n%s", c.stage, what, strings.Join(c.vmm.log(), "\n"))
		case <-again.C:
		}
	}
}

func (c *conversation) awaitAgent() {
	c.t.Helper()
	c.until("the guest's agent answers", func() bool {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		defer cancel()
		return c.agent.Ping(ctx) == nil
	})
}

// awaitBalloon waits until the balloon has a size.
func (c *conversation) awaitBalloon(mib int) {
	c.t.Helper()
	c.until(fmt.Sprintf("the balloon has %d MiB", mib), func() bool {
		var s struct {
			Actual int `json:"actual_mib"`
		}
		return json.Unmarshal([]byte(c.call("GET", "/balloon/statistics", "").Body), &s) == nil && s.Actual == mib
	})
}

// inGuest runs a line in the guest's shell and keeps what it prints.
func (c *conversation) inGuest(line string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), upTimeout)
	defer cancel()
	var out, errs bytes.Buffer
	session, err := c.agent.Start(ctx, guest.Command{Args: []string{"sh", "-c", line}, Stdout: &out, Stderr: &errs})
	if err != nil {
		c.t.Fatalf("%s: %s: %v", c.stage, line, err)
	}
	status, err := session.Wait(ctx)
	if err != nil {
		c.t.Fatalf("%s: %s: %v", c.stage, line, err)
	}
	c.note("in the guest, "+line, fmt.Sprintf("%d %s%s", status.ExitCode(), out.String(), errs.String()))
}

const bucket = `{"size":1048576,"one_time_burst":2097152,"refill_time":1000}`

// configure is the life before the start.
func (c *conversation) configure() {
	c.t.Helper()
	image := os.Getenv("SMARTVM_TEST_IMAGE")
	for name, size := range map[string]int64{"data": 4 << 20, "swapped": 6 << 20, "disk": 2 << 20} {
		path := filepath.Join(c.dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(name), 0o600), os.Truncate(path, size)); err != nil {
			c.t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"kernel": "vmlinux", "initrd": "initrd"} {
		if err := os.Symlink(filepath.Join(image, target), filepath.Join(c.dir, name)); err != nil {
			c.t.Fatal(err)
		}
	}
	args, err := guest.BootArgs(guest.Boot{Hostname: "life"})
	if err != nil {
		c.t.Fatal(err)
	}
	c.ask("PUT", "/serial", `{"serial_out_path":"console"}`) // what the guest prints is not the VMM's log
	c.ask("PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":192}`)
	c.ask("PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":"kernel","initrd_path":"initrd","boot_args":"console=ttyS0 reboot=k panic=1 quiet %s"}`, strings.Join(args, " ")))
	c.ask("PUT", "/drives/data", `{"drive_id":"data","path_on_host":"data","is_root_device":false,"rate_limiter":{"bandwidth":`+bucket+`}}`)
	c.ask("PUT", "/drives/fixed", `{"drive_id":"fixed","path_on_host":"disk","is_root_device":false,"is_read_only":true,"cache_type":"Writeback"}`)
	c.ask("PUT", "/vsock", `{"guest_cid":3,"uds_path":"v.sock"}`)
	c.ask("PUT", "/balloon", `{"amount_mib":0,"deflate_on_oom":true,"stats_polling_interval_s":1,"free_page_hinting":true}`)
	c.ask("PUT", "/entropy", `{"rate_limiter":{"ops":{"size":100,"refill_time":1000}}}`)
	c.ask("PUT", "/network-interfaces/net", `{"iface_id":"net","host_dev_name":"tap0","guest_mac":"06:00:00:00:00:01","tx_rate_limiter":{"ops":{"size":10,"refill_time":100}}}`)
	c.ask("PUT", "/mmds/config", `{"version":"V1","network_interfaces":["net"]}`)
	c.ask("PUT", "/mmds", `{"who":{"am":"I"}}`)
	c.ask("PATCH", "/vm", `{"state":"Paused"}`)
	c.ask("PUT", "/snapshot/create", `{"snapshot_path":"state","mem_file_path":"memory"}`)
	c.ask("PUT", "/snapshot/load", `{"snapshot_path":"state","mem_backend":{"backend_path":"memory","backend_type":"File"}}`)
	c.ask("PATCH", "/balloon", `{"amount_mib":8}`)
	c.ask("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`)
	c.ask("GET", "/vm/config", "")
	c.ask("PUT", "/actions", `{"action_type":"InstanceStart"}`)
}

// run is the life of a guest that is up.
func (c *conversation) run() {
	c.t.Helper()
	c.awaitAgent()
	c.at("up")
	c.askAll()
	c.inGuest("hostname; nproc; cat /sys/block/vd?/size /sys/block/vd?/ro /sys/class/net/eth0/address")
	c.inGuest("head -c 4 /dev/vda; head -c 4 /dev/vdb; head -c 16 /dev/hwrng | wc -c")
	c.inGuest("ip link set eth0 up && ip addr add 169.254.0.2/16 dev eth0")
	c.inGuest(askMMDS)

	c.at("changed")
	c.ask("PATCH", "/drives/data", `{"drive_id":"data","path_on_host":"swapped"}`)
	c.ask("PATCH", "/drives/data", `{"drive_id":"data","rate_limiter":{"bandwidth":{"size":0,"refill_time":0},"ops":{"size":5000,"refill_time":1000}}}`)
	c.ask("PATCH", "/drives/data", `{"drive_id":"data","path_on_host":"nothing"}`)
	c.ask("PATCH", "/drives/data", `{"drive_id":"data"}`)
	c.ask("PATCH", "/drives/nobody", `{"drive_id":"nobody","path_on_host":"data"}`)
	c.ask("PATCH", "/network-interfaces/net", `{"iface_id":"net","rx_rate_limiter":{"bandwidth":`+bucket+`},"tx_rate_limiter":{"ops":{"size":0,"refill_time":0}}}`)
	c.ask("PATCH", "/network-interfaces/nobody", `{"iface_id":"nobody"}`)
	c.ask("PATCH", "/mmds", `{"who":{"else":1}}`)
	c.ask("PATCH", "/balloon/statistics", `{"stats_polling_interval_s":2}`)
	c.ask("PATCH", "/balloon/statistics", `{"stats_polling_interval_s":0}`)
	c.ask("PATCH", "/balloon", `{"amount_mib":32}`)
	c.awaitBalloon(32)
	c.ask("PATCH", "/balloon", `{"amount_mib":1000}`)
	c.ask("PATCH", "/balloon/hinting/stop", "")
	c.ask("PUT", "/actions", `{"action_type":"FlushMetrics"}`)
	c.inGuest("cat /sys/block/vda/size; blockdev --flushbufs /dev/vda; head -c 7 /dev/vda")
	c.askAll()

	c.at("too late")
	c.ask("PUT", "/machine-config", `{"vcpu_count":2,"mem_size_mib":192}`)
	c.ask("PATCH", "/machine-config", `{"vcpu_count":2}`)
	c.ask("PUT", "/boot-source", `{"kernel_image_path":"kernel"}`)
	c.ask("PUT", "/drives/more", `{"drive_id":"more","path_on_host":"data","is_root_device":false}`)
	c.ask("PUT", "/network-interfaces/more", `{"iface_id":"more","host_dev_name":"tap1"}`)
	c.ask("PUT", "/vsock", `{"guest_cid":4,"uds_path":"w.sock"}`)
	c.ask("PUT", "/balloon", `{"amount_mib":0,"deflate_on_oom":true}`)
	c.ask("PUT", "/entropy", `{}`)
	c.ask("PUT", "/mmds/config", `{"version":"V2","network_interfaces":["net"]}`)
	c.ask("PUT", "/serial", `{"serial_out_path":"other"}`)
	c.ask("PUT", "/hotplug/memory", `{"total_size_mib":1024}`)
	c.ask("PATCH", "/hotplug/memory", `{"requested_size_mib":128}`)
	c.ask("DELETE", "/drives/data", "")
	c.ask("PUT", "/actions", `{"action_type":"InstanceStart"}`)
	c.ask("PUT", "/snapshot/load", `{"snapshot_path":"state","mem_backend":{"backend_path":"memory","backend_type":"File"}}`)
	c.ask("PATCH", "/vm", `{"state":"Resumed"}`)
}

// rest is a pause and a snapshot. The refused snapshot heals Firecracker 1.16.1's vsock, which a bare pause breaks.
func (c *conversation) rest() {
	c.t.Helper()
	c.at("before the pause")
	c.ask("PUT", "/snapshot/create", `{"snapshot_path":"state","mem_file_path":"memory"}`)
	c.ask("PATCH", "/vm", `{"state":"Paused"}`)
	c.at("paused")
	c.ask("PATCH", "/vm", `{"state":"Paused"}`)
	c.askAll()
	c.ask("PATCH", "/drives/data", `{"drive_id":"data","path_on_host":"data"}`)
	c.ask("PATCH", "/drives/fixed", `{"drive_id":"fixed","rate_limiter":{"bandwidth":`+bucket+`}}`)
	c.ask("PATCH", "/mmds", `{"who":{"else":null}}`)
	c.ask("PATCH", "/balloon/statistics", `{"stats_polling_interval_s":1}`)
	c.ask("PUT", "/actions", `{"action_type":"InstanceStart"}`)
	c.ask("PUT", "/snapshot/create", `{"snapshot_path":"nowhere/state","mem_file_path":"memory"}`)
	c.ask("PUT", "/snapshot/create", `{"snapshot_path":"state","mem_file_path":"nowhere/memory"}`)
	c.ask("PUT", "/snapshot/create", `{"snapshot_type":"Full","snapshot_path":"state","mem_file_path":"memory"}`)
	info, err := os.Stat(filepath.Join(c.dir, "memory"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.note("size of the memory file", info.Size())
	c.ask("PATCH", "/vm", `{"state":"Resumed"}`)
	c.awaitAgent()
	c.at("resumed")
	c.askAll()
	c.inGuest("cat /sys/block/vda/size; blockdev --flushbufs /dev/vda; head -c 4 /dev/vda; hostname")
}

// load is the life of a VM that goes on from the snapshot.
func (c *conversation) load() {
	c.t.Helper()
	const load = `{"snapshot_path":"state","mem_backend":{"backend_path":"memory","backend_type":"File"}`
	c.ask("PUT", "/snapshot/load", load+`,"mem_file_path":"memory"}`)
	c.ask("GET", "/", "")
	c.ask("PUT", "/snapshot/load", load+`,"network_overrides":[{"iface_id":"net","host_dev_name":"tap1"}]}`)
	c.at("loaded")
	c.askAll()
	c.ask("PUT", "/snapshot/load", load+`}`)
	c.ask("PUT", "/actions", `{"action_type":"InstanceStart"}`)
	c.ask("PATCH", "/vm", `{"state":"Resumed"}`)
	c.awaitAgent()
	c.at("goes on")
	c.ask("PUT", "/mmds", `{"who":"the second"}`)
	c.ask("PATCH", "/balloon", `{"amount_mib":0}`)
	c.awaitBalloon(0)
	c.ask("PATCH", "/drives/data", `{"drive_id":"data","path_on_host":"swapped"}`)
	c.ask("PATCH", "/network-interfaces/net", `{"iface_id":"net","rx_rate_limiter":{"bandwidth":{"size":0,"refill_time":0}}}`)
	c.inGuest("hostname; cat /sys/block/vda/size; blockdev --flushbufs /dev/vda; head -c 7 /dev/vda")
	c.askAll()
}

// end has the guest asked to end, and keeps how the VMM did.
func (c *conversation) end() {
	c.t.Helper()
	c.at("end")
	c.ask("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`)
	c.note("exit code", c.vmm.waitExit(c.t))
	c.note("last words", slices.DeleteFunc(messages(c.vmm.log()), func(line string) bool { return !strings.Contains(line, "exit_code") }))
	_, err := os.Stat(filepath.Join(c.dir, "v.sock"))
	c.note("the vsock socket stays", err == nil)
	_, err = os.Stat(c.vmm.socket)
	c.note("the API socket stays", err == nil)
}
