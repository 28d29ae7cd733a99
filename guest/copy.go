package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"smartvm/internal/agentwire"
	"smartvm/internal/copytree"
)

// CopyOptions are how files are copied. The zero value is docker cp's default.
type CopyOptions struct {
	// Archive keeps numeric owners and the set-user-id and set-group-id bits. Without it everything belongs to root in the
	// guest and to this process's user on the host, without these bits. On the host owners are kept only when this process
	// is root. Do not use it to copy from a guest that you do not trust: a program of the guest's making would run as whom
	// the guest likes.
	Archive bool
}

// CopyReport is what was copied.
type CopyReport struct {
	Files, Dirs, Links int   // Links are symbolic
	Bytes              int64 // of the files' contents
	// Skipped names device nodes, FIFOs and sockets, and folders in which a kernel makes files up, such as /proc; only the
	// first few hundred, then how many more there were.
	Skipped []string
}

// CopyError is what the guest's side of a copy says of its failure. It is fs.ErrNotExist (errors.Is) where Reason is
// NotFound, and syscall.ENOSPC where it is NoSpace.
type CopyError struct {
	Reason  Reason // NotFound, NoSpace or Internal
	Message string // the agent's words, made printable
}

func (e *CopyError) Error() string { return "guest: copy: in the guest: " + e.Message }

// Unwrap is the error that stands for the reason, or nil.
func (e *CopyError) Unwrap() error {
	switch e.Reason {
	case NotFound:
		return fs.ErrNotExist
	case NoSpace:
		return syscall.ENOSPC
	}
	return nil
}

// CopyTo copies the host's file or folder src to dst in the guest, where a relative path begins at "/". The agent
// writes as root, in its own view of the guest's files.
//
// Names mean what they do to docker cp:
//
//	src is a file,   dst does not exist            it is written to dst, whose folder must exist
//	                 … and ends in a slash         an error
//	                 dst is a file                 it is replaced
//	                 dst is a folder               it is written into it, under its own name
//	src is a folder, dst does not exist            dst is made and gets what is in it
//	                 dst is a file                 an error
//	                 dst is a folder               it goes into it, under its own name
//	                 … and src ends in "/."        what is in it goes into dst
//
// Files, folders and symbolic links are copied with their modes and times (a link's own time is not kept). A link is
// copied as a link; so is src itself, unless it ends in a slash. dst is followed where it is a link. A file with several
// names becomes several files.
//
// Nothing is written outside the target folder, nor through a symbolic link below it: a name that would be is an error that
// tells it. A file is written aside and takes its name when it is whole, so that one that is there is never half replaced;
// what was copied before an error stays. Folders are merged; a file does not replace a folder or a device, nor a folder
// a file.
//
// ctx bounds the whole copy. Errors of the guest's side are a *CopyError; the error wraps ErrUnsupported where the agent is
// too old, and the system's own error where the host's side failed.
func (a *Agent) CopyTo(ctx context.Context, src, dst string, o CopyOptions) (CopyReport, error) {
	base, err := copytree.Base(src)
	if err == nil {
		_, err = os.Lstat(src)
	}
	if err != nil {
		return CopyReport{}, fmt.Errorf("guest: copy to the guest: %w", err)
	}
	var packed copytree.Report
	said, err := a.put(ctx, agentwire.Copy{Put: true, Path: []byte(dst), Base: []byte(base), Archive: o.Archive}, func(w io.Writer) error {
		var err error
		packed, err = copytree.Pack(w, src)
		return err
	})
	return reported(packed, said), err
}

// CopyFrom copies the guest's file or folder src to dst on the host. Names and all else are as in CopyTo, the other way
// round. The guest is not trusted: its archive is checked as it comes, no more is written than it really sends, and a
// link that it made is nothing that CopyFrom follows. What a link leads to is the guest's choice, though: look before you
// follow one.
func (a *Agent) CopyFrom(ctx context.Context, src, dst string, o CopyOptions) (CopyReport, error) {
	var unpacked copytree.Report
	said, err := a.get(ctx, src, func(r io.Reader) error {
		var err error
		unpacked, err = copytree.Unpack(r, dst, copytree.Options{Base: copytree.GuestBase(src), Archive: o.Archive})
		return err
	})
	return reported(unpacked, said), err
}

// CopyToTar unpacks a tar archive into the guest's folder dstDir, which must exist. The report is the guest's word.
func (a *Agent) CopyToTar(ctx context.Context, archive io.Reader, dstDir string, o CopyOptions) (CopyReport, error) {
	said, err := a.put(ctx, agentwire.Copy{Put: true, Path: []byte(dstDir), Archive: o.Archive}, func(w io.Writer) error {
		_, err := io.Copy(w, archive)
		return err
	})
	return reported(counted(said), said), err
}

// CopyFromTar writes a tar archive of the guest's file or folder src to w. Its top-level name is that of src; an src that
// ends in "/." gives what is in the folder. It holds numeric owners and all modes. The archive comes as the guest
// made it: nothing of it is checked, and the report is the guest's word.
func (a *Agent) CopyFromTar(ctx context.Context, src string, w io.Writer) (CopyReport, error) {
	said, err := a.get(ctx, src, func(r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	})
	return reported(counted(said), said), err
}

// counted are the guest's numbers.
func counted(said agentwire.Copied) copytree.Report {
	return copytree.Report{Files: max(said.Files, 0), Dirs: max(said.Dirs, 0), Links: max(said.Links, 0), Bytes: max(said.Bytes, 0)}
}

// maxSkipped bounds the names that a guest may report, maxSkippedName their length in bytes.
const (
	maxSkipped     = 300
	maxSkippedName = 512
)

// reported makes a report of the host's numbers and of what both sides skipped. Names may come from the guest either way.
func reported(r copytree.Report, said agentwire.Copied) CopyReport {
	report := CopyReport{Files: r.Files, Dirs: r.Dirs, Links: r.Links, Bytes: r.Bytes}
	for _, names := range [][]string{r.Skipped, said.Skipped} {
		for _, name := range names[:min(len(names), maxSkipped)] {
			report.Skipped = append(report.Skipped, printable(name[:min(len(name), maxSkippedName)]))
		}
	}
	return report
}

// copyFailure is the guest's failure, or nil.
func copyFailure(said agentwire.Copied) error {
	if said.Reason == "" {
		return nil
	}
	e := &CopyError{Reason: Reason(said.Reason), Message: printable(said.Message)}
	if e.Reason != NotFound && e.Reason != NoSpace {
		e.Reason = Internal
	}
	if e.Message == "" {
		e.Message = "it failed without a reason"
	}
	return e
}

// errStopped says that the guest wants no more of an archive.
var errStopped = errors.New("guest: copy: the guest ended it early")
