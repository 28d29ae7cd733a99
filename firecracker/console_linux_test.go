package firecracker

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAConsoleHandsOnEveryByteAndRemovesItsFIFO(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console")
	c, err := NewConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeNamedPipe|0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	var got bytes.Buffer
	c.Drain(&got)
	want := bytes.Repeat([]byte("\x00\xff\x1b[2J bytes\r\n"), 3000)
	for rest := want; len(rest) > 0; {
		n := min(len(rest), 4096)
		if _, err := c.File().Write(rest[:n]); err != nil { // waits for room, as this process's poller does
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes came, %d went in", got.Len(), len(want))
	}
	if !bytes.Equal(c.Tail(), want[len(want)-tailSize:]) {
		t.Error("the tail is not the end")
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the FIFO: %v", err)
	}
}

func TestAFullConsoleNeverMakesTheWriterWait(t *testing.T) {
	t.Parallel()
	c, err := NewConsole(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fd := int(c.File().Fd()) // nobody drains
	for {
		if _, err := unix.Write(fd, make([]byte, 4096)); err != nil {
			if err != unix.EAGAIN {
				t.Errorf("got %v", err)
			}
			return
		}
	}
}

func TestTheVMMsFlagsAreItsOwn(t *testing.T) {
	t.Parallel()
	c, err := NewConsole(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := unix.SetNonblock(int(c.File().Fd()), false); err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(c.reader.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("the reading end's flags changed with the VMM's: %o %v", flags, err)
	}
}

func TestAConsoleIsDrainedThoughItsReaderFails(t *testing.T) {
	t.Parallel()
	c, err := NewConsole(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left")
	c.Drain(writerFunc(func([]byte) (int, error) { return 0, full }))
	for range 50 {
		if _, err := c.File().Write(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	io.WriteString(c.File(), "the end")
	c.Settle()
	if !strings.HasSuffix(string(c.Tail()), "the end") {
		t.Error("the tail misses the end")
	}
	if err := c.Close(); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

func TestAConsoleNeedsAFreePath(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewConsole(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file is %q now", b)
	}
}
