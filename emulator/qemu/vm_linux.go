package qemu

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"smartvm/emulator/machine"
)

// vm is one QEMU with all that belongs to it.
type vm struct {
	spec     machine.Spec
	warn     machine.Warner
	proc     *process
	control  *net.UnixConn // under qmp
	qmp      *qmp
	memory   *os.File
	serial   *serial
	agent    *net.UnixConn      // our end of the agent's port; nil without a vsock
	vsock    *vsock             // what speaks on it, from takeOver on
	backings map[string]backing // of the drives, by their ids
	nodes    int                // block nodes named so far

	migration chan string // the states of an incoming migration
	halted    atomic.Bool // the guest switched itself off
	rebooted  atomic.Bool // the guest reset itself

	mu      sync.Mutex
	broken  error // why we gave QEMU up
	closing bool
	gone    chan struct{} // closed by watch at its end
	once    sync.Once
}

// startVM starts QEMU and waits until it answers. The guest does not run yet.
func startVM(ctx context.Context, binary string, c command, warn machine.Warner) (_ *vm, err error) {
	c.spec.Drives = slices.Clone(c.spec.Drives) // setDrive changes them
	v := &vm{spec: c.spec, warn: warn, backings: make(map[string]backing), migration: make(chan string, 8), gone: make(chan struct{})}
	defer func() {
		if err != nil {
			v.discard()
		}
	}()
	if err := v.describe(&c); err != nil {
		return nil, err
	}
	if v.memory, err = newMemory(c.spec.MemoryMiB); err != nil {
		return nil, err
	}
	theirs, err := v.connect()
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	files := slices.Concat(theirs[:fdMemory-fdQMP], []*os.File{v.memory}, theirs[fdMemory-fdQMP:])
	for _, nic := range c.spec.Interfaces {
		files = append(files, nic.TAP)
	}
	if v.proc, err = startProcess(binary, c.args(), files); err != nil {
		return nil, err
	}
	for _, f := range theirs {
		f.Close() // now, or we would not see QEMU's end
	}
	v.serial.start()
	v.qmp = newQMP(v.control, v.event)
	if _, err := v.execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, v.explain(err)
	}
	return v, nil
}

// connect makes the sockets to QEMU and returns its ends, in the order of its descriptors.
func (v *vm) connect() (theirs []*os.File, err error) {
	pair := func(name string) *net.UnixConn {
		if err != nil {
			return nil
		}
		ours, end, pairErr := socketpair(name)
		if err = pairErr; err == nil {
			theirs = append(theirs, end)
		}
		return ours
	}
	v.control = pair("control")
	console := pair("serial")
	if err == nil {
		v.serial = newSerial(console, v.spec.SerialIn, v.spec.SerialOut)
	}
	if v.spec.Vsock != nil {
		v.agent = pair("agent")
	}
	return theirs, err
}

// describe completes the command with what is read off the host: the drives' files, and addresses for the interfaces that
// have none. QEMU's default address is the same for every machine.
func (v *vm) describe(c *command) error {
	for _, drive := range c.spec.Drives {
		b, err := v.inspect(drive)
		if err != nil {
			return err
		}
		v.backings[drive.ID] = b
		c.nodes, c.serials = append(c.nodes, b.node), append(c.serials, b.serial)
	}
	for _, nic := range c.spec.Interfaces {
		mac := nic.MAC
		if mac == "" {
			random := make(net.HardwareAddr, 6)
			rand.Read(random)
			random[0] = random[0]&^1 | 2 // one interface's, locally administered
			mac = random.String()
		}
		c.macs = append(c.macs, mac)
	}
	return nil
}

// execute gives QEMU a command. One that QEMU does not answer in time breaks the machine.
func (v *vm) execute(ctx context.Context, command string, arguments any, file *os.File) (json.RawMessage, error) {
	result, err := v.qmp.execute(ctx, command, arguments, file)
	if errors.Is(err, errHung) {
		v.giveUp(err)
	}
	return result, err
}

// boot lets the guest run for the first time.
func (v *vm) boot(ctx context.Context) error {
	if err := v.configureBalloon(ctx); err != nil {
		return err
	}
	_, err := v.execute(ctx, "cont", nil, nil)
	return err
}

