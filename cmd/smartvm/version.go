//go:build linux

package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by `make build` (-X main.version).
var version string

func newVersionCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.out, versionLine())
			return err
		},
	}
}

// versionLine is what `smartvm version` prints: "smartvm v1.2.3 linux/amd64 go1.26.8".
func versionLine() string {
	v := version
	if info, ok := debug.ReadBuildInfo(); ok {
		v = cmp.Or(v, info.Main.Version)
	}
	return fmt.Sprintf("smartvm %s %s/%s %s", cmp.Or(v, "(unknown)"), runtime.GOOS, runtime.GOARCH, runtime.Version())
}
