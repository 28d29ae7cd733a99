package qemu

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"smartvm/emulator/machine"
	"smartvm/internal/proof"
	"smartvm/internal/tsc"
)

// initRuns is what the kernel says when it starts init.
const initRuns = "Run /init as init process"

// BenchmarkBoot boots the default image to its init, beside QEMU started by hand with the same devices, in turns. Run it
// with -benchtime=20x; the ratio of the medians should be at most 1.05.
func BenchmarkBoot(b *testing.B) {
	image := proof.Guest(b)
	kernel, initrd := filepath.Join(image, "vmlinux"), filepath.Join(image, "initrd")
	root := drive(b, "root", 1<<20, true)
	khz, err := tsc.Take().KHz()
	do(b, "tscKHz", err)
	const args = "console=ttyS0 reboot=k panic=1"

	var mineCPU, handCPU []time.Duration
	cpu := func(cmd *exec.Cmd) time.Duration { return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() }
	ours := func() time.Duration { // with New, as the emulator starts with it
		c := newConsole()
		m := New(Options{Warn: b.Logf})
		defer func() {
			m.Close()
			mineCPU = append(mineCPU, cpu(m.(*qemuMachine).vm.proc.cmd))
		}()
		began := time.Now()
		do(b, "Start", m.Start(b.Context(), machine.Spec{VCPUs: 1, MemoryMiB: 256, Kernel: kernel, Initrd: initrd, Args: args,
			Drives: []machine.Drive{root}, Balloon: &machine.Balloon{}, Entropy: true, Vsock: listenVsock(b), SerialOut: c}))
		c.expect(b, initRuns)
		return time.Since(began)
	}
	byHand := func() time.Duration {
		c := newConsole()
		cmd := exec.Command("qemu-system-x86_64", "-M", "microvm,pit=off,pic=off,rtc=on,x-option-roms=off", "-accel", "tcg", "-cpu", "max",
			"-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
			"-kernel", kernel, "-initrd", initrd, "-append", fmt.Sprintf("tsc_early_khz=%d %s", khz, args),
			"-serial", "stdio", "-device", "i8042",
			"-drive", "id=root,if=none,format=raw,readonly=on,file="+root.Path, "-device", "virtio-blk-device,drive=root",
			"-device", "virtio-balloon-device", "-device", "virtio-rng-device",
			"-chardev", "null,id=agent", "-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent,name=agent")
		cmd.Stdout, cmd.Stderr = c, c
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		began := time.Now()
		do(b, "start QEMU", cmd.Start())
		defer func() {
			cmd.Process.Kill()
			cmd.Wait()
			handCPU = append(handCPU, cpu(cmd))
		}()
		c.expect(b, initRuns)
		return time.Since(began)
	}

	var mine, hand []time.Duration
	for b.Loop() {
		if len(mine)%2 == 0 {
			mine, hand = append(mine, ours()), append(hand, byHand())
		} else {
			hand, mine = append(hand, byHand()), append(mine, ours())
		}
	}
	median := func(times []time.Duration) float64 {
		slices.Sort(times)
		return times[len(times)/2].Seconds() * 1000
	}
	b.ReportMetric(median(mine), "ms/boot")
	b.ReportMetric(median(hand), "ms/by-hand")
	b.ReportMetric(median(mine)/median(hand), "ratio")
	b.ReportMetric(median(mineCPU)/median(handCPU), "cpu-ratio") // QEMU's own: other load disturbs it less
}
