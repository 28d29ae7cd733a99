// Package kvm finds out by trying whether this machine's KVM is of use to Firecracker.
//
// CPU flags do not tell: a nested or paravirtual KVM works without them, and one that is there may be taken, forbidden,
// or so slow that no kernel ever comes up in it. So [Probe] opens the device, makes a VM and, on amd64, runs a tiny guest.
package kvm

import "time"

// DefaultPath is where Linux has the device.
const DefaultPath = "/dev/kvm"

// State is the one word on a machine's KVM.
type State string

// The states. Only Usable is good.
const (
	Unknown  State = ""         // the probe was interrupted
	Usable   State = "usable"   // a VM can be made, and on amd64 a guest runs at full speed
	Missing  State = "missing"  // there is no device, or no KVM behind it
	Denied   State = "denied"   // this user may not open it
	Busy     State = "busy"     // another hypervisor has the CPU's virtualization
	Unusable State = "unusable" // it lacks what Firecracker needs, or fails
	Useless  State = "useless"  // it works, but emulates each instruction: real kernels never come up
)

// Result is what a probe found.
type Result struct {
	State  State  `json:"state"`
	Path   string `json:"path"`
	Detail string `json:"detail"`        // what was found: one sentence
	Fix    string `json:"fix,omitempty"` // what to do about it; "" when Usable

	// Loop is how long a million instructions took in the guest, the best of up to three tries; 0 when none ran to its
	// end. It should be less than LoopLimit.
	Loop time.Duration `json:"loopNs,omitempty"`
}

// Time-outs and limits.
const (
	// LoopLimit is how long the loop may take. A CPU needs less than 1 ms and the loop's exits as much again; a KVM that
	// emulates each instruction needs half a second or more.
	LoopLimit = 100 * time.Millisecond

	loopTries   = 3               // a loaded machine may be slow once
	hopeless    = 4 * LoopLimit   // no load explains that, so it is not tried again
	loopBudget  = 2 * time.Second // for all tries
	hangTimeout = 5 * time.Second // after which a guest that does not come back at all is given up
)

// The loop: chunks of exactly chunkInstructions, each ended by an exit to the host, which looks at the clock then. So
// no signal is needed to bound a slow guest.
const (
	chunks            = 100
	chunkInstructions = 10_000
)
