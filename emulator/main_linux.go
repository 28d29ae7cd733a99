// Package emulator answers Firecracker's API where there is no KVM. It checks every request as Firecracker 1.16.1 does,
// with the same words in the same order, and hands what it accepted to a machine: QEMU's microvm, or one that never runs
// (see package machine).
package emulator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"unicode/utf8"

	"smartvm/emulator/machine"
	"smartvm/emulator/microhttp"
)

// The exit codes of Firecracker (FcExitCode) that the emulator gives.
const (
	exitOK            = 0
	exitGeneric       = 1
	exitFileSize      = 151
	exitConfiguration = 152
	exitArguments     = 153
	exitCPUTime       = 154
	exitHangup        = 156
)

// snapshotVersion is what --snapshot-version says: the version of Firecracker 1.16's states.
const snapshotVersion = "v10.0.0"

// NewMachine makes a machine, which does nothing before it is started. warn is told what was accepted and has no effect.
type NewMachine func(warn machine.Warner) machine.Machine

// Process is what the emulator's process consists of.
type Process struct {
	Args           []string // without the program's name
	Stdin          *os.File
	Stdout, Stderr io.Writer
	// Machines are the values of --machine.
	Machines map[string]NewMachine
}

// Run is the emulator's main function. It returns the exit code; where Firecracker would panic, it does not return.
func Run(p Process) int {
	m := &process{Process: p, log: &logger{system: linux{}, id: "anonymous-instance", out: p.Stdout, limit: levelInfo}}
	err := m.run()
	if err == nil {
		m.log.Info(moduleMain, "Firecracker exiting successfully. exit_code=0")
		return exitOK
	}
	m.log.Error(moduleMain, "%v", err)
	code, debug := exitGeneric, fmt.Sprintf("%q", err.Error())
	var failed *exitError
	if errors.As(err, &failed) {
		code, debug = failed.code, failed.debug
	}
	fmt.Fprintf(p.Stderr, "Error: %s\n", debug)
	m.log.Error(moduleMain, "Firecracker exiting with error. exit_code=%d", code)
	return code
}

// exitError is a fault that ends the process, with its code and how Rust's {:?} prints it.
type exitError struct {
	text, debug string
	code        int
}

func (e *exitError) Error() string { return e.text }

type process struct {
	Process
	log   *logger
	flags flags
}

// panic ends the process as a failed `expect` in Firecracker does.
func (m *process) panic(format string, args ...any) {
	m.log.Error(moduleMain, "Firecracker panicked at emulator:\n"+format, args...)
	abort()
}

func (m *process) run() error {
	var err error
	if m.flags, err = parseArguments(m.Args); err != nil {
		var fault *argumentError
		errors.As(err, &fault)
		return argumentsFault(fault.text, fault.debug)
	}
	switch {
	case m.flags.present("help"):
		fmt.Fprintf(m.Stdout, "%s\n\n%s\n", versionText, helpText())
		return nil
	case m.flags.present("version"):
		fmt.Fprintln(m.Stdout, versionText)
		return nil
	case m.flags.present("snapshot-version"):
		fmt.Fprintln(m.Stdout, snapshotVersion)
		return nil
	case m.flags.present("describe-snapshot"):
		return m.describeSnapshot(*m.flags.value("describe-snapshot"))
	}
	if runtime.GOARCH != "amd64" {
		return &exitError{"The Firecracker emulator runs on amd64 only.", `"unsupported architecture"`, exitGeneric}
	}
	name := *m.flags.value("machine")
	newMachine, ok := m.Machines[name]
	if !ok {
		return argumentsFault(fmt.Sprintf("The argument 'machine' is %q: it must be qemu or null.", name), fmt.Sprintf("InvalidMachine(%q)", name))
	}
	m.log.id = *m.flags.value("id")
	m.checkID(m.log.id)
	if err := m.configureLog(); err != nil {
		return err
	}
	m.log.Info(moduleMain, "Running Firecracker v%s (the emulator, machine %s)", version, name)
	m.catchSignals()
	return m.serve(name, newMachine)
}

// versionText has Firecracker's first line, which clients parse, and names the emulator in the second.
const versionText = "Firecracker v" + version + "\nThis is smartvm's emulator of Firecracker: same API, no KVM, no security boundary."

func argumentsFault(text, debug string) error {
	return &exitError{"Arguments parsing error: " + text + ` \n\nFor more information try --help.`,
		"ParseArguments(" + debug + ")", exitArguments}
}

// checkID follows utils/validators.rs.
func (m *process) checkID(id string) {
	const most = 64
	if len(id) < 1 || len(id) > most {
		m.panic("Invalid instance ID: InvalidLen(%d, 1, %d)", len(id), most)
	}
	at := 0
	for _, r := range id {
		if r != '-' && !alphanumeric(r) {
			m.panic("Invalid instance ID: InvalidChar(%s, %d)", strconv.QuoteRune(r), at)
		}
		at++
	}
}

func (m *process) configureLog() error {
	cfg := loggerConfig{path: m.optional("log-path"), module: m.optional("module")}
	if v := m.optional("level"); v != nil {
		l, ok := parseLevel(*v)
		if !ok {
			return &exitError{
				"Invalid value for logger level: Failed to parse string to level filter: " + *v + ".Possible values: [Error, Warning, Info, Debug]",
				fmt.Sprintf("InvalidLogLevel(LevelFilterFromStrError(%q))", *v), exitConfiguration}
		}
		cfg.level = &l
	}
	yes := true
	if m.flags.present("show-level") {
		cfg.showLevel = &yes
	}
	if m.flags.present("show-log-origin") {
		cfg.showOrigin = &yes
	}
	if err := m.log.update(cfg); err != nil {
		return &exitError{"Could not initialize logger: " + err.Error(), fmt.Sprintf("LoggerInitialization(%q)", err.Error()), exitGeneric}
	}
	return nil
}

