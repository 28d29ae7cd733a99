package smartvm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"smartvm/firecracker"
	"smartvm/guest"
	"smartvm/internal/proof"
)

// awaitInGuest runs a line in the guest until it prints what is wanted; the guest's drivers take their time.
func awaitInGuest(t *testing.T, agent *guest.Agent, line string, wanted func(string) bool) (last string) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); ; {
		if last = sh(t, agent, line); wanted(last) {
			return last
		}
		if time.Now().After(limit) {
			t.Errorf("%s: the guest still says %q", line, last)
			return last
		}
	}
}

// memoryOf is a line of the guest's /proc/meminfo, in MiB.
func memoryOf(t *testing.T, text string) int {
	t.Helper()
	fields := strings.Fields(text)
	if len(fields) != 3 {
		t.Fatalf("/proc/meminfo says %q", text)
	}
	kib, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

func TestAJailedGuestSeesItsDevicesChange(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	files := t.TempDir()
	image := func(name string, mib int64) string {
		t.Helper()
		path := filepath.Join(files, name)
		file, err := os.Create(path) // root's, and readable for all, so that it is used in place
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteString(name); err != nil {
			t.Fatal(err)
		}
		if err := file.Truncate(mib << 20); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config.Drives = []Drive{{DriveID: "data", PathOnHost: image("first.img", 3), IsReadOnly: true}}
	config.Balloon = &Balloon{AmountMiB: 0, DeflateOnOOM: true, StatsPollingIntervalS: 1}
	config.Entropy = &Entropy{}
	config.MemoryHotplug = &MemoryHotplug{TotalSizeMiB: 256}
	config.Logger = &Logger{LogPath: filepath.Join(files, "vmm.log"), Level: "Debug", ShowLevel: true}
	config.Metrics = &Metrics{MetricsPath: filepath.Join(files, "metrics")}
	config.Serial = &Serial{SerialOutPath: filepath.Join(files, "serial")}
	vm, agent := boot(t, m, config)

	t.Run("a balloon takes memory and gives it back", func(t *testing.T) {
		const line = "grep MemAvailable /proc/meminfo"
		before := memoryOf(t, sh(t, agent, line))
		if err := vm.UpdateBalloon(t.Context(), 64); err != nil {
			t.Fatal(err)
		}
		awaitInGuest(t, agent, line, func(text string) bool { return memoryOf(t, text) < before-48 })
		if err := vm.UpdateBalloon(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		awaitInGuest(t, agent, line, func(text string) bool { return memoryOf(t, text) > before-16 })
		if stats, err := vm.BalloonStats(t.Context()); err != nil || stats.TargetMiB != 0 {
			t.Errorf("%+v, %v", stats, err)
		}
	})
	t.Run("a drive is swapped", func(t *testing.T) {
		if got := sh(t, agent, "cat /sys/block/vda/size /sys/block/vda/ro; head -c 9 /dev/vda"); got != "6144\n1\nfirst.img" {
			t.Errorf("at first the guest sees %q", got)
		}
		second := image("second.img", 5)
		if err := vm.UpdateDrive(t.Context(), "data", second); err != nil {
			t.Fatal(err)
		}
		awaitInGuest(t, agent, "cat /sys/block/vda/size", func(text string) bool { return text == "10240" })
		if got := sh(t, agent, "blockdev --flushbufs /dev/vda; head -c 10 /dev/vda"); got != "second.img" {
			t.Errorf("then it reads %q", got)
		}
		if got := vm.Config().Drives[0].PathOnHost; got != second {
			t.Errorf("the drive is said to be %s", got)
		}
		if vm.look().rec.Jail != nil {
			wantOnlyDrive(t, vm, second)
		}
	})
	t.Run("there are random numbers", func(t *testing.T) {
		if got := sh(t, agent, "cat /sys/class/misc/hw_random/rng_current; head -c 16 /dev/hwrng | wc -c"); !strings.HasPrefix(got, "virtio_rng") || !strings.HasSuffix(got, "\n16") {
			t.Errorf("the guest says %q", got)
		}
	})
	t.Run("memory is plugged and unplugged", func(t *testing.T) {
		client, err := vm.Client()
		if err != nil {
			t.Fatal(err)
		}
		const line = "grep MemTotal /proc/meminfo"
		before := memoryOf(t, sh(t, agent, line))
		// The driver is in the image, and init does not load it: few guests need it. "Device is not active" is the VMM's word.
		sh(t, agent, "modprobe virtio_mem && echo online_movable >/sys/devices/system/memory/auto_online_blocks")
		if err := client.PatchMemoryHotplug(t.Context(), firecracker.MemoryHotplugUpdate{RequestedSizeMiB: 128}); err != nil {
			t.Fatal(err)
		}
		awaitInGuest(t, agent, line, func(text string) bool { return memoryOf(t, text) >= before+128 })
		if err := client.PatchMemoryHotplug(t.Context(), firecracker.MemoryHotplugUpdate{RequestedSizeMiB: 0}); err != nil {
			t.Fatal(err)
		}
		awaitInGuest(t, agent, line, func(text string) bool { return memoryOf(t, text) <= before })
	})
	t.Run("log, metrics and serial port are where they were wanted", func(t *testing.T) {
		sh(t, agent, "echo to the serial port >/dev/ttyS0")
		if err := vm.FlushMetrics(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"vmm.log": "FlushMetrics", "serial": "to the serial port", "metrics": "utc_timestamp_ms"} {
			text, err := os.ReadFile(filepath.Join(files, name))
			if err != nil || !bytes.Contains(text, []byte(want)) {
				t.Errorf("%s lacks %q: %d bytes, %v", name, want, len(text), err)
			}
		}
		text, _ := os.ReadFile(filepath.Join(files, "metrics"))
		var metrics struct {
			Block struct {
				Reads int `json:"read_count"`
			} `json:"block"`
		}
		lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
		if err := json.Unmarshal(lines[len(lines)-1], &metrics); err != nil {
			t.Errorf("metrics: %v", err)
		}
	})
	// The drive that was swapped is there again in the next run, in the same jail.
	if err := vm.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, agentOf(t, vm), "head -c 10 /dev/vda"); got != "second.img" {
		t.Errorf("after the next start the guest reads %q", got)
	}
	if err := vm.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first.img", "second.img", "vmm.log", "metrics", "serial"} {
		if _, err := os.Stat(filepath.Join(files, name)); err != nil {
			t.Error(fmt.Errorf("what the user gave is gone: %w", err))
		}
	}
}
