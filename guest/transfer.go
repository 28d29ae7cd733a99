package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"smartvm/internal/agentwire"
	"smartvm/internal/copytree"
)

// transfer is a copy's connection.
type transfer struct {
	*agentwire.Conn
	out *agentwire.Outlet // nil when the guest sends
	in  *agentwire.Inlet  // nil when the host sends

	said  agentwire.Copied
	err   error         // why there is no word of the guest's
	ended chan struct{} // closed when said or err is final
}

// transfer opens a copy's connection. When ctx ends, so does the connection.
func (a *Agent) transfer(ctx context.Context, request agentwire.Copy) (t *transfer, done func(), err error) {
	if err := request.Check(); err != nil {
		return nil, nil, fmt.Errorf("guest: %w", err)
	}
	if err := a.require(ctx, agentwire.FeatureCopy); err != nil {
		return nil, nil, err
	}
	conn, err := a.dial(ctx, AgentPort)
	if err != nil {
		return nil, nil, fmt.Errorf("guest: copy: connect to the agent: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	t = &transfer{Conn: agentwire.NewConn(conn), ended: make(chan struct{})}
	if request.Put {
		t.out = agentwire.NewOutlet(t.Conn, agentwire.KindStdin)
	} else {
		t.in = agentwire.NewInlet(t.Conn, agentwire.KindStdout)
	}
	if err := t.Send(agentwire.KindCopy, agentwire.Encode(request)); err != nil {
		stop()
		conn.Close()
		return nil, nil, fmt.Errorf("guest: copy: %w", cause(ctx, err))
	}
	go t.read()
	return t, func() { stop(); conn.Close(); <-t.ended }, nil
}

// read takes the guest's frames until its last word.
func (t *transfer) read() {
	err := t.frames()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	t.err = err
	if err == nil {
		err = errStopped
	}
	if t.out != nil {
		t.out.Fail(err)
	} else {
		t.in.End(err)
	}
	close(t.ended)
}

func (t *transfer) frames() error {
	for {
		f, err := t.Next()
		if err != nil {
			return err
		}
		switch {
		case f.Kind == agentwire.KindCopied:
			return f.Expect(agentwire.KindCopied, &t.said)
		case f.Kind == agentwire.KindFailed:
			return decodeFailed(f)
		case t.out != nil && f.Kind == agentwire.KindCredit:
			var credit agentwire.Credit
			if credit, err = agentwire.DecodeCredit(f); err == nil && credit.Stream != agentwire.KindStdin {
				err = fmt.Errorf("%w: credit for %v from the agent", agentwire.ErrInvalid, credit.Stream)
			}
			if err == nil {
				err = t.out.Grant(credit.Bytes)
			}
		case t.out != nil && f.Kind == agentwire.KindStdinEnd:
			t.out.Fail(errStopped)
		case t.in != nil && f.Kind == agentwire.KindStdout:
			err = t.in.Put(f.Payload)
		case t.in != nil && f.Kind == agentwire.KindStdoutEnd:
			t.in.End(io.EOF)
		default:
			err = fmt.Errorf("%w: %v from the agent", agentwire.ErrInvalid, f.Kind)
		}
		if err != nil {
			return err
		}
	}
}

// put sends an archive that write makes, and returns the guest's word on it.
func (a *Agent) put(ctx context.Context, request agentwire.Copy, write func(io.Writer) error) (agentwire.Copied, error) {
	t, done, err := a.transfer(ctx, request)
	if err != nil {
		return agentwire.Copied{}, err
	}
	defer done()
	w := bufio.NewWriterSize(t.out, agentwire.MaxData)
	sent := write(w)
	if sent == nil {
		sent = w.Flush()
	}
	if sent == nil {
		sent = t.out.End()
	} else if !errors.Is(sent, errStopped) {
		t.Close() // without an end, so that the guest does not take what came for all
	}
	<-t.ended
	failed := copyFailure(t.said)
	switch {
	case t.err == nil && failed != nil:
		return t.said, failed
	case sent != nil && (t.err == nil || !errors.Is(sent, t.err)):
		return t.said, fmt.Errorf("guest: copy to the guest: %w", cause(ctx, sent))
	case t.err != nil:
		return t.said, fmt.Errorf("guest: copy to the guest: connection lost: %w", cause(ctx, t.err))
	}
	return t.said, nil
}

// get receives an archive, which read takes, and returns the guest's word on it.
func (a *Agent) get(ctx context.Context, src string, read func(io.Reader) error) (agentwire.Copied, error) {
	t, done, err := a.transfer(ctx, agentwire.Copy{Path: []byte(src)})
	if err != nil {
		return agentwire.Copied{}, err
	}
	defer done()
	pr, pw := io.Pipe()
	copying := make(chan struct{})
	go func() {
		defer close(copying)
		pw.CloseWithError(t.in.Copy(pw))
	}()
	got := read(pr)
	pr.CloseWithError(errStopped) // tells the guest that nobody wants more
	if got != nil {
		select { // for its reason, which is better where its archive ended too early
		case <-t.ended:
		case <-time.After(ackTimeout):
		case <-ctx.Done():
		}
		t.Close()
	}
	<-t.ended
	<-copying
	failed := copyFailure(t.said)
	switch {
	case got != nil && (failed == nil || !cutShort(got)):
		return t.said, fmt.Errorf("guest: copy from the guest: %w", cause(ctx, got))
	case failed != nil:
		return t.said, failed
	case t.err != nil:
		return t.said, fmt.Errorf("guest: copy from the guest: connection lost: %w", cause(ctx, t.err))
	}
	return t.said, nil
}

// cutShort tells that an archive was no worse than incomplete.
func cutShort(err error) bool {
	return errors.Is(err, copytree.ErrArchive) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errStopped)
}