// optional is the value of a flag without a default, nil if it was not given.
func (m *process) optional(name string) *string {
	if !m.flags.present(name) {
		return nil
	}
	return m.flags.value(name)
}

// catchSignals ends the process with Firecracker's codes where it does so, and makes a broken pipe an error of the
// write instead of the process's end: a log reader that went away must not take the VM along.
func (m *process) catchSignals() {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGXFSZ, syscall.SIGXCPU)
	go func() {
		for s := range caught {
			code := map[os.Signal]int{syscall.SIGHUP: exitHangup, syscall.SIGXFSZ: exitFileSize, syscall.SIGXCPU: exitCPUTime}[s]
			if code != 0 {
				m.log.Error(moduleMain, "Shutting down VM after intercepting signal %d.", s)
				os.Exit(code)
			}
		}
	}()
}

// size reads a flag that must be a number of bytes.
func (m *process) size(name string) int {
	v := *m.flags.value(name)
	n, err := strconv.ParseUint(v, 10, 63)
	if err != nil {
		m.panic("'%s' parameter expected to be of 'usize' type.: %q", name, v)
	}
	return int(n)
}

// read reads a file that the command line names.
func (m *process) read(flag, what string) []byte {
	path := m.optional(flag)
	if path == nil {
		return nil
	}
	text, err := os.ReadFile(*path)
	if err != nil {
		m.panic("Unable to open or read from the %s file: %s", what, debugOS(err))
	}
	if !utf8.Valid(text) {
		m.panic("Unable to open or read from the %s file: stream did not contain valid UTF-8", what)
	}
	return append([]byte{}, text...)
}

func (m *process) serve(name string, newMachine NewMachine) error {
	c := &controller{ctx: context.Background(), id: m.log.id, system: linux{}, log: m.log, machineName: name,
		state: stateNotStarted, stdin: m.Stdin, stdout: m.Stdout}
	c.vm.machine, c.vm.pci = defaultMachineConfig(), m.flags.present("enable-pci")
	c.vm.mmds.version = "V1"
	if path := m.optional("metrics-path"); path != nil {
		if err := c.metrics.open(c.system, *path); err != nil {
			return &exitError{"Could not initialize metrics: " + err.Error(), fmt.Sprintf("MetricsInitialization(%q)", err.Error()), exitGeneric}
		}
	}
	config, metadata := m.read("config-file", "configuration"), m.read("metadata", "mmds content")
	payload := m.size("http-api-max-payload-size")
	c.vm.mmds.limit = payload
	if m.flags.present("mmds-size-limit") {
		c.vm.mmds.limit = m.size("mmds-size-limit")
	}
	for _, unused := range []string{"boot-timer", "seccomp-filter"} {
		if m.flags.present(unused) {
			c.warn("--" + unused)
		}
	}
	c.machine = newMachine(c.machineWarn)
	api := "RunWithApi"
	var server *microhttp.Server
	var err error
	if m.flags.present("no-api") {
		api = "RunWithoutApi"
	} else if server, err = m.listen(*m.flags.value("api-sock"), payload); err != nil {
		return err
	}
	if err = m.prepare(c, api, config, metadata); err == nil {
		err = m.answer(c, api, server)
	}
	c.log.Info(moduleVMM, "Vmm is stopping.")
	if closed := c.close(); closed != nil && err == nil {
		err = closed
	}
	if server != nil {
		server.Close()
	}
	if werr := c.metrics.write(c.log); werr != nil {
		c.log.Error(moduleMain, "Failed to write metrics while stopping: %s", osText(werr))
	}
	return err
}

// listen binds the API's socket.
func (m *process) listen(path string, payload int) (*microhttp.Server, error) {
	err := socketPathFault(path)
	var server *microhttp.Server
	if err == nil {
		server, err = microhttp.Listen(path, payload)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, &exitError{"RunWithApiError error: Failed to open the API socket at: " + path + ". Check that it is not already used.",
			fmt.Sprintf("RunWithApi(FailedToBindSocket(%q))", path), exitGeneric}
	case err != nil:
		return nil, &exitError{"RunWithApiError error: Failed to bind and run the HTTP server: IO error: " + osText(err),
			"RunWithApi(FailedToBindAndRunHttpServer(IOError(" + debugOS(err) + ")))", exitGeneric}
	}
	m.log.Info(moduleMain, "Listening on API socket (%q).", path)
	return server, nil
}

// describeSnapshot is --describe-snapshot: the version of Firecracker's states that stands for the emulator's.
func (m *process) describeSnapshot(path string) error {
	const words = "When printing Snapshot Data format: "
	data, err := os.ReadFile(path)
	if err != nil {
		return &exitError{words + "Unable to open snapshot state file: " + osText(err),
			"PrintSnapshotDataFormat(OpenSnapshot(" + debugOS(err) + "))", exitGeneric}
	}
	var vm savedVM
	if _, err := vm.parse(data, vm.Machine); err != nil && vm.Format != stateFormat {
		return &exitError{words + "Invalid data format version of snapshot file: " + err.Error(),
			fmt.Sprintf("PrintSnapshotDataFormat(SnapshotVersion(%q))", err.Error()), exitGeneric}
	}
	fmt.Fprintf(m.Stdout, "%s\n", snapshotVersion)
	return nil
}
