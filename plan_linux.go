package smartvm

import (
	"context"
	"path/filepath"

	"smartvm/drive"
	"smartvm/firecracker"
)

// Plan is what a start would do.
type Plan struct {
	VMM        []string             `json:"vmm"`        // the command line of the VMM
	Folder     string               `json:"folder"`     // its working folder; the paths in Config are relative to it
	RuntimeDir string               `json:"runtimeDir"` // sockets
	Drives     []StagedDrive        `json:"drives"`     // as far as can be told beforehand
	Config     firecracker.VMConfig `json:"config"`     // what the VMM is told
	Serial     *firecracker.Serial  `json:"serial,omitempty"`
	Notes      []string             `json:"notes,omitempty"` // what would keep the start from working
}

// Plan tells what Start would do and touches nothing. The configuration is validated, and the files in it are looked at,
// as by Start.
func (vm *VM) Plan(ctx context.Context) (Plan, error) {
	if err := vm.check("plan"); err != nil {
		return Plan{}, err
	}
	var notes []string
	binary, err := vm.options.vmm()
	if err != nil {
		binary, notes = vm.options.vmmName(), []string{err.Error()}
	}
	h := &home{folder: vm.options.folderOf(vm.key), seen: *vm.given.clone(), onHost: *vm.given.clone()}
	h.folder.dry = true
	if err := vm.furnish(ctx, "plan", h, vm.foresee); err != nil {
		return Plan{}, err
	}
	return Plan{
		VMM:    vm.options.vmmCommand(binary, vm.key, &h.seen),
		Folder: h.folder.work, RuntimeDir: h.folder.runtime, Drives: h.drives, Config: vmmConfig(&h.seen), Serial: vmmSerial(h.seen.Serial), Notes: notes,
	}, nil
}

// foresee tells how drive.Stage will most likely stage a drive: whether a reflink works is tried in the nearest folder that
// exists.
func (vm *VM) foresee(_ context.Context, request drive.Request) (drive.Staged, error) {
	if err := drive.CheckSource(request.Source, false); err != nil {
		return drive.Staged{}, err
	}
	staged := drive.Staged{Method: drive.Copy, Path: filepath.Join(request.Dir, request.Name)}
	dir, err := nearestFolder(vm.options.DataDir)
	switch {
	case err != nil:
		return drive.Staged{}, err
	case drive.CanReflink(dir):
		staged.Method = drive.Reflink
	case request.AllowOverlay:
		staged.Method, staged.Path, staged.Upper = drive.Overlay, request.Source, filepath.Join(request.Dir, request.Name+drive.UpperSuffix)
	default:
		staged.Written, err = drive.DataSize(request.Source)
	}
	return staged, err
}
