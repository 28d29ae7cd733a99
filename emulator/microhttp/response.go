package microhttp

import "strconv"

// Response is the answer to a request. A Body makes it JSON.
type Response struct {
	Status int
	Body   []byte
	// Deprecated adds the header `Deprecation: true`.
	Deprecated bool
}

// append writes the response: a status line without a reason, the headers in micro_http's order, the body.
func (r *Response) append(b []byte, version string) []byte {
	b = append(b, version...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, " \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"...)
	if r.Deprecated {
		b = append(b, "Deprecation: true\r\n"...)
	}
	if r.Status != 100 && r.Status != 204 {
		b = append(b, "Content-Type: application/json\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(r.Body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	return append(b, r.Body...)
}

// faultResponse answers a fault in the protocol. Its body is no JSON, as Firecracker's is none: the line feed is not
// escaped.
func faultResponse(err error) *Response {
	return &Response{Status: 400, Body: []byte("{ \"error\": \"" + err.Error() +
		"\nAll previous unanswered requests will be dropped.\" }")}
}

// full is what the eleventh connection reads before it is closed.
const full = "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n" +
	`{ "error": "Too many open connections" }`
