package emulator

import (
	"fmt"
	"slices"
	"strings"
)

// argument is one flag of the command line.
type argument struct {
	name       string
	takesValue bool
	byDefault  *string
	requires   string
	forbids    string
	help       string
}

func text(s string) *string { return &s }

// arguments are Firecracker's, in alphabetical order, and one of the emulator's own: --machine.
var arguments = []argument{
	{name: "api-sock", takesValue: true, byDefault: text("/run/firecracker.socket"), help: "Path to unix domain socket used by the API."},
	{name: "boot-timer", help: "Whether or not to load boot timer device for logging elapsed time since InstanceStart command."},
	{name: "config-file", takesValue: true, help: "Path to a file that contains the microVM configuration in JSON format."},
	{name: "describe-snapshot", takesValue: true, help: "Print the data format version of the provided snapshot state file."},
	{name: "enable-pci", help: "Enables PCIe support."},
	{name: "http-api-max-payload-size", takesValue: true, byDefault: text("51200"), help: "Http API request payload max size, in bytes."},
	{name: "id", takesValue: true, byDefault: text("anonymous-instance"), help: "MicroVM unique identifier."},
	{name: "level", takesValue: true, help: "Set the logger level."},
	{name: "log-path", takesValue: true, help: "Path to a fifo or a file used for configuring the logger on startup."},
	{name: "machine", takesValue: true, byDefault: text("qemu"), help: "What stands behind the API: qemu, or null for a VM that never runs. The emulator's own flag."},
	{name: "metadata", takesValue: true, help: "Path to a file that contains metadata in JSON format to add to the mmds."},
	{name: "metrics-path", takesValue: true, help: "Path to a fifo or a file used for configuring the metrics on startup."},
	{name: "mmds-size-limit", takesValue: true, help: "Mmds data store limit, in bytes."},
	{name: "module", takesValue: true, help: "Set the logger module filter."},
	{name: "no-api", requires: "config-file", help: "Optional parameter which allows starting and using a microVM without an active API socket."},
	{name: "no-seccomp", forbids: "seccomp-filter", help: "Optional parameter which allows starting and using a microVM without seccomp filtering. Not recommended."},
	{name: "parent-cpu-time-us", takesValue: true, help: "Parent process CPU time (wall clock, microseconds). This parameter is optional."},
	{name: "seccomp-filter", takesValue: true, forbids: "no-seccomp", help: "Optional parameter which allows specifying the path to a custom seccomp filter. For advanced users."},
	{name: "show-level", help: "Whether or not to output the level in the logs."},
	{name: "show-log-origin", help: "Whether or not to include the file path and line number of the log's origin."},
	{name: "snapshot-version", help: "Print the supported data format version."},
	{name: "start-time-cpu-us", takesValue: true, help: "Process start CPU time (wall clock, microseconds). This parameter is optional."},
	{name: "start-time-us", takesValue: true, help: "Process start time (wall clock, microseconds). This parameter is optional."},
	{name: "version", help: "Print the binary version number."},
}

// flags are the arguments that were given. A flag without a value has "".
type flags map[string]string

// argumentError is a fault of the command line, as Firecracker words it and as it prints it for developers.
type argumentError struct{ text, debug string }

func (e *argumentError) Error() string { return e.text }

// parseArguments reads a command line as Firecracker does: what follows "--" is left alone, --help and --version win
// over everything else, and each flag may be given once.
func parseArguments(args []string) (flags, error) {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	switch {
	case slices.Contains(args, "--help"), slices.Contains(args, "-h"):
		return flags{"help": ""}, nil
	case slices.Contains(args, "--version"):
		return flags{"version": ""}, nil
	}
	given := flags{}
	for i := 0; i < len(args); i++ {
		name, dashed := strings.CutPrefix(args[i], "--")
		at := slices.IndexFunc(arguments, func(a argument) bool { return a.name == name })
		if !dashed || at < 0 {
			return nil, &argumentError{
				fmt.Sprintf("Found argument '%s' which wasn't expected, or isn't valid in this context.", name),
				fmt.Sprintf("UnexpectedArgument(%q)", name)}
		}
		if _, again := given[name]; again {
			return nil, &argumentError{
				fmt.Sprintf("The argument '%s' was provided more than once.", name),
				fmt.Sprintf("DuplicateArgument(%q)", name)}
		}
		value := ""
		if arguments[at].takesValue {
			i++
			if i == len(args) || strings.HasPrefix(args[i], "--") {
				return nil, &argumentError{
					fmt.Sprintf("The argument '%s' requires a value, but none was supplied.", name),
					fmt.Sprintf("MissingValue(%q)", name)}
			}
			value = args[i]
		}
		given[name] = value
	}
	return given, given.check(args)
}

// check holds the flags against each other.
func (f flags) check(args []string) error {
	for _, a := range arguments {
		if _, ok := f[a.name]; !ok {
			continue
		}
		if a.requires != "" && !slices.Contains(args, "--"+a.requires) {
			return &argumentError{
				fmt.Sprintf("Argument '%s' required, but not found.", a.requires),
				fmt.Sprintf("MissingArgument(%q)", a.requires)}
		}
		if a.forbids != "" && slices.Contains(args, "--"+a.forbids) {
			return &argumentError{
				fmt.Sprintf("Argument '%s' cannot be used together with argument '%s'.", a.forbids, a.name),
				fmt.Sprintf("ForbiddenArgument(%q, %q)", a.name, a.forbids)}
		}
	}
	return nil
}

// present tells whether a flag was given.
func (f flags) present(name string) bool {
	_, ok := f[name]
	return ok
}

// value is what a flag was given, or its default; nil for neither.
func (f flags) value(name string) *string {
	if v, ok := f[name]; ok {
		return &v
	}
	for _, a := range arguments {
		if a.name == name {
			return a.byDefault
		}
	}
	return nil
}

// helpText lists the flags as Firecracker does.
func helpText() string {
	width := 0
	list := slices.Clone(arguments)
	list = slices.Insert(list, slices.IndexFunc(list, func(a argument) bool { return a.name > "help" }),
		argument{name: "help", help: "Show the help message."})
	for _, a := range list {
		width = max(width, len(a.usage()))
	}
	var b strings.Builder
	b.WriteString("optional arguments:\n")
	for _, a := range list {
		fmt.Fprintf(&b, "%-*s   %s", width, a.usage(), a.help)
		if a.byDefault != nil {
			fmt.Fprintf(&b, " [default: %q]", *a.byDefault)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (a argument) usage() string {
	if a.takesValue {
		return fmt.Sprintf("  --%s <%s>", a.name, a.name)
	}
	return "  --" + a.name
}
