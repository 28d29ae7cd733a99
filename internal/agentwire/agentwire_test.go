package agentwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFramesComeBackAsTheyWereSentHoweverTheyAreCut(t *testing.T) {
	var stream []byte
	var err error
	sent := []Frame{{KindHello, []byte{}}, {KindStdin, bytes.Repeat([]byte("x"), MaxData)}, {KindStdinEnd, []byte{}}, {KindSignal, []byte{9}}}
	for _, f := range sent {
		if stream, err = Append(stream, f.Kind, f.Payload); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(iotest.OneByteReader(bytes.NewReader(stream)))
	for _, want := range sent {
		got, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got.Kind != want.Kind || !bytes.Equal(got.Payload, want.Payload) {
			t.Fatalf("sent %v, got %v", want, got)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("at the end: %v", err)
	}
	for cut := 1; cut < headerSize+MaxData; cut += 1000 {
		r := NewReader(bytes.NewReader(stream[headerSize : headerSize+cut]))
		if _, err := r.Next(); err != io.ErrUnexpectedEOF {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}

func TestAReaderRefusesWhatIsNoFrameBeforeItReadsTheRest(t *testing.T) {
	head := func(kind Kind, n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{byte(kind)}, n) }
	for _, b := range [][]byte{head(0, 0), head(kinds, 0), head(255, 1), head(KindStdout, 0), head(KindStdout, MaxData+1),
		head(KindStdout, math.MaxUint32), head(KindExec, maxRequest+1), head(KindExit, 7), head(KindExitAck, 1), head(KindHello, maxJSON+1)} {
		if _, err := NewReader(bytes.NewReader(b)).Next(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

func TestMessagesOutOfBoundsAreRefused(t *testing.T) {
	for what, err := range map[string]error{
		"exit code 256":             second(DecodeExit(Frame{KindExit, Exit{Code: 256}.Payload()})),
		"exit code -1":              second(DecodeExit(Frame{KindExit, Exit{Code: -1}.Payload()})),
		"signal 65":                 second(DecodeExit(Frame{KindExit, Exit{Signal: 65}.Payload()})),
		"signal 0":                  second(DecodeSignal(Frame{KindSignal, []byte{0}})),
		"credit of 0":               second(DecodeCredit(Frame{KindCredit, Credit{KindStdin, 0}.Payload()})),
		"credit too large":          second(DecodeCredit(Frame{KindCredit, Credit{KindStdin, Window + 1}.Payload()})),
		"credit for exit":           second(DecodeCredit(Frame{KindCredit, Credit{KindExit, 1}.Payload()})),
		"hello without boot":        second(DecodeHello(Frame{KindHello, []byte(`{"protocol":1}`)})),
		"hello of another protocol": second(DecodeHello(Frame{KindHello, []byte(`{"protocol":2,"boot":"x"}`)})),
		"hello that is no JSON":     second(DecodeHello(Frame{KindHello, []byte(`{`)})),
	} {
		if err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	want := Hello{Protocol: Protocol, Boot: "x", Epoch: math.MaxUint64, Features: []string{"a"}, Kernel: "6.1"}
	got, err := DecodeHello(Frame{KindHello, Encode(want)})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
}

func second[T any](_ T, err error) error { return err }

// conns is both ends of a connection in memory.
func conns(t *testing.T) (a, b *Conn) {
	x, y := net.Pipe()
	x.SetDeadline(time.Now().Add(30 * time.Second))
	y.SetDeadline(time.Now().Add(30 * time.Second))
	t.Cleanup(func() { x.Close(); y.Close() })
	return NewConn(x), NewConn(y)
}

func TestASenderStopsAtTheWindowAndGoesOnWithCredit(t *testing.T) {
	t.Parallel()
	a, b := conns(t)
	out := NewOutlet(a, KindStdout)
	go out.Write(make([]byte, Window+1))
	for got := 0; got < Window; {
		f, err := b.Next()
		if err != nil || f.Kind != KindStdout {
			t.Fatal(f.Kind, err)
		}
		got += len(f.Payload)
	}
	b.SetReadDeadline(time.Now().Add(-time.Second))
	if f, err := b.Next(); err == nil {
		t.Fatalf("%d bytes beyond the window", len(f.Payload))
	}
	b.SetReadDeadline(time.Now().Add(30 * time.Second))
	if err := out.Grant(1); err != nil {
		t.Fatal(err)
	}
	if f, err := b.Next(); err != nil || len(f.Payload) != 1 {
		t.Fatal(f, err)
	}
	if err := out.Grant(Window + 1); !errors.Is(err, ErrInvalid) {
		t.Errorf("credit beyond the window: %v", err)
	}
	out.Fail(io.ErrClosedPipe)
	if _, err := out.Write([]byte("x")); err != io.ErrClosedPipe {
		t.Errorf("after Fail: %v", err)
	}
}

func TestAReceiverRefusesBytesBeyondItsWindowAndItsEnd(t *testing.T) {
	t.Parallel()
	a, _ := conns(t)
	in := NewInlet(a, KindStdout)
	for range Window / MaxData {
		if err := in.Put(make([]byte, MaxData)); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Put([]byte{1}); !errors.Is(err, ErrInvalid) {
		t.Errorf("beyond the window: %v", err)
	}
	in = NewInlet(a, KindStdout)
	in.End(io.EOF)
	if err := in.Put([]byte{1}); !errors.Is(err, ErrInvalid) {
		t.Errorf("beyond the end: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	for kind := KindHello; kind < kinds; kind++ {
		b, _ := Append(nil, kind, make([]byte, bounds[kind].min))
		f.Add(b)
	}
	f.Add([]byte("\x12\x00\x00\x00\x0f{\"path\":\"L3g=\"}"))
	f.Add([]byte("\x04\x00\x00\x00\x0d{\"args\":[\"\"]}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		for {
			frame, err := r.Next()
			if err != nil {
				return
			}
			if cap(r.buf) > maxRequest {
				t.Fatalf("a buffer of %d bytes", cap(r.buf))
			}
			again, err := Append(nil, frame.Kind, frame.Payload)
			if err != nil || !bytes.HasPrefix(b, again) {
				t.Fatalf("%v: %v, %x", frame.Kind, err, again)
			}
			b = b[len(again):]
			var request Exec
			if frame.Expect(KindExec, &request) == nil {
				request.Check()
			}
			var transfer Copy
			if frame.Expect(KindCopy, &transfer) == nil {
				transfer.Check()
			}
			frame.Expect(KindCopied, new(Copied))
			DecodeHello(frame)
			DecodeExit(frame)
			DecodeSize(frame)
			DecodeSignal(frame)
			DecodeCredit(frame)
		}
	})
}
