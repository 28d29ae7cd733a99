package firecracker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAVersionIsReadOnceWhenTheGateNeedsIt(t *testing.T) {
	t.Parallel()
	asked := 0
	server := startVMM(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			asked++
			io.WriteString(w, `{"firecracker_version":"1.15.1"}`)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	client := server.client(t)
	plain := NetworkInterface{IfaceID: "eth0", HostDevName: "tap0"}
	if err := client.PutNetworkInterface(t.Context(), plain); err != nil || asked != 0 {
		t.Fatalf("a request that every version knows: %v, version asked %d times", err, asked)
	}
	plain.MTU = 1400
	for range 2 {
		err := client.PutNetworkInterface(t.Context(), plain)
		want := &UnsupportedFieldError{Field: "network-interfaces.mtu", Since: Version{1, 16, 0, ""}, Running: Version{1, 15, 1, ""}}
		var got *UnsupportedFieldError
		if !errors.As(err, &got) || *got != *want {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
	if asked != 1 {
		t.Errorf("the version was asked for %d times", asked)
	}
}

func TestTheGateNamesWhatIsTooNew(t *testing.T) {
	t.Parallel()
	server := startVMM(t, nil)
	for _, test := range []struct {
		running, want string // want: the field and its version, "" when it is sent
		call          func(context.Context, *Client) error
	}{
		{"1.13.1", "PUT /serial 1.14.0", func(ctx context.Context, c *Client) error { return c.PutSerial(ctx, Serial{}) }},
		{"1.15.1", "", func(ctx context.Context, c *Client) error { return c.PutSerial(ctx, Serial{SerialOutPath: "s"}) }},
		{"1.13.1", "serial.rate_limiter 1.16.0", func(ctx context.Context, c *Client) error {
			return c.PutSerial(ctx, Serial{RateLimiter: &TokenBucket{}})
		}},
		{"1.12.1", "mmds/config.imds_compat 1.13.0", func(ctx context.Context, c *Client) error {
			return c.PutMMDSConfig(ctx, MMDSConfig{IMDSCompat: true})
		}},
		{"1.12.1", "", func(ctx context.Context, c *Client) error { return c.PutMMDSConfig(ctx, MMDSConfig{}) }},
		{"1.13.2", "balloon.free_page_hinting 1.14.0", func(ctx context.Context, c *Client) error {
			return c.PutBalloon(ctx, Balloon{FreePageHinting: true})
		}},
		{"1.14.4", "snapshot/load.clock_realtime 1.15.1", func(ctx context.Context, c *Client) error {
			return c.LoadSnapshot(ctx, SnapshotLoad{ClockRealtime: true, TrackDirtyPages: true})
		}},
		{"1.11.0", "snapshot/load.network_overrides 1.12.0", func(ctx context.Context, c *Client) error {
			return c.LoadSnapshot(ctx, SnapshotLoad{NetworkOverrides: []NetworkOverride{{}}})
		}},
		{"1.15.1", "PATCH /pmem/{id} 1.16.0", func(ctx context.Context, c *Client) error {
			return c.PatchPmem(ctx, PmemUpdate{ID: "p"})
		}},
		{"1.17.0-dev", "", func(ctx context.Context, c *Client) error { return c.PatchPmem(ctx, PmemUpdate{ID: "p"}) }},
		{"1.15.1", "network-interfaces.mtu 1.16.0", func(ctx context.Context, c *Client) error {
			_, err := c.Do(ctx, "PUT", "/network-interfaces/eth0", map[string]any{"mtu": nil})
			return err
		}},
	} {
		client := server.client(t)
		running, err := ParseVersion(test.running)
		if err != nil {
			t.Fatal(err)
		}
		client.SetVersion(running)
		err = test.call(t.Context(), client)
		var refused *UnsupportedFieldError
		got := ""
		if errors.As(err, &refused) {
			got = refused.Field + " " + refused.Since.String()
		} else if err != nil {
			t.Errorf("%s: %v", test.running, err)
		}
		if got != test.want {
			t.Errorf("%s: refused %q, want %q", test.running, got, test.want)
		}
		if sent := server.last() != nil; sent != (test.want == "") {
			t.Errorf("%s: %q: sent: %v", test.running, test.want, sent)
		}
	}
}

func TestRequestsAreFramedAsFirecrackerWants(t *testing.T) {
	t.Parallel()
	server := startVMM(t, nil)
	client := server.client(t)
	client.SetVersion(Version{1, 16, 1, ""})
	if _, err := client.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := server.last(); r.length != 0 || len(r.body) != 0 || r.header.Get("Content-Type") != "" {
		t.Errorf("a GET with a body: %+v", r)
	}
	if err := client.PutEntropy(t.Context(), Entropy{}); err != nil {
		t.Fatal(err)
	}
	if r := server.last(); r.length != 2 || string(r.body) != "{}" || r.header.Get("Transfer-Encoding") != "" {
		t.Errorf("a PUT: %+v", r)
	}
	if err := client.StopBalloonHinting(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := server.last(); r.length != 0 || len(r.body) != 0 {
		t.Errorf("a PATCH without a body: %+v", r)
	}
}

func TestOneConnectionServesCallersThatComeAtOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	busy := false
	server := startVMM(t, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		overlaps := busy
		busy = true
		mu.Unlock()
		if overlaps {
			t.Error("two requests at once")
		}
		mu.Lock()
		busy = false
		mu.Unlock()
		io.WriteString(w, `{"state":"Running"}`)
	})
	client := server.client(t)
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			if info, err := client.Info(t.Context()); err != nil || info.State != StateRunning {
				t.Error(info, err)
			}
		})
	}
	callers.Wait()
	server.mu.Lock()
	defer server.mu.Unlock()
	if server.connections != 1 {
		t.Errorf("%d connections", server.connections)
	}
}

