package microhttp

import (
	"bytes"
	"fmt"
	"strings"
)

const (
	// bufferSize bounds one line of a request, its CR LF included (micro_http's BUFFER_SIZE).
	bufferSize = 1024
	// DefaultPayloadLimit bounds a body (micro_http's MAX_PAYLOAD_SIZE).
	DefaultPayloadLimit = 51200
)

type state byte

const (
	inRequestLine state = iota
	inHeaders
	inBody
	ready
)

// connection takes a stream of bytes apart into requests. It keeps its state after a fault, as micro_http's does: the
// bytes in the buffer are forgotten, what was being parsed goes on with the next ones.
type connection struct {
	limit   int // of a body
	state   state
	buffer  [bufferSize]byte
	filled  int // bytes in buffer that wait for more
	request *Request
	body    []byte
	missing uint32 // bytes of the body to come
}

// free is where the next bytes of the stream go; empty if a line has filled the buffer.
func (c *connection) free() []byte { return c.buffer[c.filled:] }

// feed takes n bytes that were read into free() and returns the requests that they complete, or the first fault.
// Interim responses ("100 Continue") are due for continues of the requests that wait for their bodies.
func (c *connection) feed(n int) (requests []*Request, continues []*Request, err error) {
	end, start := c.filled+n, 0
	for {
		var more bool
		switch c.state {
		case inRequestLine:
			more, err = c.requestLine(&start, end)
		case inHeaders:
			var wantsContinue bool
			more, wantsContinue, err = c.header(&start, end)
			if wantsContinue {
				continues = append(continues, c.request)
			}
		case inBody:
			more, err = c.collectBody(&start, end)
		case ready:
			c.state = inRequestLine
			requests = append(requests, c.request)
			c.request = nil
			more = true
		}
		if err != nil || !more {
			return requests, continues, err
		}
	}
}

func (c *connection) requestLine(start *int, end int) (bool, error) {
	i := bytes.Index(c.buffer[*start:end], []byte("\r\n"))
	if i < 0 {
		if end == bufferSize && *start == 0 {
			return false, errInvalidRequest
		}
		c.shift(*start, end)
		return false, nil
	}
	line := c.buffer[*start : *start+i]
	*start += i + 2
	request, err := parseRequestLine(line)
	if err != nil {
		return false, err
	}
	c.request = request
	c.state = inHeaders
	return true, nil
}

func (c *connection) header(start *int, end int) (more, wantsContinue bool, err error) {
	i := bytes.Index(c.buffer[*start:end], []byte("\r\n"))
	switch {
	case i < 0:
		if *start == 0 && end == bufferSize {
			text := strings.ToValidUTF8(string(c.buffer[:]), "\uFFFD")
			return false, false, headerError("Invalid content length. Header: " + text)
		}
		c.shift(*start, end)
		return false, false, nil
	case i > 0:
		if err := c.request.parseHeader(c.buffer[*start : *start+i]); err != nil {
			return false, false, err
		}
		*start += i + 2
		return true, false, nil
	}
	// The empty line that ends the headers.
	if c.request.length == 0 {
		c.state = ready
	} else {
		if int64(c.request.length) > int64(c.limit) {
			return false, false, parseError(fmt.Sprintf(
				"Request payload with size %d is larger than the limit of %d allowed by server.", c.request.length, c.limit))
		}
		c.missing = c.request.length
		c.state = inBody
		wantsContinue = c.request.expect
	}
	*start += 2
	return true, wantsContinue, nil
}

func (c *connection) collectBody(start *int, end int) (bool, error) {
	have := uint32(end - *start)
	if c.missing > have {
		c.body = append(c.body, c.buffer[*start:end]...)
		c.missing -= have
		c.filled = 0
		return false, nil
	}
	c.body = append(c.body, c.buffer[*start:*start+int(c.missing)]...)
	*start += int(c.missing)
	c.missing = 0
	c.request.Body, c.body = c.body, nil
	c.state = ready
	return true, nil
}

// shift moves an unfinished line to the front of the buffer, where the next bytes complete it.
func (c *connection) shift(start, end int) {
	copy(c.buffer[:], c.buffer[start:end])
	c.filled = end - start
}
