// Package null is a machine that holds a VM and never runs it: its guest makes no progress, as under a KVM that is of no
// use. It starts in no time, so that clients of the API can be tested and measured.
package null

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"smartvm/emulator/machine"
)

// New makes a machine.
func New() machine.Machine { return &vm{ended: make(chan struct{})} }

type vm struct {
	spec  machine.Spec
	ended chan struct{} // never closed: nothing here ends by itself
	// keys counts the bytes in the keyboard controller, which no guest reads.
	keys int
}

func (m *vm) Start(_ context.Context, spec machine.Spec) error {
	m.spec = spec
	return nil
}

// saved is the machine's part of a snapshot.
type saved struct {
	VCPUs     int `json:"vcpus"`
	MemoryMiB int `json:"memory_mib"`
}

func (m *vm) Save(_ context.Context, state io.Writer, memoryPath string) error {
	f, err := os.OpenFile(memoryPath, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(m.spec.MemoryMiB) << 20); err != nil {
		return err
	}
	return json.NewEncoder(state).Encode(saved{m.spec.VCPUs, m.spec.MemoryMiB})
}

func (m *vm) Load(_ context.Context, spec machine.Spec, state io.Reader, _ string) error {
	var s saved
	if err := json.NewDecoder(state).Decode(&s); err != nil {
		return fmt.Errorf("null machine: read state: %w", err)
	}
	if s != (saved{spec.VCPUs, spec.MemoryMiB}) {
		return fmt.Errorf("null machine: the state is of %d vCPUs and %d MiB, the configuration of %d and %d",
			s.VCPUs, s.MemoryMiB, spec.VCPUs, spec.MemoryMiB)
	}
	m.spec = spec
	return nil
}

func (m *vm) Pause(context.Context) error  { return nil }
func (m *vm) Resume(context.Context) error { return nil }

// CtrlAltDel puts four bytes into a buffer of 16, as Firecracker's i8042 does.
func (m *vm) CtrlAltDel(context.Context) error {
	const buffer, sequence = 16, 4
	if buffer-m.keys < sequence {
		return errors.New("i8042 internal buffer full.") // Firecracker's words
	}
	m.keys += sequence
	return nil
}

func (m *vm) SetDrive(context.Context, string, string) error { return nil }
func (m *vm) SetBalloon(context.Context, int) error          { return machine.ErrNotActivated }
func (m *vm) SetBalloonInterval(context.Context, int) error  { return nil }
func (m *vm) Ended() <-chan struct{}                         { return m.ended }
func (m *vm) End() machine.End                               { return machine.End{} }
func (m *vm) Close() error                                   { return nil }
func (m *vm) BalloonStats(context.Context) (machine.BalloonStats, error) {
	return machine.BalloonStats{}, nil
}
