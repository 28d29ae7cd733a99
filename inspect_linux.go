package smartvm

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"smartvm/firecracker"
)

// Inspection is everything that there is to say about a VM.
type Inspection struct {
	Status
	RuntimeDir string        `json:"runtimeDir,omitempty"`
	Given      Config        `json:"given"`             // the configuration as it was given
	InForce    *Config       `json:"inForce,omitempty"` // with defaults and staged drives, once there was a start
	Drives     []StagedDrive `json:"drives,omitempty"`
	Restored   string        `json:"restored,omitempty"` // the folder of the snapshot that the VM was restored from
	Timeout    string        `json:"timeout,omitempty"`
	Journal    []Resource    `json:"resources,omitempty"` // what the VM's run has on the host

	VMMCommand []string              `json:"vmmCommand,omitempty"` // the VMM's command line in Folder, once there was a start
	VMMConfig  *firecracker.VMConfig `json:"vmmConfig,omitempty"`  // what the VMM was told
}

// Resource is something that a run of a VM has on the host, and that is taken away at its end.
type Resource struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	ID   string `json:"id,omitempty"`
}

// Inspect tells all about the VM. As Status it waits for no other call. VMNotFound when the VM is gone; what a VM with a
// damaged record lacks is left out.
func (vm *VM) Inspect(ctx context.Context) (Inspection, error) {
	look := vm.look()
	if errors.Is(look.err, fs.ErrNotExist) {
		return Inspection{}, vm.lost("inspect")
	}
	in := Inspection{Status: look.status(ctx)}
	if in.Key == "" {
		return Inspection{}, vm.lost("inspect")
	}
	if in.Phase == PhaseDamaged || in.Phase == PhaseForeign {
		return in, nil // there is no more to be known
	}
	in.RuntimeDir, in.Given = look.rec.Runtime, *look.rec.Config.clone()
	if look.rec.Timeout > 0 {
		in.Timeout = look.rec.Timeout.String()
	}
	if journal, _, err := readJournal(look.rec.Runtime); err == nil && journal != nil {
		for _, r := range journal.Resources {
			in.Journal = append(in.Journal, Resource{Kind: r.Kind, Name: r.Name, ID: r.Identity})
		}
	}
	home := look.rec.Home
	if home == nil {
		return in, nil
	}
	in.InForce, in.Drives, in.Restored = home.OnHost.clone(), slices.Clone(home.Drives), home.Restored
	told := vmmConfig(&home.Seen)
	in.VMMConfig = &told
	o := vm.options
	o.VMMArgs = look.rec.VMM.Args
	in.VMMCommand = o.vmmCommand(look.rec.VMM.Binary, vm.key, &home.Seen)
	return in, nil
}

// vmmCommand is the VMM's command line.
func (o Options) vmmCommand(binary, key string, seen *Config) []string {
	return slices.Concat([]string{binary, "--api-sock", apiSocket, "--id", key}, o.logArgs(seen), o.VMMArgs)
}
