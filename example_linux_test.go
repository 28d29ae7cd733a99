package smartvm_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing"

	"smartvm"
	"smartvm/internal/proof"
)

// The examples run VMs in the emulator's null machine, which needs no KVM and runs no guest. To run real ones leave
// Emulate, EmulatorBinary and VMMArgs away.
var (
	options smartvm.Options
	kernel  string // a kernel of the null machine's taste
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if smartvm.PlayVMM() || smartvm.PlayPart() {
		return 0
	}
	if err := smartvm.SetModelRuns(); err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "smartvm-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	root, err := filepath.Abs(".")
	if err != nil {
		log.Fatal(err)
	}
	options = smartvm.Options{
		DataDir: filepath.Join(dir, "data"), RuntimeDir: filepath.Join(dir, "run"),
		Emulate: true, EmulatorBinary: filepath.Join(root, "bin", "firecracker-emulator"), VMMArgs: []string{"--machine", "null"},
		ShutdownTimeout: 1, // nanosecond: no guest is there to shut down
	}
	kernel = filepath.Join(dir, "vmlinux")
	if err := os.WriteFile(kernel, proof.Kernel(), 0o600); err != nil {
		log.Fatal(err)
	}
	return m.Run()
}

// Boot a VM, look at it, stop it. Close takes away everything that the VM had on the host.
func Example_bootAndStop() {
	ctx := context.Background()
	manager, err := smartvm.NewManager(options)
	if err != nil {
		log.Fatal(err)
	}
	defer manager.Close(ctx)

	vm, err := manager.CreateVM(ctx, smartvm.Config{
		ID:            "web-1",
		BootSource:    smartvm.BootSource{KernelImagePath: kernel},
		MachineConfig: smartvm.MachineConfig{VCPUCount: 2, MemSizeMiB: 256},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(vm.State())
	if err := vm.Start(ctx); err != nil {
		log.Fatal(err)
	}
	info, err := vm.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(vm.State(), info.ID, info.State)
	if err := vm.Stop(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(vm.State())
	// Output:
	// created
	// running web-1 Running
	// stopped
}

// Take a snapshot of a VM and make two new VMs continue from it. The VM that it was taken of is not needed any more.
func Example_snapshotAndRestore() {
	ctx := context.Background()
	manager, err := smartvm.NewManager(options)
	if err != nil {
		log.Fatal(err)
	}
	defer manager.Close(ctx)

	vm, err := manager.CreateVM(ctx, smartvm.Config{BootSource: smartvm.BootSource{KernelImagePath: kernel}})
	if err != nil {
		log.Fatal(err)
	}
	if err := vm.Start(ctx); err != nil {
		log.Fatal(err)
	}
	if err := vm.Pause(ctx); err != nil {
		log.Fatal(err)
	}
	dir := filepath.Join(manager.Options().DataDir, "warm")
	if _, err := vm.Snapshot(ctx, dir, smartvm.SnapshotOptions{}); err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := manager.Remove(ctx, vm.ID(), true); err != nil {
		log.Fatal(err)
	}
	for _, id := range []string{"fork-1", "fork-2"} {
		fork, err := manager.CreateVM(ctx, smartvm.Config{ID: id})
		if err != nil {
			log.Fatal(err)
		}
		if err := fork.Restore(ctx, dir, smartvm.RestoreOptions{}); err != nil {
			log.Fatal(err)
		}
		fmt.Println(fork.ID(), fork.State())
	}
	// Output:
	// fork-1 running
	// fork-2 running
}

// A configuration file is YAML or JSON. A key that does not exist is an error that says where, and which one was meant.
func ExampleParseConfig() {
	config, err := smartvm.ParseConfig("vm.yaml", []byte(`
bootSource: {kernelImagePath: vmlinux}
machineConfig: {vcpuCount: 2, memSizeMib: 512}
drives:
- {driveId: rootfs, pathOnHost: rootfs.ext4, isRootDevice: true}
`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(config.MachineConfig.VCPUCount, config.Drives[0].PathOnHost)

	_, err = smartvm.ParseConfig("vm.yaml", []byte("bootSource:\n  kernelImagePth: vmlinux\n"))
	fmt.Println(err)
	// Output:
	// 2 rootfs.ext4
	// read vm.yaml: line 2: unknown key `kernelImagePth` in bootSource; did you mean `kernelImagePath`? (INVALID_CONFIG)
}
