// Package microhttp is an HTTP server over a Unix socket that behaves as Firecracker's does (its crate micro_http): the
// same limits, the same words for the same faults, one thread, one request at a time. What a client may rely on with
// Firecracker holds here, and what breaks there breaks here too.
package microhttp

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Request is one request. Body is nil when there is none; an empty body cannot be told from it.
type Request struct {
	Method string // GET, PUT, PATCH or DELETE
	Path   string // the absolute path, "" if the URI has none
	Body   []byte

	version string
	expect  bool
	length  uint32
}

// parseError is a fault in the protocol, in micro_http's words.
type parseError string

func (e parseError) Error() string { return string(e) }

const (
	errInvalidRequest = parseError("Invalid request.")
	errOverflow       = parseError("Overflow occurred when parsing a request.")
)

// parseRequestLine reads the first line of a request, without its CR LF.
func parseRequestLine(line []byte) (*Request, error) {
	method, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return nil, errInvalidRequest
	}
	uri, version, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return nil, errInvalidRequest
	}
	switch string(method) {
	case "GET", "PUT", "PATCH", "DELETE":
	default:
		return nil, parseError("Invalid HTTP Method: Unsupported HTTP method.")
	}
	switch {
	case len(uri) == 0:
		return nil, parseError("Invalid URI: Empty URI not allowed.")
	case !utf8.Valid(uri):
		return nil, parseError("Invalid URI: Cannot parse URI as UTF-8.")
	}
	switch string(version) {
	case "HTTP/1.0", "HTTP/1.1":
	default:
		return nil, parseError("Invalid HTTP Version: Unsupported HTTP version.")
	}
	return &Request{Method: string(method), Path: absolutePath(string(uri)), version: string(version)}, nil
}

// absolutePath takes scheme and host off a URI. A URI with neither them nor a leading slash has no path.
func absolutePath(uri string) string {
	if rest, ok := strings.CutPrefix(uri, "http://"); ok {
		i := strings.IndexByte(rest, '/')
		if i < 0 {
			return ""
		}
		return rest[i:]
	}
	if strings.HasPrefix(uri, "/") {
		return uri
	}
	return ""
}

// parseHeader reads one header line. Unknown headers are skipped, as are known ones whose value is not supported.
func (r *Request) parseHeader(line []byte) error {
	if !utf8.Valid(line) {
		return headerError("Header contains invalid characters. Key: " + utf8Error(line))
	}
	key, value, ok := strings.Cut(string(line), ":")
	if !ok {
		return headerError("Header is incorrectly formatted. Key: " + key)
	}
	switch strings.ToLower(strings.TrimSpace(key)) {
	case "content-length":
		n, err := parseUint32(strings.TrimSpace(value))
		if err != nil {
			return headerError(fmt.Sprintf("Invalid value. Key:%s; Value:%s", key, value))
		}
		r.length = n
	case "expect":
		if strings.TrimSpace(value) == "100-continue" {
			r.expect = true
		}
	case "accept-encoding":
		return parseAcceptEncoding(strings.TrimSpace(value))
	}
	return nil
}

func headerError(text string) error { return parseError("Invalid header. Reason: " + text) }

// parseUint32 reads a number as Rust does: one plus sign is allowed.
func parseUint32(s string) (uint32, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 32)
	return uint32(min(n, math.MaxUint32)), err
}

// parseAcceptEncoding refuses only a client that rules out the plain encoding.
func parseAcceptEncoding(value string) error {
	if value == "" {
		return errInvalidRequest
	}
	for encoding := range strings.SplitSeq(value, ",") {
		e := strings.TrimSpace(encoding)
		if e == "identity;q=0" || e == "*;q=0" && !strings.Contains(value, "identity") {
			return headerError(fmt.Sprintf("Invalid value. Key:Accept-Encoding; Value:%s", encoding))
		}
	}
	return nil
}

// utf8Error describes the first invalid byte in the words of Rust's Utf8Error.
func utf8Error(b []byte) string {
	valid := 0
	for valid < len(b) {
		r, n := utf8.DecodeRune(b[valid:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		valid += n
	}
	if !utf8.FullRune(b[valid:]) {
		return fmt.Sprintf("incomplete utf-8 byte sequence from index %d", valid)
	}
	bad := 1
	for bad < 4 && valid+bad < len(b) && !utf8.FullRune(b[valid:valid+bad]) {
		bad++
	}
	return fmt.Sprintf("invalid utf-8 sequence of %d bytes from index %d", max(1, bad-1), valid)
}
