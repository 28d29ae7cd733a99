package smartvm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"smartvm/internal/filewatch"
)

// LogSource is one of a VM's logs.
type LogSource string

// The logs.
const (
	LogConsole LogSource = "console" // what the guest prints on its serial console
	LogVMM     LogSource = "vmm"     // what the VMM has to say
	LogAgent   LogSource = "agent"   // the output of the VM's command
)

func (s LogSource) file() (string, error) {
	switch s {
	case LogConsole:
		return consoleLog, nil
	case LogVMM:
		return vmmLog, nil
	case LogAgent:
		return agentLog, nil
	}
	return "", fmt.Errorf("there is no log %q: there are console, vmm and agent", s)
}

// LogOptions say which part of a log is wanted.
type LogOptions struct {
	Source LogSource // default: LogConsole
	// Follow goes on until the VM has ended, and its log with it.
	Follow bool
	// Tail begins so many lines before the end; nil begins where the log does.
	Tail *int
	// Since leaves out what came before, to about a second. Default: nothing is left out.
	Since time.Time
}

// Logs writes a log of the VM to w: what is left of it (each log has a bound), and with Follow what comes. The bytes are
// the guest's: untrusted. An error of w is returned as it is.
func (vm *VM) Logs(ctx context.Context, options LogOptions, w io.Writer) error {
	return vm.logs(ctx, options, w, make(chan struct{}))
}

// logs closes begun when it has come to what is written from then on.
func (vm *VM) logs(ctx context.Context, options LogOptions, w io.Writer, begun chan<- struct{}) (err error) {
	const op = "logs"
	begin := sync.OnceFunc(func() { close(begun) })
	defer begin()
	if options.Source == "" {
		options.Source = LogConsole
	}
	name, err := options.Source.file()
	if err != nil {
		return vm.fail(op, InvalidConfig, err)
	}
	if options.Tail != nil && *options.Tail < 0 {
		return vm.fail(op, InvalidConfig, fmt.Errorf("a log has no last %d lines", *options.Tail))
	}
	look := vm.look()
	if errors.Is(look.err, fs.ErrNotExist) {
		return vm.lost(op)
	}
	f := &follower{path: look.folder.path(name), w: w}
	defer f.close()
	if options.Follow {
		if f.watch, err = filewatch.New(look.folder.data); err != nil {
			return vm.fail(op, InvalidState, err)
		}
	}
	if err := f.begin(options); err != nil {
		return err
	}
	begin()
	if !options.Follow {
		return nil
	}
	return f.follow(ctx, func() bool { return !vm.logGrows() })
}

// logGrows tells whether somebody may still write to the VM's logs.
func (vm *VM) logGrows() bool {
	look := vm.look()
	return look.err == nil && look.active && look.note() == nil && (look.alive || look.busy)
}

// follower reads a log that grows, and is moved away when it is full.
type follower struct {
	path  string
	w     io.Writer
	file  *os.File // nil while there is none
	watch *filewatch.Watch
}

func (f *follower) close() {
	if f.file != nil {
		f.file.Close()
	}
	if f.watch != nil {
		f.watch.Close()
	}
}

// begin writes what is there. It leaves the newer file open at its end.
func (f *follower) begin(options LogOptions) error {
	older, err := openLog(f.path+olderSuffix, options.Since)
	if err != nil {
		return err
	}
	if older != nil {
		defer older.Close()
	}
	if f.file, err = openLog(f.path, options.Since); err != nil {
		return err
	}
	if options.Tail == nil {
		if older != nil {
			if _, err := io.Copy(f.w, older); err != nil {
				return err
			}
		}
		return f.drain()
	}
	var parts []io.Reader
	for _, file := range []*os.File{older, f.file} {
		if file != nil {
			parts = append(parts, file)
		}
	}
	tail, err := lastLines(io.MultiReader(parts...), *options.Tail)
	if err != nil {
		return err
	}
	_, err = f.w.Write(tail)
	return err
}

