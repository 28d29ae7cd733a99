//go:build !linux

// Command firecracker-emulator takes Firecracker's place where there is no KVM. It needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "firecracker-emulator: runs on Linux only, as Firecracker does")
	os.Exit(1)
}
