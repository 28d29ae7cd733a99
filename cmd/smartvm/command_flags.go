//go:build linux

package main

import (
	"os"

	"github.com/spf13/cobra"

	"smartvm/guest"
)

// commandFlags say how a command runs in a guest.
type commandFlags struct {
	env      []string
	envFiles []string
	workdir  string
	user     string
}

func (f *commandFlags) define(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.env, "env", "e", nil, "the command's environment: `KEY=VALUE`, or KEY for the value that it has here")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "the same from a `FILE`, one a line")
	flags.StringVarP(&f.workdir, "workdir", "w", "", "the command's `FOLDER` in the guest (default /)")
	flags.StringVarP(&f.user, "user", "u", "", "the command's `USER[:GROUP]`, names or numbers (default root)")
}

func (f *commandFlags) given() bool {
	return len(f.env) > 0 || len(f.envFiles) > 0 || f.workdir != "" || f.user != ""
}

// guestCommand is what runs in the guest; streams and the terminal's size are not in it yet.
func (f *commandFlags) guestCommand(args []string, tty bool) (guest.Command, error) {
	env, err := guestEnvironment(f.env, f.envFiles, os.LookupEnv)
	if err != nil {
		return guest.Command{}, err
	}
	if term := os.Getenv("TERM"); tty && term != "" {
		env = append([]string{"TERM=" + term}, env...) // in front: -e wins
	}
	return guest.Command{Args: args, Env: env, Dir: f.workdir, User: f.user, TTY: tty}, nil
}