// openLog opens a file of a log at the first byte that came at the time since, or a little earlier. nil: there is none.
func openLog(path string, since time.Time) (*os.File, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || since.IsZero() {
		return file, err
	}
	if _, err := file.Seek(offsetAt(path, since), io.SeekStart); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// offsetAt looks up in a log's times where in the file a time is.
func offsetAt(path string, since time.Time) int64 {
	times, err := os.Open(path + timesSuffix)
	if err != nil {
		return 0
	}
	defer times.Close()
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	if info.ModTime().Before(since) {
		return info.Size() // nothing came so late
	}
	offset, lines := int64(0), bufio.NewScanner(times)
	for lines.Scan() {
		var at, bytes int64
		if n, err := fmt.Sscanf(lines.Text(), "%d %d", &at, &bytes); n != 2 || err != nil {
			continue
		}
		if time.Unix(0, at).After(since) {
			break
		}
		offset = bytes
	}
	return offset
}

// lastLines returns the last n lines of what r has.
func lastLines(r io.Reader, n int) ([]byte, error) {
	data, err := io.ReadAll(r) // a log has a bound
	if err != nil || n == 0 {
		return nil, err
	}
	at := len(bytes.TrimSuffix(data, []byte("\n")))
	for range n {
		if at = bytes.LastIndexByte(data[:at], '\n'); at < 0 {
			return data, nil
		}
	}
	return data[at+1:], nil
}

// drain writes what there is to read now.
func (f *follower) drain() error {
	if f.file == nil {
		var err error
		if f.file, err = openLog(f.path, time.Time{}); f.file == nil {
			return err
		}
	}
	_, err := io.Copy(f.w, f.file)
	return err
}

// followEvery is how long an end can go unnoticed that changed no file in the VM's folder.
const followEvery = 200 * time.Millisecond

// follow writes what comes until over tells that nothing more does, or ctx ends.
func (f *follower) follow(ctx context.Context, over func() bool) error {
	look := time.NewTicker(followEvery)
	defer look.Stop()
	for {
		ended := over()
		if err := f.drain(); err != nil {
			return err
		}
		moved, err := f.moved()
		if err != nil {
			return err
		}
		if moved {
			continue // to the new file at once
		}
		if ended {
			return nil
		}
		select {
		case <-f.watch.Changed():
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// moved notices that the log was full, and goes over to the new file once the old one was read to its end.
func (f *follower) moved() (bool, error) {
	if f.file == nil {
		return false, nil
	}
	now, err := os.Stat(filepath.Clean(f.path))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // the new one is made with its first byte
	}
	if err != nil {
		return false, err
	}
	mine, err := f.file.Stat()
	if err != nil {
		return false, err
	}
	if os.SameFile(now, mine) {
		return false, nil
	}
	if err := f.drain(); err != nil { // what came between the last read and the move
		return false, err
	}
	f.file.Close()
	f.file = nil
	return true, f.drain()
}

// OnConsole has f called with what the guest prints from now on, or from the next start on, one call at a time and in
// order; nil ends it. f must be quick and must not keep the slice. The bytes are the guest's: untrusted.
func (vm *VM) OnConsole(f func([]byte)) {
	vm.mu.Lock()
	end := vm.unwatch
	vm.watch, vm.unwatch = f, nil
	published := vm.published
	vm.mu.Unlock()
	if end != nil {
		end()
	}
	if published && vm.logGrows() {
		vm.startWatch()
	}
}

// startWatch follows the console for OnConsole, until the VM's run has ended.
func (vm *VM) startWatch() {
	ctx, cancel := context.WithCancel(context.Background())
	done, begun := make(chan struct{}), make(chan struct{})
	vm.mu.Lock()
	f, busy := vm.watch, vm.unwatch != nil
	if f != nil && !busy {
		vm.unwatch = func() { cancel(); <-done }
	}
	vm.mu.Unlock()
	if f == nil || busy {
		cancel()
		return
	}
	go func() {
		defer close(done)
		nothing := 0
		_ = vm.logs(ctx, LogOptions{Source: LogConsole, Follow: true, Tail: &nothing}, writerFunc(f), begun)
		cancel()
		vm.mu.Lock()
		defer vm.mu.Unlock()
		vm.unwatch = nil
	}()
	<-begun
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}
