package agent

import (
	"bytes"
	"io"
	"testing"
)

// numbered is n bytes that tell where they are.
func numbered(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func TestWhatNobodyTakesIsKeptToItsLastBytes(t *testing.T) {
	t.Parallel()
	for _, written := range []int{1, keepBytes - 1, keepBytes, keepBytes + 1, 3*keepBytes + 17} {
		k := newKept()
		k.give(false)
		all := numbered(written)
		for rest := all; len(rest) > 0; rest = rest[min(len(rest), 1000):] {
			k.Write(rest[:min(len(rest), 1000)])
		}
		if _, err := k.take(make([]byte, 1)); err != errNotTaken {
			t.Fatalf("taken by nobody: %v", err)
		}
		k.End()
		k.give(true)
		got, err := io.ReadAll(readerOf{k})
		if want := all[max(0, written-keepBytes):]; err != nil || !bytes.Equal(got, want) {
			t.Errorf("of %d bytes %d came, or others: %v", written, len(got), err)
		}
	}
}

type readerOf struct{ *kept }

func (r readerOf) Read(p []byte) (int, error) { return r.take(p) }

func TestWhatCouldNotBeSentComesFirstNextTime(t *testing.T) {
	t.Parallel()
	k := newKept()
	all := numbered(keepBytes)
	k.Write(all)
	buf := make([]byte, 1000)
	n, _ := k.take(buf)
	k.Write([]byte("new"))
	k.putBack(buf[200:n]) // 200 were sent
	k.End()
	got, err := io.ReadAll(readerOf{k})
	if want := append(bytes.Clone(all[200:]), "new"...); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, or others: %v", len(got), err)
	}
}

func TestAWriterWaitsForWhoTakesAndNoLonger(t *testing.T) {
	t.Parallel()
	k := newKept()
	k.Write(numbered(keepBytes))
	written := make(chan struct{})
	go func() { k.Write([]byte("x")); close(written) }()
	select {
	case <-written:
		t.Fatal("more was kept than there is room for")
	default:
	}
	k.give(false) // who took it is gone
	<-written
	k.End()
	k.give(true)
	got, err := io.ReadAll(readerOf{k})
	if err != nil || len(got) != keepBytes || got[len(got)-1] != 'x' {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