func TestARefusalSaysWhatFirecrackerSaid(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status      int
		body, fault string
	}{
		{400, `{"fault_message":"Invalid vcpu_count"}`, "Invalid vcpu_count"},
		{413, `{"fault_message":"too much"}`, "too much"},
		// micro_http's own errors hold a raw line end, and are no JSON for that.
		{400, "{ \"error\": \"Invalid header\nAll previous unanswered requests will be dropped.\" }",
			"Invalid header\nAll previous unanswered requests will be dropped."},
		{503, `{ "error": "Too many open connections" }`, "Too many open connections"},
		{502, "  a proxy's page  ", "a proxy's page"},
		{500, "", ""},
		{400, `[1,2]`, `[1,2]`},
		{400, "\xff\xfe bytes", " bytes"},
	} {
		server := startVMM(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(test.status)
			io.WriteString(w, test.body)
		})
		err := server.client(t).PutMetrics(t.Context(), Metrics{MetricsPath: "m"})
		var refused *APIError
		if !errors.As(err, &refused) {
			t.Errorf("%d %q: %v", test.status, test.body, err)
			continue
		}
		want := &APIError{Method: "PUT", Path: "/metrics", Status: test.status, Fault: test.fault, Body: []byte(test.body)}
		if diff := cmp.Diff(want, refused); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if !strings.HasPrefix(err.Error(), "PUT /metrics: the VMM answered ") {
			t.Error(err)
		}
	}
}

func TestDoHandsOverWhateverWasAnswered(t *testing.T) {
	t.Parallel()
	server := startVMM(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/text":
			io.WriteString(w, "no JSON")
		case "/refused":
			w.WriteHeader(400)
			io.WriteString(w, `{"fault_message":"no"}`)
		case "/away":
			http.Redirect(w, r, "/text", http.StatusFound)
		default:
			w.WriteHeader(204)
		}
	})
	client := server.client(t)
	for path, want := range map[string]Reply{
		"/text":    {Status: 200, Body: []byte("no JSON"), OK: true},
		"/refused": {Status: 400, Body: []byte(`{"fault_message":"no"}`)},
		"/empty":   {Status: 204, Body: []byte{}, OK: true},
	} {
		got, err := client.Do(t.Context(), "PUT", path, json.RawMessage(`{}`))
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	if got, err := client.Do(t.Context(), "GET", "/away", nil); err != nil || got.Status != http.StatusFound {
		t.Errorf("a redirect was followed: %+v %v", got, err)
	}
	if _, err := client.Do(t.Context(), "PUT", "/x", func() {}); err == nil {
		t.Error("a function was made JSON")
	}
}

