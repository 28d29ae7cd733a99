package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"smartvm/internal/agentwire"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// prepare turns a request into a process that can be started, without its streams.
func prepare(request agentwire.Exec) (*process, *account, error) {
	if err := request.Check(); err != nil {
		return nil, nil, err
	}
	user, err := lookup("/etc", request.User)
	if err != nil {
		return nil, nil, &startError{agentwire.BadUser, err}
	}
	dir := request.Dir
	if dir == "" {
		dir = "/"
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		if err == nil {
			err = syscall.ENOTDIR
		}
		return nil, nil, &startError{agentwire.BadDir, fmt.Errorf("folder %q: %w", dir, bare(err))}
	}
	env := environment(request, user)
	path, err := find(request.Args[0], dir, env)
	if err != nil {
		return nil, nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: request.Args, Env: env, Dir: dir, SysProcAttr: &syscall.SysProcAttr{
		Setsid:     true,
		Credential: &syscall.Credential{Uid: user.uid, Gid: user.gid, Groups: user.groups},
	}}
	if os.Geteuid() != 0 { // a test, or an agent that somebody started by hand
		cmd.SysProcAttr.Credential = nil
	}
	return &process{cmd: cmd, name: request.Args[0], exited: make(chan struct{})}, user, nil
}

// environment is the default environment with the request's on top. The last of a key counts.
func environment(request agentwire.Exec, user *account) []string {
	env := []string{"PATH=" + defaultPath, "HOME=" + user.home, "USER=" + user.name, "LOGNAME=" + user.name,
		"SHELL=" + user.shell, "LANG=C.UTF-8"}
	if request.TTY {
		env = append(env, "TERM=xterm")
	}
	return append(env, request.Env...)
}

// find looks a program up as execvp(3) does, in the PATH of the command's own environment.
func find(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if err := executable(name, dir); err != nil {
			return "", err
		}
		return name, nil
	}
	path := ""
	for _, entry := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value
			break
		}
	}
	var denied error
	for _, folder := range filepath.SplitList(path) {
		if folder == "" {
			folder = "."
		}
		candidate := filepath.Join(folder, name)
		if !strings.Contains(candidate, "/") {
			candidate = "./" + candidate
		}
		err := executable(candidate, dir)
		if err == nil {
			return candidate, nil
		}
		if refused := new(startError); errors.As(err, &refused) && refused.reason == agentwire.NotExecutable {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", &startError{agentwire.NotFound, fmt.Errorf("%q: not found in PATH %q", name, path)}
}

// executable tells what speaks against running a file; a relative path is relative to dir.
func executable(path, dir string) error {
	full := path
	if !filepath.IsAbs(full) {
		full = filepath.Join(dir, full)
	}
	info, err := os.Stat(full)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return &startError{agentwire.NotFound, fmt.Errorf("%q: %w", path, bare(err))}
	case err != nil:
		return &startError{agentwire.NotExecutable, fmt.Errorf("%q: %w", path, bare(err))}
	case info.IsDir():
		return &startError{agentwire.NotExecutable, fmt.Errorf("%q: %w", path, syscall.EISDIR)}
	case info.Mode()&0o111 == 0:
		return &startError{agentwire.NotExecutable, fmt.Errorf("%q: %w", path, syscall.EACCES)}
	}
	return nil
}

// refusal gives the reason for which the kernel did not run a program that find had found.
func refusal(name string, err error) error {
	reason := agentwire.NotExecutable
	why := bare(err)
	switch {
	case errors.Is(err, syscall.ENOENT):
		reason, why = agentwire.NotFound, errors.New("its interpreter or loader is missing")
	case errors.Is(err, syscall.E2BIG):
		reason = agentwire.TooBig
	case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ENOMEM):
		reason = agentwire.Internal
	}
	return &startError{reason, fmt.Errorf("%q: %w", name, why)}
}

// bare is the kernel's own error, without the call and the path around it.
func bare(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
