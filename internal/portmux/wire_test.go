package portmux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
)

// events reads a stream to its end, beginning as an end that has just been made does: without a place.
func events(t testing.TB, d *receiver) (marks []mark, payload []byte, lost int) {
	for {
		e, err := d.next()
		if err != nil {
			if err != io.EOF {
				t.Fatal(err)
			}
			return marks, payload, lost
		}
		switch {
		case e.lost:
			lost++
		case e.mark != nil:
			marks = append(marks, *e.mark)
			if e.mark.kind == syncMark {
				d.begin(e.mark.session)
				payload = payload[:0]
			}
		default:
			payload = append(payload, e.payload...)
		}
	}
}

func TestANewSessionIsFoundWhereverTheOldOneStopped(t *testing.T) {
	t.Parallel()
	old := filled(mark{syncMark, 1})
	start := len(old)
	for _, n := range []int{1, 5, 300, maxChunk, 2} {
		old = appendChunk(old, 1, nil, bytes.Repeat([]byte{byte(n)}, n))
	}
	next := filled(mark{syncMark, 2})
	next = appendChunk(next, 2, []byte("of the "), []byte("second session"))
	try := func(cut int) {
		marks, payload, _ := events(t, newReceiver(io.MultiReader(bytes.NewReader(old[:cut]), bytes.NewReader(next))))
		if len(marks) == 0 || marks[len(marks)-1] != (mark{syncMark, 2}) || string(payload) != "of the second session" {
			t.Fatalf("cut at %d: marks %v, payload %q", cut, marks, payload)
		}
	}
	for cut := range 400 { // within the filler's start, and from the mark into the chunks
		try(cut)
		try(start - markSize + cut)
	}
	for cut := start + 300; cut <= len(old); cut += 97 {
		try(cut)
	}
	for cut := len(old) - 40; cut <= len(old); cut++ {
		try(cut)
	}
}

func TestWhatAnOldSessionLeftInTheQueueIsNotDelivered(t *testing.T) {
	t.Parallel()
	var stream []byte
	stream = filled(mark{syncMark, 1})
	stream = appendChunk(stream, 1, nil, []byte("one"))
	stream = append(stream, filled(mark{syncMark, 2})...)
	stream = appendChunk(stream, 1, nil, []byte("late, of one"))
	stream = appendChunk(stream, 2, nil, []byte("two"))
	marks, payload, lost := events(t, newReceiver(bytes.NewReader(stream)))
	if len(payload) != 0 || lost == 0 || len(marks) != 2 {
		t.Fatalf("payload %q, %d lost, marks %v", payload, lost, marks)
	}
}

func TestHostAndGuestFindEachOtherThroughAnythingQueued(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	var stale []byte
	stale = filled(mark{syncMark, 9})
	stale = append(stale, mark{echo, 9}.append(nil)...)
	stale = append(stale, filled(mark{kind: announce})...)
	for n := 1; n < 2000; n += 333 {
		stale = appendChunk(stale, 9, nil, noise[:n])
	}
	for i := range 40 {
		toGuest, toHost := newWire(), newWire()
		junk := noise
		if i%2 == 1 {
			junk = stale
		}
		toGuest.write(junk[:random.IntN(len(junk))])
		toHost.write(junk[:random.IntN(len(junk))])
		h, g := NewHost(end{toHost, toGuest}), NewGuest(end{toGuest, toHost})
		echoes(t, g, 7)
		roundTrip(t, h, 7, 1000)
		h.Close()
		g.Close()
	}
}

func TestACorruptedByteCostsTheSessionAndNoMore(t *testing.T) {
	t.Parallel()
	toGuest, toHost := newWire(), newWire()
	h, g := NewHost(end{toHost, toGuest}), NewGuest(end{toGuest, toHost})
	defer h.Close()
	defer g.Close()
	echoes(t, g, 7)
	for _, w := range []*wire{toGuest, toHost, toGuest} {
		before, err := g.Session(bounded(t), 0)
		if err != nil {
			t.Fatal(err)
		}
		w.write([]byte{0, 0, 'n', 'o', ' ', 'c', 'h', 'u', 'n', 'k'})
		if _, err := g.Session(bounded(t), before); err != nil {
			t.Fatal(err)
		}
		roundTrip(t, h, 7, 1000)
	}
}