// event takes note of what QEMU tells.
func (v *vm) event(e event) {
	switch e.Name {
	case "SHUTDOWN":
		var data struct {
			Reason string `json:"reason"`
		}
		json.Unmarshal(e.Data, &data)
		switch data.Reason {
		case "guest-reset":
			v.rebooted.Store(true)
			go v.quit()
		case "guest-shutdown":
			v.halted.Store(true)
		}
	case "MIGRATION":
		var data struct {
			Status string `json:"status"`
		}
		json.Unmarshal(e.Data, &data)
		select {
		case v.migration <- data.Status:
		default: // nobody waits for so many
		}
	}
}

// takeOver begins what the machine does by itself, with what the caller handed over.
func (v *vm) takeOver() {
	for _, nic := range v.spec.Interfaces {
		nic.TAP.Close() // QEMU has it
	}
	if v.spec.Vsock != nil {
		v.vsock = newVsock(v.agent, v.spec.Vsock, v.warn)
	}
	go v.beat()
}

// beat asks QEMU how it is from time to time: it may hang, or have stopped the guest over a failure of its own.
func (v *vm) beat() {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-v.proc.done:
			return
		}
		answer, err := v.execute(context.Background(), "query-status", nil, nil)
		var status struct {
			Status string `json:"status"`
		}
		if err == nil && json.Unmarshal(answer, &status) == nil && status.Status == "internal-error" {
			v.giveUp(errors.New("QEMU stopped the guest after an internal error"))
		}
	}
}

// watch waits for the end and tells how it came; byItself is false when close was called before.
func (v *vm) watch() (end machine.End, byItself bool) {
	select {
	case <-v.proc.done:
	case <-v.qmp.done:
		if !v.proc.wait(quitTimeout) { // it closes its control socket when it ends; if not, it is broken
			v.giveUp(v.qmp.reason())
		}
	}
	<-v.proc.done
	v.serial.drain(drainTimeout)
	if v.vsock != nil {
		v.vsock.close()
	}
	v.mu.Lock()
	broken, closing := v.broken, v.closing
	v.mu.Unlock()
	defer close(v.gone)
	switch {
	case closing:
		return machine.End{}, false
	case broken != nil:
		return machine.End{Err: broken}, true
	case v.rebooted.Load():
		return machine.End{Rebooted: true}, true
	}
	return machine.End{Err: v.proc.ended()}, true
}

// giveUp ends a QEMU that is of no use any more; the first reason counts.
func (v *vm) giveUp(reason error) {
	v.mu.Lock()
	if v.broken == nil {
		v.broken = reason
	}
	v.mu.Unlock()
	v.proc.cmd.Process.Kill()
}

// quit ends QEMU in good order, so that what the guest has written reaches its drives.
func (v *vm) quit() {
	v.qmp.send("quit", nil, nil) // no need to wait: QEMU's end tells more
	if !v.proc.wait(quitTimeout) {
		v.proc.kill()
	}
}

// close ends a machine that was taken over.
func (v *vm) close() error {
	v.mu.Lock()
	v.closing = true
	v.mu.Unlock()
	v.quit()
	<-v.gone
	return v.discard()
}

// discard releases what this package made. The caller's TAPs and listener are left alone.
func (v *vm) discard() error {
	v.once.Do(func() {
		if v.proc != nil {
			v.proc.kill()
			v.serial.drain(drainTimeout)
		}
		if v.serial != nil {
			v.serial.close()
		}
		if v.qmp != nil {
			v.qmp.fail(net.ErrClosed)
		}
		if v.control != nil {
			v.control.Close()
		}
		if v.agent != nil {
			v.agent.Close()
		}
		if v.memory != nil {
			v.memory.Close()
		}
	})
	return nil
}

// explain puts QEMU's last words in the place of an error that only says that it is gone.
func (v *vm) explain(err error) error {
	var refused *commandError
	if errors.As(err, &refused) || errors.Is(err, errHung) {
		return err
	}
	select {
	case <-v.qmp.done:
		if v.proc.wait(quitTimeout) {
			return v.proc.ended()
		}
	default:
	}
	return err
}
