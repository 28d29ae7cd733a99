package smartvm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/firecracker"
)

// awful are the ways in which a VMM can misbehave. The test binary plays the VMM: it is started under the name of the way,
// see PlayVMM.
var awful = map[string]func(socket string){
	"awful-dies": func(string) {
		os.Stderr.WriteString("no such luck\n")
		os.Exit(148)
	},
	"awful-never-listens": func(string) { unix.Pause() }, // not select {}: without cgo the runtime calls that a deadlock
	"awful-says-nothing":  func(socket string) { serve(socket, func(c net.Conn) { io.Copy(io.Discard, c) }) },
	"awful-garbage": func(socket string) {
		serve(socket, func(c net.Conn) { c.Write([]byte("\x00\xffthis is no HTTP\r\n\r\n")) })
	},
	"awful-half-a-reply": func(socket string) {
		serve(socket, func(c net.Conn) {
			readRequest(c)
			c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"firecracker_ver"))
		})
	},
	"awful-endless-reply": func(socket string) {
		serve(socket, func(c net.Conn) {
			readRequest(c)
			c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 4000000000\r\n\r\n"))
			for {
				if _, err := c.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		})
	},
	"awful-is-vulnerable": func(socket string) { answerVersion(socket, "1.15.0") },
	"awful-is-ancient":    func(socket string) { answerVersion(socket, "0.25.2") },
	"awful-hangs-later": func(socket string) {
		serve(socket, func(c net.Conn) {
			readRequest(c)
			reply(c, `{"firecracker_version":"1.16.1"}`)
			io.Copy(io.Discard, c)
		})
	},
}

// diesAt is a VMM that is killed when its nth request has come in, the first being the version's.
func diesAt(n int) func(socket string) {
	return func(socket string) {
		serve(socket, func(c net.Conn) {
			for i := 1; readRequest(c); i++ {
				switch {
				case i == n:
					syscall.Kill(os.Getpid(), syscall.SIGKILL)
				case i == 1:
					reply(c, `{"firecracker_version":"1.16.1"}`)
				default:
					io.WriteString(c, "HTTP/1.1 204\r\n\r\n")
				}
			}
		})
	}
}

// endsWell is a VMM whose guest reboots as soon as it was started.
func endsWell(socket string) {
	serve(socket, func(c net.Conn) {
		for i := 1; readRequest(c); i++ {
			if i == 1 {
				reply(c, `{"firecracker_version":"1.16.1"}`)
				continue
			}
			io.WriteString(c, "HTTP/1.1 204\r\n\r\n")
			if i == startRequests {
				os.Exit(0)
			}
		}
	})
}

// startRequests is how many requests a start of smallConfig takes: version, machine, boot source, InstanceStart.
const startRequests = 4

// PlayVMM plays a VMM for ever when this process was started as one, and returns false otherwise.
func PlayVMM() bool {
	name := filepath.Base(os.Args[0])
	play, ok := awful[name]
	if name == "ends-well" {
		play, ok = endsWell, true
	}
	if n, numbered := strings.CutPrefix(name, "awful-dies-at-"); numbered {
		at, _ := strconv.Atoi(n)
		play, ok = diesAt(at), true
	}
	if !ok {
		return false
	}
	for i, arg := range os.Args {
		if arg == "--api-sock" {
			play(os.Args[i+1])
		}
	}
	return true
}

func serve(socket string, handle func(net.Conn)) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		os.Exit(2)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			os.Exit(3)
		}
		go func() {
			defer conn.Close()
			handle(conn)
		}()
	}
}

func answerVersion(socket, version string) {
	serve(socket, func(c net.Conn) {
		for readRequest(c) {
			reply(c, `{"firecracker_version":"`+version+`"}`)
		}
	})
}

func readRequest(c net.Conn) bool {
	n, err := c.Read(make([]byte, 64<<10))
	return err == nil && n > 0
}

func reply(c net.Conn, body string) {
	fmt.Fprintf(c, "HTTP/1.1 200\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func TestAnAwfulVMMIsAClearErrorAndLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		code Code
		text string
	}{
		"awful-dies":          {SocketTimeout, "no such luck"},
		"awful-never-listens": {SocketTimeout, "nobody listens"},
		"awful-says-nothing":  {APITimeout, "no answer after"},
		"awful-garbage":       {APITimeout, "/version"},
		"awful-half-a-reply":  {APITimeout, "/version"},
		"awful-endless-reply": {APITimeout, "/version"},
		"awful-is-vulnerable": {UnsafeVersion, "CVE-2026-5747"},
		"awful-is-ancient":    {UnsafeVersion, "0.25.2"},
		"awful-hangs-later":   {SocketRequestFailed, "/machine-config"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newTestManager(t, Options{FirecrackerBinary: playing(t, name), NoJail: true})
			vm := create(t, m, smallConfig(t))
			err := vm.Start(t.Context())
			wantCode(t, err, want.code)
			if !strings.Contains(err.Error(), want.text) {
				t.Errorf("%q is not in: %v", want.text, err)
			}
			wantNothingLeft(t, m, vm)
		})
	}
}

// playing returns a binary that plays the VMM of this name.
func playing(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, binary); err != nil {
		t.Fatal(err)
	}
	return binary
}

func TestAVMMThatDiesAtOnceTellsItsExitCodeAndWhatItMeans(t *testing.T) {
	t.Parallel()
	vm := create(t, newTestManager(t, Options{FirecrackerBinary: playing(t, "awful-dies"), NoJail: true}), smallConfig(t))
	err := vm.Start(t.Context())
	var start *firecracker.StartError
	if !errors.As(err, &start) || start.Exit == nil || start.Exit.Code != 148 || !strings.Contains(err.Error(), "seccomp") {
		t.Errorf("%v does not tell that the exit code was 148, a seccomp violation", err)
	}
}

func TestAVMMThatIsKilledAtAnyStepOfAStartLeavesNothing(t *testing.T) {
	t.Parallel()
	for n := 1; n <= startRequests+1; n++ {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			m := newTestManager(t, Options{FirecrackerBinary: playing(t, fmt.Sprintf("awful-dies-at-%d", n)), NoJail: true})
			vm := create(t, m, smallConfig(t))
			err := vm.Start(t.Context())
			if n > startRequests {
				if err != nil {
					t.Fatalf("a start has more requests than %d: %v", startRequests, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "SIGKILL") {
				t.Errorf("%v does not tell how the VMM ended", err)
			}
			if code := CodeOf(err); code != VMMExited && code != APITimeout {
				t.Errorf("code %s", code)
			}
			wantNothingLeft(t, m, vm)
		})
	}
}

func TestAVMWhoseGuestEndedStartsAgainAtOnce(t *testing.T) {
	t.Parallel()
	m := newTestManager(t, Options{FirecrackerBinary: playing(t, "ends-well"), NoJail: true})
	vm := create(t, m, smallConfig(t))
	for range 20 {
		if err := vm.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if in, err := vm.attach(vm.look().rec, vm.look().jour); err == nil {
			<-in.process.Done() // and no longer: what stood around the process may still be there
		}
	}
}

func TestARequestThatWasNeverSentIsNoFaultOfTheSocket(t *testing.T) {
	onEachVMM(t, func(t *testing.T, m *Manager) {
		vm := start(t, m, smallConfig(t))
		wantCode(t, vm.UpdateInterface(t.Context(), "eth-0", nil, nil), InvalidConfig)
		wantCode(t, vm.SetMetadata(t.Context(), make(chan int)), InvalidConfig)
		wantState(t, vm, Running)
	})
}