// hostile answers the host's sync and then sends what it likes, in valid chunks.
func hostile(tb testing.TB, payload []byte) *Host {
	toGuest, toHost := newWire(), newWire()
	h := NewHost(end{toHost, toGuest})
	tb.Cleanup(func() { h.Close() })
	in := newReceiver(end{in: toGuest})
	e, err := in.next()
	if err != nil || e.mark == nil || e.mark.kind != syncMark {
		tb.Fatalf("no sync: %+v, %v", e, err)
	}
	b := mark{echo, e.mark.session}.append(nil)
	for len(payload) > 0 {
		n := min(len(payload), maxChunk)
		b = appendChunk(b, e.mark.session, nil, payload[:n])
		payload = payload[n:]
	}
	toHost.write(b)
	return h
}

// frame is a yamux frame's header.
func frame(kind byte, flags uint16, id, length uint32) []byte {
	b := []byte{0, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, id)
	return binary.BigEndian.AppendUint32(b, length)
}

func TestAHostileGuestClosesTheHostAndCostsBoundedMemory(t *testing.T) {
	// Not parallel: it measures memory.
	many := func(n int, f func(i int) []byte) (b []byte) {
		for i := range n {
			b = append(b, f(i)...)
		}
		return b
	}
	for what, payload := range map[string][]byte{
		"pings":             many(100_000, func(i int) []byte { return frame(2, 1, 0, uint32(i)) }),
		"streams":           many(100_000, func(i int) []byte { return frame(1, 1, uint32(2+2*i), 0) }),
		"a window too much": append(append(frame(1, 1, 2, 0), frame(0, 0, 2, window)...), append(make([]byte, window), frame(0, 0, 2, 1)...)...),
		"a frame too long":  append(frame(1, 1, 2, 0), frame(0, 0, 2, 1<<31)...),
		"another version":   {9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"a stream twice":    append(frame(1, 1, 2, 0), frame(1, 1, 2, 0)...),
		"a close twice":     append(frame(1, 1|4, 2, 0), frame(1, 4, 2, 0)...),
		"a goodbye":         frame(3, 0, 0, 0),
	} {
		t.Run(what, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			h := hostile(t, payload)
			select {
			case <-h.Done():
			case <-bounded(t).Done():
				t.Fatal("the host goes on")
			}
			if !errors.Is(h.Err(), ErrProtocol) {
				t.Errorf("got %v", h.Err())
			}
			runtime.ReadMemStats(&after)
			// The queue itself is the wire's; yamux keeps a few KiB for each stream.
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc) - 8*int64(len(payload)); grown > 32<<20 {
				t.Errorf("memory grew by %d MiB", grown>>20)
			}
		})
	}
}

func FuzzReceiverFindsAMarkAfterAnything(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add(filled(mark{syncMark, 1})[fillerLen:], []byte("\x00\x05abcd"))
	f.Add(appendChunk(mark{syncMark, 7}.append(nil), 7, nil, []byte("payload")), []byte(magic))
	f.Add([]byte(magic+"\x02"), appendChunk(nil, 0, nil, bytes.Repeat([]byte{1}, 100)))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		stream := append(append(bytes.Clone(a), b...), filled(mark{syncMark, 0xfeedface})...)
		stream = appendChunk(stream, 0xfeedface, nil, []byte("found"))
		marks, payload, _ := events(t, newReceiver(bytes.NewReader(stream)))
		if len(marks) == 0 || marks[len(marks)-1].session != 0xfeedface || string(payload) != "found" {
			t.Fatalf("marks %v, payload %q", marks, payload)
		}
	})
}

func FuzzHostBearsAHostileGuest(f *testing.F) {
	f.Add(frame(1, 1, 2, 0))
	f.Add(append(frame(0, 1, 2, 4), 0, 0, 0, 9))
	f.Add(append(append(frame(1, 1, 1, 0), frame(1, 2, 1, 0)...), frame(1, 8, 1, 0)...))
	f.Add(frame(2, 1, 0, 1))
	f.Fuzz(func(t *testing.T, payload []byte) {
		h := hostile(t, payload)
		if err := h.Ready(bounded(t)); err != nil && !errors.Is(err, ErrProtocol) {
			t.Fatal(err)
		}
		h.Close()
		<-h.Done()
	})
}

func BenchmarkPortmux(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			h, g := pair(b)
			echoes(b, g, 7)
			b.SetBytes(int64(2 * size))
			for b.Loop() {
				roundTrip(b, h, 7, size)
			}
		})
	}
}
