package guest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"smartvm/guest"
	"smartvm/internal/agentwire"
)

// copier is an agent that can copy, and answers every copy with what it likes.
func copier(reply []byte) *guest.Agent {
	able := frames(agentwire.KindHello, []byte(`{"protocol":1,"boot":"x","features":["copy"]}`))
	return guest.New(func(context.Context, uint32) (net.Conn, error) {
		host, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			c := agentwire.NewConn(theirs)
			f, err := c.Next()
			if err != nil {
				return
			}
			answer := reply
			if f.Kind == agentwire.KindHello {
				answer = able
			}
			go io.Copy(io.Discard, theirs)
			theirs.Write(answer)
		}()
		return host, nil
	})
}

// tarred is a valid archive of one file under a name, in data frames.
func tarred(t testing.TB, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 4, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "body")
	w.Close()
	return frames(agentwire.KindStdout, b.Bytes())
}

var (
	noMore    = frames(agentwire.KindStdoutEnd, []byte{})
	wellDone  = frames(agentwire.KindCopied, []byte(`{"files":1}`))
	badlyDone = frames(agentwire.KindCopied, []byte(`{"reason":"invented","message":"\u001b[2Jgone"}`))
)

func TestAnAgentThatBreaksACopyGivesAnErrorAndWritesNothingElsewhere(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		reply []byte
		word  string
	}{
		"nothing":                    {nil, "EOF"},
		"garbage":                    {[]byte("HTTP/1.1 200 OK\r\n"), "invalid frame"},
		"no archive":                 {append(bytes.Clone(noMore), wellDone...), "it is empty"},
		"an archive without a word":  {append(tarred(t, "f"), noMore...), "lost"},
		"an archive without an end":  {append(tarred(t, "f"), wellDone...), "early"},
		"an archive of another name": {append(append(tarred(t, "g"), noMore...), wellDone...), "\"g\""},
		"a name that climbs":         {append(append(tarred(t, "../f"), noMore...), wellDone...), "\"../f\""},
		"credit for its own stream":  {frames(agentwire.KindCredit, agentwire.Credit{Stream: agentwire.KindStdout, Bytes: 1}.Payload()), "invalid frame"},
		"words for a terminal":       {append(bytes.Clone(noMore), badlyDone...), "[2Jgone"},
		"an exit":                    {frames(agentwire.KindExit, agentwire.Exit{}.Payload()), "invalid frame"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			dst := filepath.Join(parent, "dst")
			_, err := copier(c.reply).CopyFrom(t.Context(), "/f", dst, guest.CopyOptions{})
			if err == nil || !strings.Contains(err.Error(), c.word) || strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("got %q, want %q in it", err, c.word)
			}
			if entries, err := os.ReadDir(parent); err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != "dst" {
				t.Errorf("%v, %v", entries, err)
			}
		})
	}
}

func TestAnAgentThatEndsACopyEarlyHasNotCopied(t *testing.T) {
	t.Parallel()
	src := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(src, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := copier(wellDone).CopyTo(t.Context(), src, "/f", guest.CopyOptions{}); err == nil {
		t.Error("4 MiB were copied with credit for a window")
	}
	stopped := frames(agentwire.KindStdinEnd, []byte{}, agentwire.KindCopied, []byte(`{"reason":"no-space","message":"full"}`))
	var theirs *guest.CopyError
	if _, err := copier(stopped).CopyTo(t.Context(), src, "/f", guest.CopyOptions{}); !errors.As(err, &theirs) || theirs.Reason != guest.NoSpace {
		t.Errorf("a full guest: %v", err)
	}
}

func TestWhatAGuestSkippedIsShortAndPrintable(t *testing.T) {
	t.Parallel()
	names := `"\u001b[2J` + strings.Repeat("x", 900) + `"` + strings.Repeat(`,"more"`, 999)
	reply := append(append(tarred(t, "f"), noMore...), frames(agentwire.KindCopied, []byte(`{"skipped":[`+names+`]}`))...)
	report, err := copier(reply).CopyFrom(t.Context(), "/f", t.TempDir(), guest.CopyOptions{})
	if err != nil || report.Files != 1 || len(report.Skipped) > 300 || len(report.Skipped[0]) > 512 || strings.ContainsRune(report.Skipped[0], 0x1b) {
		t.Errorf("%v, %d names", err, len(report.Skipped))
	}
}

func FuzzCopyFrom(f *testing.F) {
	f.Add(append(append(tarred(f, "f"), noMore...), wellDone...))
	f.Add(append(bytes.Clone(noMore), badlyDone...))
	f.Fuzz(func(t *testing.T, reply []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := copier(reply).CopyFrom(ctx, "/f", t.TempDir(), guest.CopyOptions{})
		if errors.Is(err, context.DeadlineExceeded) {
			t.Fatal("it hangs")
		}
	})
}
