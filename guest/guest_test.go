package guest_test

import (
	"bytes"
	"debug/elf"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"smartvm/guest"
)

// patience bounds what a test waits for. A guest boot on a loaded machine without KVM takes some seconds.
const patience = 90 * time.Second

func TestBootArgsSayWhatInitShallDo(t *testing.T) {
	for _, c := range []struct {
		boot guest.Boot
		want []string
	}{
		{guest.Boot{}, nil},
		{guest.Boot{Overlay: guest.OverlayMemory(), Hostname: "lark"}, []string{"smartvm.overlay=memory", "smartvm.hostname=lark"}},
		{guest.Boot{Overlay: guest.OverlayDrive(2), FSType: "squashfs", Image: true}, []string{"smartvm.overlay=vdc", "rootfstype=squashfs", "smartvm.init=image"}},
	} {
		got, err := guest.BootArgs(c.boot)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%+v: %v %s", c.boot, err, diff)
		}
	}
}

func TestBootArgsRefuseWhatWouldBecomeAnotherArgument(t *testing.T) {
	for _, b := range []guest.Boot{{Hostname: "a b"}, {Hostname: "a\nroot=/dev/vdb"}, {Hostname: "-a"}, {FSType: "ext4 rw"}, {FSType: "../x"},
		{Overlay: guest.OverlayDrive(0)}, {Overlay: guest.OverlayDrive(26)}, {Overlay: guest.OverlayDrive(-1)}} {
		if got, err := guest.BootArgs(b); err == nil {
			t.Errorf("%+v gave %q", b, got)
		}
	}
}

func TestSignalsAreKnownByNameAndNumber(t *testing.T) {
	for in, want := range map[string]int{"TERM": 15, "SIGTERM": 15, "sigint": 2, "9": 9, "64": 64, "WINCH": 28} {
		if got, err := guest.ParseSignal(in); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "SIG", "0", "65", "-9", "NOPE", "TERM "} {
		if got, err := guest.ParseSignal(in); err == nil {
			t.Errorf("%q gave %d", in, got)
		}
	}
}

func TestInitIsAStaticProgramOfAtMostFourMegabytesOrSaysHowToMakeIt(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64} {
		b, err := guest.Init(arch)
		if errors.Is(err, guest.ErrNoInit) {
			if !bytes.Contains([]byte(err.Error()), []byte("make guest-init")) {
				t.Errorf("%v does not say what to do", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 4_000_000 {
			t.Errorf("%s: %d bytes", arch, len(b))
		}
		f, err := elf.NewFile(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != machine || f.Section(".interp") != nil {
			t.Errorf("%s: machine %v, with a dynamic loader: %v", arch, f.Machine, f.Section(".interp") != nil)
		}
	}
	if _, err := guest.Init("riscv64"); err == nil {
		t.Error("there is an init for riscv64")
	}
}
