package firecracker

import (
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// This test binary, run with Firecracker's flag first, is a VMM that misbehaves in the way that the next argument names.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "--api-sock" {
		misbehave(os.Args[2], os.Args[3])
		os.Exit(0)
	}
	// What this process got from a careless parent must not be mistaken for what Start hands on.
	unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	os.Exit(m.Run())
}

func misbehave(socket, how string) {
	listen := func() net.Listener {
		l, err := net.Listen("unix", socket)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false) // as Firecracker
		return l
	}
	forever := make(chan struct{})
	switch how {
	case "stubborn": // serves, and ends by SIGKILL alone
		signal.Ignore(syscall.SIGTERM)
		fallthrough
	case "obedient":
		http.Serve(listen(), http.HandlerFunc(answerLikeFirecracker))
	case "paused":
		http.Serve(listen(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/actions" {
				fmt.Println("keys were pressed")
			}
			answer(w, r, StatePaused)
		}))
	case "early":
		fmt.Println("on stdout")
		fmt.Fprintln(os.Stderr, "Error: \x1b[31mBadConfiguration")
		os.Exit(152)
	case "killed":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		<-forever
	case "unfiltered", "open filter", "trapping filter", "refusing filter", "killing filter":
		filterAPIThread(how)
		http.Serve(listen(), http.HandlerFunc(answerLikeFirecracker))
	case "never":
		fmt.Println("waiting")
		unix.Pause() // not select {}: without cgo the runtime calls that a deadlock
	case "deaf": // binds, and does not listen
		fd, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		unix.Bind(fd, &unix.SockaddrUnix{Name: socket})
		fmt.Println("waiting")
		unix.Pause() // not select {}: without cgo the runtime calls that a deadlock
	case "mute": // listens, and says nothing
		l := listen()
		fmt.Println("waiting")
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	case "hangup": // ends when it is asked
		l := listen()
		conn, _ := l.Accept()
		conn.Read(make([]byte, 1))
		fmt.Fprintln(os.Stderr, "thread panicked")
		os.Exit(134)
	case "garbage":
		l := listen()
		conn, _ := l.Accept()
		conn.Read(make([]byte, 1))
		io.WriteString(conn, "\x00\x01\x02")
		conn.Close()
		<-forever
	case "unsafe":
		http.Serve(listen(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"firecracker_version":"1.15.0"}`)
		}))
	case "surroundings": // tells what it was given, and serves
		flags, _ := unix.FcntlInt(1, unix.F_GETFL, 0)
		sid, _ := unix.Getsid(0)
		wd, _ := os.Getwd()
		null, _ := os.Readlink("/proc/self/fd/0")
		fds, _ := os.ReadDir("/proc/self/fd")
		fmt.Printf("%q env=%q wd=%s session=%v nonblock=%v stdin=%s fds=%d\n", os.Args[4:], os.Environ(), wd,
			sid == os.Getpid(), flags&unix.O_NONBLOCK != 0, null, countOpen(fds))
		http.Serve(listen(), http.HandlerFunc(answerLikeFirecracker))
	}
}

// countOpen leaves out what Go itself opens in this process: its poller, and the folder that is read.
func countOpen(fds []os.DirEntry) (n int) {
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && !strings.HasPrefix(target, "anon_inode:") && !strings.HasPrefix(target, "/proc/") &&
			!strings.HasPrefix(target, "socket:") && !strings.HasPrefix(target, "/sys/") {
			n++
		}
	}
	return n
}

func answerLikeFirecracker(w http.ResponseWriter, r *http.Request) { answer(w, r, StateRunning) }

func answer(w http.ResponseWriter, r *http.Request, state State) {
	switch {
	case r.URL.Path == "/version":
		io.WriteString(w, `{"firecracker_version":"1.16.1"}`)
	case r.URL.Path == "/":
		fmt.Fprintf(w, `{"state":%q,"app_name":"Firecracker"}`, state)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}
