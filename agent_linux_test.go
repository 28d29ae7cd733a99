package smartvm

import (
	"io"
	"net"
	"path/filepath"
	"testing"

	"smartvm/internal/unixsock"
)

func TestAGuestCannotFloodTheHostWithGreetings(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "v.sock")
	link, err := listenForGuest(socket)
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
