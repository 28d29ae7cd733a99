//go:build linux

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"smartvm"
	"smartvm/firecracker"
)

func newInspectCommand(surroundings func() host) *cobra.Command {
	var (
		f          = format{text: formatJSON}
		vmmCommand bool
	)
	cmd := &cobra.Command{
		Use:   "inspect [flags] VM...",
		Short: "Print all about VMs, as JSON",
		Long: "inspect prints a JSON array with everything about each VM: its status, its configuration as it was given and as it\n" +
			"is in force, its drives, folders, and what its run has on this host. --vmm-command prints the VMM's command line\n" +
			"and what the VMM was told; paths in it are relative to the folder.",
		Example:           "  smartvm inspect --format '{{.Folder}}' web",
		Args:              atLeastOneVM,
		ValidArgsFunction: completeVMs(surroundings, 0, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := f.parse()
			switch {
			case err == nil && f.text == formatTable:
				err = errors.New("--format table is for lists; want json or a template")
			case err == nil && vmmCommand && f.template != nil:
				err = errors.New("--vmm-command and --format exclude each other")
			}
			if err != nil {
				return &usageError{cmd, err}
			}
			h := surroundings()
			manager, err := smartvm.NewManager(h.options)
			if err != nil {
				return err
			}
			all, failed := []smartvm.Inspection{}, 0
			for _, ref := range args {
				vm, err := findVM(manager, ref)
				var in smartvm.Inspection
				if err == nil {
					in, err = vm.Inspect(cmd.Context())
				}
				if err != nil {
					failure := vmFailure(fmt.Sprintf("%q cannot be looked at", shortened(ref)), err)
					failure.print(h.progress)
					failed = max(failed, failure.exitCode())
					continue
				}
				all = append(all, in)
			}
			if vmmCommand {
				err = printJSON(h.out, vmmCommands(all))
			} else {
				err = printList(h.out, f, all, "", nil)
			}
			if err == nil && failed != 0 {
				return exitCode(failed)
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&f.text, "format", "f", formatJSON, "`FORMAT`: json, or a Go template such as '{{.Folder}}'")
	cmd.Flags().BoolVar(&vmmCommand, "vmm-command", false, "print the VMM's command line and its configuration instead")
	return cmd
}

// toldVMM is how a VMM was started and what it was told.
type toldVMM struct {
	ID      string                `json:"id"`
	Folder  string                `json:"folder"`
	Command []string              `json:"command"` // null for a VM that was never started
	Config  *firecracker.VMConfig `json:"config"`
}

func vmmCommands(all []smartvm.Inspection) []toldVMM {
	told := []toldVMM{}
	for _, in := range all {
		told = append(told, toldVMM{in.ID, in.Folder, in.VMMCommand, in.VMMConfig})
	}
	return told
}