func TestAnIDCannotNameAnotherPath(t *testing.T) {
	t.Parallel()
	server := startVMM(t, nil)
	client := server.client(t)
	client.SetVersion(Version{1, 16, 1, ""})
	for _, id := range []string{"", "..", "a/b", "a-b", "a?b", "ä", "a b", "a%2f", strings.Repeat("a", 3) + "\n"} {
		for name, err := range map[string]error{
			"drive":     client.PutDrive(t.Context(), Drive{DriveID: id}),
			"drive'":    client.PatchDrive(t.Context(), DriveUpdate{DriveID: id}),
			"pmem":      client.PutPmem(t.Context(), Pmem{ID: id}),
			"interface": client.PutNetworkInterface(t.Context(), NetworkInterface{IfaceID: id}),
		} {
			if err == nil {
				t.Errorf("%s with id %q was sent", name, id)
			}
		}
	}
	if r := server.last(); r != nil {
		t.Errorf("sent %s %s", r.method, r.path)
	}
}

func TestACallThatCannotBeSentSaysSo(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	_, err := NewClient(filepath.Join(dir, "no.sock")).Info(t.Context())
	var lost *TransportError
	if !errors.As(err, &lost) || lost.Sent || !strings.HasPrefix(err.Error(), "GET /: not sent: ") {
		t.Errorf("no socket: %v", err)
	}

	released := make(chan struct{})
	entered := make(chan struct{})
	server := startVMM(t, func(w http.ResponseWriter, _ *http.Request) { close(entered); <-released; w.Write([]byte("{}")) })
	client := server.client(t)
	first := make(chan error)
	go func() { _, err := client.Info(t.Context()); first <- err }()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = client.GetVMConfig(ctx)
	if !errors.As(err, &lost) || lost.Sent || !errors.Is(err, context.Canceled) {
		t.Errorf("while another call is under way: %v", err)
	}
	close(released)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestEveryCallHasALimitOfItsKind(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]time.Duration{
		"/": CallTimeout, "/drives/a": CallTimeout, "/vm": StateTimeout, "/vm/config": CallTimeout,
		"/actions": StartTimeout, "/snapshot/create": SnapshotTimeout, "/snapshot/load": SnapshotTimeout,
	} {
		if got := limit(path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

func TestAClientOutlivesItsConnection(t *testing.T) {
	t.Parallel()
	server := startVMM(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, "{}")
	})
	client := server.client(t)
	for range 3 {
		if _, err := client.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
		client.Close()
	}
}

// The HTTP server below the API may have lost its place in the stream when it refuses.
func TestAConnectionIsUsedAgainOnlyAfterTheAPIsOwnAnswers(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]int{`{"fault_message":"no"}`: 1, "{ \"error\": \"lost\nAll previous…\" }": 2, "": 2} {
		server := startVMM(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			io.WriteString(w, body)
		})
		client := server.client(t)
		for range 2 {
			if err := client.InstanceStart(t.Context()); err == nil {
				t.Error("a refusal is no error")
			}
		}
		server.mu.Lock()
		if server.connections != want {
			t.Errorf("%q: %d connections, want %d", body, server.connections, want)
		}
		server.mu.Unlock()
	}
}

func TestACloseDuringACallLeavesNoConnection(t *testing.T) {
	t.Parallel()
	var client *Client
	server := startVMM(t, func(w http.ResponseWriter, _ *http.Request) {
		client.Close()
		io.WriteString(w, "{}")
	})
	client = server.client(t)
	if _, err := client.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	if client.idle != nil {
		t.Error("the connection was kept")
	}
}
