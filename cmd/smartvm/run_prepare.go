//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"smartvm"
)

// prepare makes the configuration complete: flags, host, image.
func (r *vmRun) prepare(ctx context.Context) (*smartvm.Manager, *smartvm.Config, error) {
	r.options.Emulate, r.options.AllowVersions = r.flags.emulate, r.flags.allowVersions
	manager, err := smartvm.NewManager(r.options)
	if err != nil {
		return nil, nil, err
	}
	config, err := r.flags.vmConfig()
	if err != nil {
		return nil, nil, err
	}
	if r.command, err = r.flags.guestCommand(); err != nil {
		return nil, nil, err
	}
	if r.flags.tty {
		if r.terminal, err = openTerminal(r.in); err != nil {
			return nil, nil, err
		}
	}
	if !r.flags.needsImage(config) {
		if err := r.flags.checkCommand(config); err != nil {
			return nil, nil, err
		}
	}
	if !r.flags.emulate && !r.flags.dryRun {
		r.stage = stageHost
		if err := smartvm.CheckKVM(ctx); err != nil {
			return nil, nil, &failure{
				what: "this host cannot run a VM under Firecracker", stage: r.stage, err: err,
				try: []string{"smartvm run --emulate …    (no KVM needed; slow, and no security boundary as KVM is)"},
			}
		}
	}
	if r.flags.needsImage(config) {
		r.stage = stageImage
		if err := r.useImage(ctx, manager, config); err != nil {
			return nil, nil, err
		}
	}
	return manager, config, r.flags.checkCommand(config)
}

// useImage completes the configuration with the image, and makes the image when it is not there, is older than this
// program or is damaged.
func (r *vmRun) useImage(ctx context.Context, manager *smartvm.Manager, config *smartvm.Config) error {
	bundle, err := manager.Image(ctx, smartvm.DefaultImage)
	missing, damaged := errors.Is(err, fs.ErrNotExist), errors.Is(err, smartvm.BaseImagePrepareFailed)
	if (missing || damaged) && !r.flags.dryRun {
		r.options.Logger.Info("the image has to be made", "reason", err)
		if damaged {
			r.progress.say("%v", err)
		}
		if _, err = buildImage(ctx, r.progress, manager, smartvm.ImageSource{}); err == nil {
			bundle, err = manager.Image(ctx, smartvm.DefaultImage)
		}
	}
	if err != nil {
		return err
	}
	config.UseImage(bundle)
	if kernel := config.BootSource.KernelImagePath; kernel != bundle.Kernel && config.BootSource.InitrdPath == bundle.Initrd {
		if err := bundle.FitsKernel(kernel); err != nil {
			r.progress.say("warning: %v", err)
		}
	}
	return nil
}

func (r *vmRun) printPlan(ctx context.Context) error {
	plan, err := r.vm.Plan(ctx)
	if err != nil {
		return err
	}
	for _, note := range plan.Notes {
		r.progress.say("%s", note)
	}
	out := json.NewEncoder(r.out)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(struct {
		ID string `json:"id"`
		smartvm.Plan
		Command []string `json:"command,omitempty"`
	}{r.vm.ID(), plan, r.flags.command})
}

// openConsole sends the guest's console to --console's file and, when there is no command whose output could be shown,
// to the standard output.
func (r *vmRun) openConsole() (err error) {
	if r.flags.console != "" {
		if r.console, err = os.OpenFile(r.flags.console, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); err != nil {
			return fmt.Errorf("--console: %w", err)
		}
	}
	show := len(r.flags.command) == 0
	if r.console == nil && !show {
		return nil
	}
	r.vm.OnConsole(func(p []byte) {
		if r.console != nil {
			r.console.Write(p) // a full disk costs the log, not the run
		}
		if show {
			r.out.Write(p)
		}
	})
	return nil
}
