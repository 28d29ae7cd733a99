package null_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"smartvm/emulator/machine"
	"smartvm/emulator/null"
)

func TestASavedMachineLoadsWithTheSameShapeOnly(t *testing.T) {
	t.Parallel()
	ctx, memory := t.Context(), filepath.Join(t.TempDir(), "memory")
	first, spec := null.New(), machine.Spec{VCPUs: 2, MemoryMiB: 64}
	if err := first.Start(ctx, spec); err != nil {
		t.Fatal(err)
	}
	var state bytes.Buffer
	if err := first.Save(ctx, &state, memory); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(memory); err != nil || info.Size() != 64<<20 {
		t.Errorf("memory file: %v, %v", info, err)
	}
	if err := null.New().Load(ctx, spec, bytes.NewReader(state.Bytes()), memory); err != nil {
		t.Errorf("load: %v", err)
	}
	if err := null.New().Load(ctx, machine.Spec{VCPUs: 1, MemoryMiB: 64}, bytes.NewReader(state.Bytes()), memory); err == nil {
		t.Error("a state of two vCPUs was loaded into one")
	}
	if err := null.New().Load(ctx, spec, bytes.NewReader([]byte("{")), memory); err == nil {
		t.Error("a broken state was loaded")
	}
}

func TestTheBalloonIsNeverActivatedAndTheKeyboardFillsUp(t *testing.T) {
	t.Parallel()
	m := null.New()
	if err := m.SetBalloon(t.Context(), 1); !errors.Is(err, machine.ErrNotActivated) {
		t.Errorf("balloon: %v", err)
	}
	for i := range 5 {
		if err := m.CtrlAltDel(t.Context()); (err != nil) != (i == 4) {
			t.Errorf("Ctrl-Alt-Del %d: %v", i, err)
		}
	}
}
