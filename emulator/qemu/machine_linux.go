package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"smartvm/emulator/machine"
	"smartvm/internal/tsc"
)

// Options are what a machine may be told. The zero value is good.
type Options struct {
	// Binary is QEMU's name or path; "" is qemu-system-x86_64 in PATH.
	Binary string
	// Warn is told what was accepted and has no effect; nil drops it.
	Warn machine.Warner
	// Accel is "tcg" or "kvm" to insist on one; "" takes KVM where it is found to be of use.
	Accel string
}

// New returns a machine that is not started. Nothing runs, and nothing is made, before Start or Load.
func New(options Options) machine.Machine {
	if options.Binary == "" {
		options.Binary = "qemu-system-x86_64"
	}
	if options.Warn == nil {
		options.Warn = func(string, ...any) {}
	}
	return &qemuMachine{options: options, clock: tsc.Take(), ended: make(chan struct{})}
}

// qemuMachine implements machine.Machine. It has one vm in its life.
type qemuMachine struct {
	options Options
	clock   tsc.Sample // of New: the longer ago, the better the TSC's frequency is known at Start
	ended   chan struct{}

	mu     sync.Mutex
	vm     *vm // nil before the start
	closed bool
	end    machine.End
}

var errNotStarted = errors.New("the machine is not started")

// Start boots the guest. Until it succeeds TAPs and vsock listener stay the caller's.
func (m *qemuMachine) Start(ctx context.Context, spec machine.Spec) error {
	v, err := m.launch(ctx, spec, false)
	if err != nil {
		return err
	}
	if err := v.boot(ctx); err != nil {
		return errors.Join(v.explain(err), v.discard())
	}
	return m.adopt(v)
}

// Load brings a saved guest back, paused. Until it succeeds TAPs and vsock listener stay the caller's.
func (m *qemuMachine) Load(ctx context.Context, spec machine.Spec, state io.Reader, memoryPath string) error {
	v, err := m.launch(ctx, spec, true)
	if err != nil {
		return err
	}
	if err := v.load(ctx, state, memoryPath); err != nil {
		return errors.Join(v.explain(err), v.discard())
	}
	return m.adopt(v)
}

// launch starts QEMU with the guest stopped.
func (m *qemuMachine) launch(ctx context.Context, spec machine.Spec, load bool) (*vm, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("the emulator runs amd64 guests on amd64 hosts only, this is %s", runtime.GOARCH)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.vm != nil || m.closed {
		return nil, errors.New("the machine was started already")
	}
	binary, err := findBinary(m.options.Binary)
	if err != nil {
		return nil, err
	}
	c := command{spec: spec, load: load, kvm: useKVM(ctx, m.options.Accel)}
	if !c.kvm && !load {
		if c.tscKHz, err = m.clock.KHz(); err != nil {
			return nil, err
		}
	}
	return startVM(ctx, binary, c, m.options.Warn)
}

// adopt makes v the machine's, with all that the caller handed over.
func (m *qemuMachine) adopt(v *vm) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.Join(errors.New("the machine was closed meanwhile"), v.discard())
	}
	m.vm = v
	v.takeOver()
	go func() {
		if end, byItself := v.watch(); byItself {
			m.mu.Lock()
			m.end = end
			m.mu.Unlock()
			close(m.ended)
		}
	}()
	return nil
}

// running returns the vm, or why there is none any more.
func (m *qemuMachine) running() (*vm, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.vm == nil || m.closed {
		return nil, errNotStarted
	}
	return m.vm, nil
}

// Pause stops the guest's CPUs.
func (m *qemuMachine) Pause(ctx context.Context) error { return m.run(ctx, "stop") }

// Resume lets them run.
func (m *qemuMachine) Resume(ctx context.Context) error { return m.run(ctx, "cont") }

// run gives a command to a guest that is not halted: one that switched itself off stays "Running" in Firecracker, doing
// nothing, and can be paused and resumed. QEMU would refuse that.
func (m *qemuMachine) run(ctx context.Context, command string) error {
	v, err := m.running()
	if err != nil || v.halted.Load() {
		return err
	}
	_, err = v.execute(ctx, command, nil, nil)
	return err
}

// Save writes state and memory of the paused machine.
func (m *qemuMachine) Save(ctx context.Context, state io.Writer, memoryPath string) error {
	v, err := m.running()
	if err != nil {
		return err
	}
	return v.save(ctx, state, memoryPath)
}

// CtrlAltDel presses the three keys. A guest without a keyboard driver takes no notice.
func (m *qemuMachine) CtrlAltDel(ctx context.Context) error {
	v, err := m.running()
	if err != nil || v.halted.Load() {
		return err
	}
	type key struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	_, err = v.execute(ctx, "send-key", map[string]any{"keys": []key{{"qcode", "ctrl"}, {"qcode", "alt"}, {"qcode", "delete"}}}, nil)
	return err
}

// SetDrive puts the file at path behind the drive.
func (m *qemuMachine) SetDrive(ctx context.Context, id, path string) error {
	v, err := m.running()
	if err != nil {
		return err
	}
	return v.setDrive(ctx, id, path)
}

// SetBalloon asks the guest to give amountMiB of its memory.
func (m *qemuMachine) SetBalloon(ctx context.Context, amountMiB int) error {
	v, err := m.running()
	if err != nil {
		return err
	}
	return v.setBalloon(ctx, amountMiB)
}

// SetBalloonInterval sets how often the guest reports, in seconds.
func (m *qemuMachine) SetBalloonInterval(ctx context.Context, seconds int) error {
	v, err := m.running()
	if err != nil {
		return err
	}
	return v.setBalloonInterval(ctx, seconds)
}

// BalloonStats returns what the guest reported last.
func (m *qemuMachine) BalloonStats(ctx context.Context) (machine.BalloonStats, error) {
	v, err := m.running()
	if err != nil {
		return machine.BalloonStats{}, err
	}
	return v.balloonStats(ctx)
}

// Ended is closed when the guest reset itself or QEMU broke.
func (m *qemuMachine) Ended() <-chan struct{} { return m.ended }

// End says how, once Ended is closed.
func (m *qemuMachine) End() machine.End {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.end
}

// Close ends QEMU and everything around it, and waits for that.
func (m *qemuMachine) Close() error {
	m.mu.Lock()
	v, closed := m.vm, m.closed
	m.closed = true
	m.mu.Unlock()
	if v == nil || closed {
		return nil
	}
	return v.close()
}
