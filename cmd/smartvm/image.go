//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"smartvm"
)

func newImageCommand(surroundings func() host) *cobra.Command {
	image := &cobra.Command{
		Use:   "image",
		Short: "Base images: kernel, initrd and root drive that VMs start from",
		Args:  rootArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	image.AddCommand(newImageBuildCommand(surroundings))
	return image
}

func newImageBuildCommand(surroundings func() host) *cobra.Command {
	var source smartvm.ImageSource
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Make the default image, debian",
		Long: "build makes the image debian from Debian's packages: the cloud kernel, the modules for a VM's devices, busybox\n" +
			"and SmartVM's init. The packages come from apt, or from paths; neither needs root. The same packages give the\n" +
			"same image, byte for byte. An image that is there already is replaced when the new one is whole.\n\n" +
			"The image's folder is printed.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h := surroundings()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			manager, err := smartvm.NewManager(h.options)
			if err != nil {
				return err
			}
			dir, err := buildImage(ctx, h.progress, manager, source)
			if err != nil {
				return interruptedOr(ctx, &failure{what: "the image was not made", err: err})
			}
			_, err = fmt.Fprintln(h.out, dir)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&source.Dir, "dir", "", "put the image into this `FOLDER` (default: where smartvm run looks for it)")
	flags.StringVar(&source.Package, "package", "", "take the kernel from this linux-image package: a .deb, an unpacked one, or a folder of both; `PATH`")
	flags.StringVar(&source.Busybox, "busybox", "", "likewise for busybox-static; `PATH`")
	flags.StringVar(&source.Init, "init", "", "take this `FILE` as the guest's init instead of the one in this program")
	return cmd
}

// buildImage makes the default image and returns its folder.
func buildImage(ctx context.Context, p *progress, manager *smartvm.Manager, source smartvm.ImageSource) (string, error) {
	begin := time.Now()
	p.say("making the image %s …", smartvm.DefaultImage)
	bundle, err := manager.BuildImage(ctx, source)
	if err != nil {
		return "", err
	}
	p.say("made the image %s in %.1fs", smartvm.DefaultImage, time.Since(begin).Seconds())
	return bundle.Dir, nil
}
