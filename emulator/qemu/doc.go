// Package qemu is the emulator's machine with a guest in it: QEMU's microvm, made to look like Firecracker.
//
// # What is the same
//
// Drives, interfaces, balloon and entropy are virtio-mmio devices that the guest finds in the order of the configuration,
// the root drive first. The keyboard controller takes Ctrl-Alt-Del and resets. A reset ends the machine, as it ends
// Firecracker: `reboot`, and a panic with `panic=1`, are the same to both. `poweroff` does not end it, as it does not end
// Firecracker on x86. Snapshots are full, can be taken again and again, and loaded many times at once.
//
// # How it runs
//
// QEMU is a child without a name on disk: memory is a memfd, and QMP, serial console and agent's port are socket pairs.
// It dies with its parent, also when that is killed (a parent-death signal), and is kept in QEMU's own seccomp sandbox
// with nothing to spawn. It uses KVM where the CPU shows virtualization and a probe finds it to be of use, else TCG. This
// is no security boundary as KVM with Firecracker is.
//
// Under TCG `tsc_early_khz=` is put on the kernel's command line. Without it the kernel measures its clock against a timer
// that QEMU's threads serve late, and a third of the boots hang; all of them when several start at once.
//
// # Snapshots
//
// The state is what QEMU's xen-save-devices-state writes, some ten kilobytes: devices and CPUs, no memory. Unlike a
// migration it leaves the machine paused, not in a "postmigrate" state that refuses a second one. It goes in again as an
// incoming migration; the stream lacks a configuration section, and `send-configuration=off` says so.
//
// The memory is the memfd, copied with its holes. A load copies it back into a memfd, while QEMU starts. To map the file
// privately (share=off) would be less work, but is not safe: the balloon of QEMU 7.2 gives pages back by punching holes
// in the backing file, under a private mapping, too (ram_block_discard_range), and would so destroy the snapshot.
//
// # vsock
//
// There is no vsock device. Firecracker's socket and protocol are there, and behind them a multiplexer (package portmux)
// over a virtio-serial port, whose other end is our init. So only guests that run our init with the agent can be reached.
//
// # What has no effect
//
//   - Rate limits of drives, interfaces, entropy and pmem.
//   - The metadata service as seen from the guest.
//   - vsock for others than our agent; guest_cid; the reset of connections when a snapshot is taken.
//   - CPU templates and configurations, huge pages, dirty page tracking. Under TCG the CPU is QEMU's.
//   - free_page_hinting of the balloon.
//   - A new size when a read-only drive, or one whose size is no multiple of 512 bytes, gets another file; and the serial
//     number of a drive after that, which stays the first file's.
//   - The generation id (vmgenid) after a restore: no guest sees it on this machine.
//   - partuuid is only what stands on the command line. Kernels need a PVH entry (Linux ≥ 5.0 with CONFIG_PVH) and ACPI.
//   - Snapshot files are not synced to the disk.
package qemu
