//go:build !linux

package kvm

import (
	"context"
	"runtime"
)

// Probe says that KVM needs Linux.
func Probe(_ context.Context, path string) Result {
	return Result{State: Missing, Path: path, Detail: "KVM needs Linux, this is " + runtime.GOOS + ".", Fix: "Use a Linux machine."}
}
