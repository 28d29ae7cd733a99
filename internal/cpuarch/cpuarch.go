// Package cpuarch has the architectures by the names that Firecracker's releases use.
package cpuarch

import "runtime"

// The architectures that Firecracker runs on.
const (
	X8664   = "x86_64"
	AArch64 = "aarch64"
)

// Host returns the architecture of this machine, or Go's own name for one that Firecracker does not run on.
func Host() string {
	switch runtime.GOARCH {
	case "amd64":
		return X8664
	case "arm64":
		return AArch64
	}
	return runtime.GOARCH
}
