//go:build linux

package main

import (
	"context"
	"errors"
	"io/fs"

	"smartvm"
	"smartvm/guest"
)

// preparation is a VM on its way from flags to its creation.
type preparation struct {
	host
	flags *vmFlags
	stage stage // how far it came

	manager *smartvm.Manager
	config  *smartvm.Config
	command guest.Command
	image   string // for ps
}

// prepare makes the configuration complete: flags, host, image. dry changes nothing, and needs no KVM.
func (p *preparation) prepare(ctx context.Context, tty, dry bool, check func(*smartvm.Config) error) (err error) {
	p.stage = stageConfigure
	p.options.Emulate, p.options.AllowVersions, p.options.VMMArgs = p.flags.emulate, p.flags.allowVersions, p.flags.vmmArgs
	p.options.NoJail = p.flags.noJail
	if p.manager, err = smartvm.NewManager(p.options); err != nil {
		return err
	}
	if p.config, err = p.flags.vmConfig(); err != nil {
		return err
	}
	if p.command, err = p.flags.guestCommand(p.flags.command, tty); err != nil {
		return err
	}
	withImage := p.flags.needsImage(p.config)
	if !withImage {
		if err := check(p.config); err != nil {
			return err
		}
	}
	if !p.flags.emulate && !dry {
		p.stage = stageHost
		if err := smartvm.CheckKVM(ctx); err != nil {
			return &failure{
				what: "this host cannot run a VM under Firecracker", stage: p.stage, err: err,
				try: []string{"smartvm run --emulate …    (no KVM needed; slow, and no security boundary as KVM is)"},
			}
		}
	}
	if withImage {
		p.stage = stageImage
		if err := p.useImage(ctx, dry); err != nil {
			return err
		}
	}
	p.flags.nameGuest(p.config)
	p.image = p.flags.imageText(p.config, withImage)
	return check(p.config)
}

// useImage completes the configuration with the image, and makes the image when it is not there, is older than this
// program or is damaged.
func (p *preparation) useImage(ctx context.Context, dry bool) error {
	bundle, err := p.manager.Image(ctx, smartvm.DefaultImage)
	missing, damaged := errors.Is(err, fs.ErrNotExist), errors.Is(err, smartvm.BaseImagePrepareFailed)
	if (missing || damaged) && !dry {
		p.options.Logger.Info("the image has to be made", "reason", err)
		if damaged {
			p.progress.say("%v", err)
		}
		if _, err = buildImage(ctx, p.progress, p.manager, smartvm.ImageSource{}); err == nil {
			bundle, err = p.manager.Image(ctx, smartvm.DefaultImage)
		}
	}
	if err != nil {
		return err
	}
	p.config.UseImage(bundle)
	if kernel := p.config.BootSource.KernelImagePath; kernel != bundle.Kernel && p.config.BootSource.InitrdPath == bundle.Initrd {
		if err := bundle.FitsKernel(kernel); err != nil {
			p.progress.say("warning: %v", err)
		}
	}
	return nil
}

// detached creates the VM for a life of its own.
func (p *preparation) detached(ctx context.Context) (*smartvm.VM, error) {
	options := p.flags.creation(p.image)
	options.Command = p.ownCommand()
	return p.manager.Create(ctx, *p.config, options)
}

// ownCommand is the command that the VM itself lives for; nil without one.
func (p *preparation) ownCommand() *smartvm.Command {
	if len(p.flags.command) == 0 {
		return nil
	}
	return &smartvm.Command{Args: p.command.Args, Env: p.command.Env, Dir: p.command.Dir, User: p.command.User}
}
