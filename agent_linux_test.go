package smartvm

import (
	"io"
	"net"
	"path/filepath"
	"testing"

	"smartvm/internal/agentwire"
	"smartvm/internal/unixsock"
)

func TestAGuestCannotFloodTheHostWithGreetings(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "v.sock")
	link, err := listenForGuest(socket, false)
	if err != nil {
		t.Fatal(err)
	}
	defer link.close()
	address := link.listener.Addr().String()
	var silent []net.Conn
	for range maxGreetings {
		conn, err := unixsock.Dial(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	one, err := unixsock.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	if n, err := one.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("one connection too many is not closed: %d, %v", n, err)
	}
	select {
	case <-link.up:
		t.Error("a guest that said nothing counts as up")
	default:
	}
	if _, err := silent[0].Write([]byte("\xff\xff\xff\xff\xffgarbage")); err != nil {
		t.Fatal(err)
	}
	if n, err := silent[0].Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("garbage was answered: %d, %v", n, err)
	}
}

// A guest on the serial port says that it is up again when it was restored. That must not hand its agent out before it has
// the time and entropy of its own.
func TestAHelloDoesNotMakeARestoredGuestReady(t *testing.T) {
	t.Parallel()
	for _, restored := range []bool{false, true} {
		link, err := listenForGuest(filepath.Join(t.TempDir(), "v.sock"), restored)
		if err != nil {
			t.Fatal(err)
		}
		defer link.close()
		conn, err := unixsock.Dial(t.Context(), link.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		hello := agentwire.NewConn(conn)
		if err := hello.Send(agentwire.KindHello, agentwire.Encode(agentwire.Hello{Protocol: agentwire.Protocol, Boot: "x"})); err != nil {
			t.Fatal(err)
		}
		if _, err := hello.Next(); err != nil { // acknowledged
			t.Fatal(err)
		}
		if _, err := hello.Next(); err != io.EOF { // and dealt with
			t.Fatal(err)
		}
		if !restored {
			<-link.up
			continue
		}
		link.close()
		<-link.idle
		select {
		case <-link.up:
			t.Error("a restored guest is ready by its hello alone")
		default:
		}
	}
}
