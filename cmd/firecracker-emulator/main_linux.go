// Command firecracker-emulator takes Firecracker's place where there is no KVM. See docs/emulator.md.
package main

import (
	"os"

	"smartvm/emulator"
	"smartvm/emulator/machine"
	"smartvm/emulator/null"
	"smartvm/emulator/qemu"
)

func main() {
	os.Exit(emulator.Run(emulator.Process{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Machines: map[string]emulator.NewMachine{
			"null": func(machine.Warner) machine.Machine { return null.New() },
			"qemu": func(warn machine.Warner) machine.Machine { return qemu.New(qemu.Options{Warn: warn}) },
		},
	}))
}
