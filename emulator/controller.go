package emulator

import (
	"context"
	"io"
	"os"
	"time"

	"smartvm/emulator/machine"
)

// version is the release of Firecracker whose API this is.
const version = "1.16.1"

// appName is what GET / says instead of "Firecracker".
const appName = "Firecracker emulator"

// state is the VM's, as GET / shows it.
type state string

const (
	stateNotStarted state = "Not started"
	stateRunning    state = "Running"
	statePaused     state = "Paused"
)

// resources are what the client configured. After the start they are the running VM's.
type resources struct {
	machine       machineConfig
	customCPU     bool // a custom CPU template is set
	bootConfig    bootConfig
	boot          *bootSource
	drives        []*drive // the root drive first
	interfaces    []*netInterface
	pmem          []*pmemConfig
	vsock         *vsock
	balloon       *balloonConfig
	entropy       *entropyConfig
	memoryHotplug *memoryHotplugConfig
	mmds          mmds
	serialPath    *string
	pci           bool
}

// action is a request that was understood. What it does depends on whether the VM was started. It returns what the
// client gets as JSON, nil for nothing, or a fault.
type action interface {
	beforeStart(*controller) (any, error)
	afterStart(*controller) (any, error)
}

// onlyBeforeStart and onlyAfterStart refuse an action in the other state.
type (
	onlyBeforeStart struct{}
	onlyAfterStart  struct{}
)

func (onlyBeforeStart) afterStart(*controller) (any, error) { return nil, errAfterStart }
func (onlyAfterStart) beforeStart(*controller) (any, error) { return nil, errBeforeStart }

// controller runs actions against the configuration and the machine. Its methods are called from one goroutine.
type controller struct {
	ctx     context.Context
	id      string
	system  system
	log     *logger
	metrics metrics
	machine machine.Machine
	// machineName tells whose snapshots these are.
	machineName string

	vm      resources
	state   state
	hinting hinting
	// reported is what the guest's balloon driver had reported when the snapshot was taken that was loaded.
	reported machine.BalloonStats
	console  *console
	stdin    *os.File
	stdout   io.Writer

	// bootPath is set by requests after which a snapshot can no longer be loaded.
	bootPath bool
	// fatal ends the process once the reply is out.
	fatal  error
	warned map[string]bool
	// nextMetrics is when the running VM's metrics are due.
	nextMetrics time.Time
}

// run carries an action out.
func (c *controller) run(a action) (any, error) {
	if c.state == stateNotStarted {
		return a.beforeStart(c)
	}
	return a.afterStart(c)
}

// started notes that there is a VM now.
func (c *controller) started(s state) {
	c.state = s
	c.vm.boot.close()
	c.vm.boot = nil
	c.nextMetrics = time.Now().Add(metricsPeriod)
	if err := c.metrics.write(c.log); err != nil {
		c.log.Error(moduleMain, "Failed to write metrics: %s", osText(err))
	}
}

// warn says once in the log that something was accepted and has no effect.
func (c *controller) warn(what string) {
	if c.warned[what] {
		return
	}
	if c.warned == nil {
		c.warned = map[string]bool{}
	}
	c.warned[what] = true
	c.log.Warn(moduleMain, "Accepted, but without effect in the emulator: %s.", what)
}

// tick writes the metrics of a running VM when they are due. A paused VM's are late, as Firecracker's timer is frozen.
func (c *controller) tick() {
	if c.state != stateRunning || time.Now().Before(c.nextMetrics) {
		return
	}
	c.nextMetrics = time.Now().Add(metricsPeriod)
	if err := c.metrics.write(c.log); err != nil {
		c.log.Error(moduleMain, "Failed to write metrics: %s", osText(err))
	}
}

// close releases everything.
func (c *controller) close() error {
	err := c.machine.Close()
	c.vm.close()
	c.console.close()
	return err
}

func (vm *resources) close() {
	vm.boot.close()
	for _, d := range vm.drives {
		d.close()
	}
	for _, n := range vm.interfaces {
		n.close()
	}
	if vm.vsock != nil {
		vm.vsock.close()
	}
}

// console is where the guest's serial port leads.
type console struct {
	in   *os.File
	out  io.Writer
	file io.Closer
}

// openConsole opens the file of PUT /serial, or takes the process's own input and output.
func (c *controller) openConsole() (*console, error) {
	if c.vm.serialPath == nil {
		return &console{in: c.stdin, out: c.stdout}, nil
	}
	f, err := c.system.openOutput(*c.vm.serialPath)
	if err != nil {
		return nil, osFault("Error with EventFd: ", err)
	}
	return &console{out: f, file: f}, nil
}

func (c *console) close() {
	if c != nil && c.file != nil {
		_ = c.file.Close()
	}
}
