package microhttp

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// deliver feeds a stream in pieces of at most size bytes and returns what came out, as text.
func deliver(stream string, size, limit int) (out []string) {
	c := &connection{limit: limit}
	for len(stream) > 0 {
		n := copy(c.free(), stream[:min(size, len(stream))])
		if n == 0 {
			return append(out, "overflow")
		}
		stream = stream[n:]
		requests, continues, err := c.feed(n)
		for range continues {
			out = append(out, "100")
		}
		if err != nil {
			out = append(out, "fault: "+err.Error())
			continue
		}
		for _, r := range requests {
			out = append(out, r.Method+" "+r.Path+" "+string(r.Body))
		}
	}
	return out
}

func TestAStreamIsTakenApartAsMicroHTTPDoes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2000)
	for name, tc := range map[string]struct {
		stream string
		want   []string
	}{
		"two requests at once":       {"GET /a HTTP/1.1\r\n\r\nGET http://h/b HTTP/1.0\r\nHost: x\r\n\r\n", []string{"GET /a ", "GET /b "}},
		"a body":                     {"PUT /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\n\r\n", []string{"PUT /a hello", "GET /b "}},
		"a body over many reads":     {"PUT /a HTTP/1.1\r\ncontent-length : 2000\r\n\r\n" + long, []string{"PUT /a " + long}},
		"expect":                     {"PUT /a HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi", []string{"100", "PUT /a hi"}},
		"no body to wait for":        {"PUT /a HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", []string{"PUT /a "}},
		"garbage, then sense":        {"GARBAGE\r\n", []string{"fault: Invalid request."}},
		"a method":                   {"POST / HTTP/1.1\r\n", []string{"fault: Invalid HTTP Method: Unsupported HTTP method."}},
		"a version":                  {"GET / HTTP/2\r\n", []string{"fault: Invalid HTTP Version: Unsupported HTTP version."}},
		"no URI":                     {"GET  HTTP/1.1\r\n", []string{"fault: Invalid URI: Empty URI not allowed."}},
		"a relative URI":             {"GET a HTTP/1.1\r\n\r\n", []string{"GET  "}},
		"a length":                   {"PUT / HTTP/1.1\r\nContent-Length: -1\r\n", []string{"fault: Invalid header. Reason: Invalid value. Key:Content-Length; Value: -1"}},
		"too much":                   {"PUT / HTTP/1.1\r\nContent-Length: 51201\r\n\r\n", []string{"fault: Request payload with size 51201 is larger than the limit of 51200 allowed by server."}},
		"a header without colon":     {"GET / HTTP/1.1\r\nnonsense\r\n", []string{"fault: Invalid header. Reason: Header is incorrectly formatted. Key: nonsense"}},
		"headers that do not matter": {"GET / HTTP/1.1\r\nContent-Type: x\r\nTransfer-Encoding: chunked\r\nAccept: x\r\n\r\n", []string{"GET / "}},
	} {
		sizes := []int{1, 7, 4096}
		if strings.HasPrefix(tc.want[0], "fault") {
			sizes = sizes[2:] // after a fault the connection would read on in the middle
		}
		for _, size := range sizes {
			if diff := cmp.Diff(tc.want, deliver(tc.stream, size, DefaultPayloadLimit)); diff != "" {
				t.Errorf("%s, %d bytes at a time: (-want +got)\n%s", name, size, diff)
			}
		}
	}
}

func TestALineOfMoreThan1024BytesIsRefused(t *testing.T) {
	t.Parallel()
	if got := deliver("GET /"+strings.Repeat("x", 2000), 4096, 10); len(got) == 0 || got[0] != "fault: Invalid request." {
		t.Errorf("request line: %q", got)
	}
	got := deliver("GET / HTTP/1.1\r\nA: "+strings.Repeat("x", 2000), 4096, 10)
	if len(got) == 0 || !strings.HasPrefix(got[0], "fault: Invalid header. Reason: Invalid content length. Header: A: xxx") {
		t.Errorf("header: %.100q", got)
	}
}

func TestRepliesHaveMicroHTTPsForm(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]*Response{
		"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nDeprecation: true\r\n\r\n": {Status: 204, Deprecated: true},
		"HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}": {
			Status: 200, Body: []byte("{}")},
	} {
		if got := string(r.append(nil, "HTTP/1.1")); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

// FuzzConnection feeds streams in pieces: nothing may panic, a body is as long as its header says, and none exceeds the
// limit.
func FuzzConnection(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint16(3))
	f.Add([]byte("PUT /a HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhelloGET /b HTTP/1.1\r\n\r\n"), uint16(7))
	f.Add([]byte("\r\n\r\n\r\n"), uint16(1))
	f.Add(bytes.Repeat([]byte("a"), 3000), uint16(1024))
	f.Add([]byte("PUT / HTTP/1.1\r\nContent-Length: 4294967295\r\n\r\n"), uint16(9))
	f.Add([]byte("GET / HTTP/1.1\r\nA\xff: b\r\n\r\n"), uint16(50))
	f.Fuzz(func(t *testing.T, stream []byte, size uint16) {
		const limit = 100
		c := &connection{limit: limit}
		for len(stream) > 0 {
			n := copy(c.free(), stream[:min(int(size)+1, len(stream))])
			if n == 0 {
				return
			}
			stream = stream[n:]
			requests, _, err := c.feed(n)
			for _, r := range requests {
				if err == nil && (len(r.Body) != int(r.length) || len(r.Body) > limit) {
					t.Fatalf("a body of %d bytes, the header says %d", len(r.Body), r.length)
				}
			}
		}
	})
}
