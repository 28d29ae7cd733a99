package agent

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"syscall"
	"time"

	"smartvm/internal/agentwire"
	"smartvm/internal/copytree"
)

// transfer is a connection that carries a tar archive, one way or the other.
type transfer struct {
	agentwire.Copy
	conn *agentwire.Conn
	in   *agentwire.Inlet
	out  *agentwire.Outlet
	gone chan struct{} // closed when the connection has ended
}

func newTransfer(c *agentwire.Conn, request agentwire.Copy) *transfer {
	return &transfer{Copy: request, conn: c, in: agentwire.NewInlet(c, agentwire.KindStdin),
		out: agentwire.NewOutlet(c, agentwire.KindStdout), gone: make(chan struct{})}
}

// run copies and tells the host how it ended. The host closes the connection.
func (t *transfer) run() {
	go t.read()
	var report copytree.Report
	var err error
	if t.Put {
		report, err = t.unpack()
	} else {
		report, err = t.pack()
	}
	t.conn.Send(agentwire.KindCopied, copied(report, err)) // a failure shows at the reader
	timeout := time.NewTimer(ackTimeout)
	defer timeout.Stop()
	select {
	case <-t.gone:
	case <-timeout.C:
	}
}

// unpack takes the host's archive. When it fails the host is told that no more is wanted, by the inlet.
func (t *transfer) unpack() (copytree.Report, error) {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(t.in.Copy(pw)) }()
	report, err := copytree.Unpack(pr, copytree.InGuest(string(t.Path)), copytree.Options{Base: string(t.Base), Archive: t.Archive})
	pr.CloseWithError(errUnwanted)
	return report, err
}

// pack sends an archive to the host.
func (t *transfer) pack() (copytree.Report, error) {
	w := bufio.NewWriterSize(t.out, agentwire.MaxData)
	report, err := copytree.Pack(w, copytree.InGuest(string(t.Path)))
	if err == nil {
		err = w.Flush()
	}
	t.out.End()
	return report, err
}

// read takes the host's frames until the connection ends.
func (t *transfer) read() {
	err := t.frames()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	t.in.End(err)
	t.out.Fail(err)
	close(t.gone)
}

func (t *transfer) frames() error {
	for {
		f, err := t.conn.Next()
		if err != nil {
			return err
		}
		switch f.Kind {
		case agentwire.KindStdin:
			err = t.in.Put(f.Payload)
		case agentwire.KindStdinEnd:
			t.in.End(io.EOF)
		case agentwire.KindStdoutEnd:
			t.out.Fail(errUnwanted)
		case agentwire.KindCredit:
			err = grant(f, t.out, nil)
		default:
			err = errors.New("a frame that the host does not send here")
		}
		if err != nil {
			return err
		}
	}
}

// copied is the report as the host gets it. Names that were skipped go missing where they are too long for a frame.
func copied(report copytree.Report, err error) []byte {
	c := agentwire.Copied{Files: report.Files, Dirs: report.Dirs, Links: report.Links, Bytes: report.Bytes, Skipped: report.Skipped}
	if err != nil {
		c.Reason, c.Message = agentwire.Internal, err.Error()
		switch {
		case errors.Is(err, errUnwanted):
			c.Reason = agentwire.Stopped
		case errors.Is(err, fs.ErrNotExist):
			c.Reason = agentwire.NotFound
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
			c.Reason = agentwire.NoSpace
		}
		c.Message = c.Message[:min(len(c.Message), 1024)]
	}
	payload := agentwire.Encode(c)
	for len(payload) > agentwire.MaxCopied {
		c.Skipped = c.Skipped[:len(c.Skipped)/2]
		payload = agentwire.Encode(c)
	}
	return payload
}
