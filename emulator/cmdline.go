package emulator

import (
	"errors"
	"strings"
)

const (
	// defaultArgs is the command line without boot_args (vmm_config/boot_source.rs).
	defaultArgs = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce"
	// maxCommandLine bounds the command line with its final NUL (CMDLINE_MAX_SIZE).
	maxCommandLine = 2048
	// initSeparator divides the kernel's arguments from init's.
	initSeparator = " -- "
)

var (
	errCommandLineLong  = errors.New("Inserting string would make command line too long.")
	errCommandLineASCII = errors.New("String contains a non-printable ASCII character.")
)

// commandLine is the kernel's command line under construction (crate linux_loader, cmdline/mod.rs).
type commandLine struct {
	kernel, init string
	// hidden counts bytes that Firecracker would have appended and the emulator does not, as its machine announces the
	// devices in another way. They use up room all the same.
	hidden int
}

// parseCommandLine takes boot_args apart at the first separator outside double quotes.
func parseCommandLine(args string) (commandLine, error) {
	c := commandLine{kernel: args}
	for at := 0; ; {
		i := strings.Index(args[at:], initSeparator)
		if i < 0 {
			break
		}
		i += at
		if strings.Count(args[:i], `"`)%2 == 0 {
			c.kernel, c.init = args[:i], args[i+len(initSeparator):]
			break
		}
		at = i + len(initSeparator)
	}
	c.kernel, c.init = strings.TrimSpace(c.kernel), strings.TrimSpace(c.init)
	if c.size() > maxCommandLine {
		return commandLine{}, errors.New("Invalid cmdline capacity provided.")
	}
	return c, nil
}

// size is the length with the final NUL.
func (c *commandLine) size() int {
	n := len(c.kernel) + 1 + c.hidden
	if c.init != "" {
		n += len(initSeparator) + len(c.init)
	}
	return n
}

// add appends an argument for the kernel.
func (c *commandLine) add(arg string) error {
	arg = strings.TrimSpace(arg)
	if strings.ContainsFunc(arg, func(r rune) bool { return r < ' ' || r > '~' }) {
		return errCommandLineASCII
	}
	n := len(arg)
	if c.kernel != "" {
		n++
	}
	if c.size()+n > maxCommandLine {
		return errCommandLineLong
	}
	if c.kernel != "" {
		c.kernel += " "
	}
	c.kernel += arg
	return nil
}

// reserve counts an argument without appending it.
func (c *commandLine) reserve(arg string) error {
	n := len(arg) + 1
	if c.size()+n > maxCommandLine {
		return errCommandLineLong
	}
	c.hidden += n
	return nil
}

func (c *commandLine) String() string {
	if c.init == "" {
		return c.kernel
	}
	return c.kernel + initSeparator + c.init
}
