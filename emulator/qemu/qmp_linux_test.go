package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// scripted returns a client whose peer answers each line that it reads with what answer makes of it.
func scripted(t *testing.T, answer func(request) string) (*qmp, net.Conn, <-chan event) {
	t.Helper()
	ours, end, err := socketpair("control")
	do(t, "socketpair", err)
	peer, err := net.FileConn(end)
	do(t, "FileConn", err)
	end.Close()
	t.Cleanup(func() { peer.Close() })
	events := make(chan event, 8)
	q := newQMP(ours, func(e event) { events <- e })
	t.Cleanup(func() { q.fail(net.ErrClosed) })
	io.WriteString(peer, `{"QMP": {"version": {}, "capabilities": []}}`+"\r\n")
	go func() {
		in := json.NewDecoder(bufio.NewReader(peer))
		for {
			var r request
			if in.Decode(&r) != nil {
				return
			}
			io.WriteString(peer, answer(r))
		}
	}()
	return q, peer, events
}

func TestQMPGivesEachCommandItsOwnAnswer(t *testing.T) {
	t.Parallel()
	var held string
	q, _, events := scripted(t, func(r request) string {
		switch r.Execute {
		case "first": // answered after the second
			held = fmt.Sprintf(`{"return": 1, "id": %d}`+"\n", r.ID)
			return `{"event": "STOP", "data": {"a": 1}, "timestamp": {}}` + "\n"
		case "second":
			return fmt.Sprintf(`{"return": {}, "id": %d}`+"\n%s", r.ID, held)
		}
		return fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "no such thing"}, "id": %d}`+"\n", r.ID)
	})
	first, err := q.send("first", nil, nil)
	do(t, "send", err)
	if e := <-events; e.Name != "STOP" || string(e.Data) != `{"a": 1}` {
		t.Errorf("the event is %+v", e)
	}
	if got, err := q.execute(t.Context(), "second", map[string]any{"x": 1}, nil); err != nil || string(got) != "{}" {
		t.Errorf("second: %s, %v", got, err)
	}
	if m := <-first; string(m.Return) != "1" {
		t.Errorf("first: %s", m.Return)
	}
	_, err = q.execute(t.Context(), "third", nil, nil)
	var refused *commandError
	if !errors.As(err, &refused) || refused.Reason != "no such thing" {
		t.Errorf("third: %v", err)
	}
}

func TestQMPEndsWithWhatIsNotTheProtocol(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"garbage":            "no json\n",
		"no answer":          "{}\n",
		"no result":          `{"id": 1}` + "\n",
		"another's answer":   `{"return": {}, "id": 7}` + "\n",
		"a message too long": `{"return": "` + strings.Repeat("x", maxMessage) + `", "id": 1}` + "\n",
		"a list":             "[1, 2]\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, _, _ := scripted(t, func(request) string { return answer })
			if _, err := q.execute(t.Context(), "stop", nil, nil); err == nil || !strings.Contains(err.Error(), "broke its protocol") {
				t.Errorf("the error is %v", err)
			}
			if _, err := q.execute(t.Context(), "cont", nil, nil); err == nil {
				t.Error("the client goes on")
			}
		})
	}
}

func TestQMPWaitsNoLongerThanItsTimeAndItsCallers(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	q, peer, _ := scripted(t, func(r request) string {
		<-release
		return fmt.Sprintf(`{"return": {}, "id": %d}`+"\n", r.ID)
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.execute(ctx, "stop", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	q.timeout.Store(int64(time.Millisecond))
	if _, err := q.execute(t.Context(), "stop", nil, nil); !errors.Is(err, errHung) {
		t.Errorf("the error is %v", err)
	}
	// Late answers to both are no breach.
	q.timeout.Store(int64(guestTimeout))
	close(release)
	if _, err := q.execute(t.Context(), "stop", nil, nil); err != nil {
		t.Errorf("the error is %v", err)
	}
	peer.(*net.UnixConn).CloseWrite()
	<-q.done
	if _, err := q.execute(t.Context(), "stop", nil, nil); err == nil || !strings.Contains(err.Error(), "closed its control socket") {
		t.Errorf("the error is %v", err)
	}
}

func TestQMPHandsAFileAlong(t *testing.T) {
	t.Parallel()
	ours, end, err := socketpair("control")
	do(t, "socketpair", err)
	peer, err := net.FileConn(end)
	do(t, "FileConn", err)
	end.Close()
	defer peer.Close()
	q := newQMP(ours, func(event) {})
	defer q.fail(net.ErrClosed)
	read, write, err := os.Pipe()
	do(t, "Pipe", err)
	defer read.Close()
	defer write.Close()
	_, err = q.send("getfd", map[string]any{"fdname": "state"}, write)
	do(t, "send", err)
	text, rights := make([]byte, 1024), make([]byte, 1024)
	n, rn, _, _, err := peer.(*net.UnixConn).ReadMsgUnix(text, rights)
	if err != nil || rn == 0 {
		t.Fatalf("%q came with %d bytes of rights, %v", text[:n], rn, err)
	}
	if want := `{"execute":"getfd","arguments":{"fdname":"state"},"id":1}`; string(text[:n]) != want {
		t.Errorf("the command is %s", text[:n])
	}
	closeRights(t, rights[:rn])
}
