package smartvm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestAConsoleLogHasABound(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), consoleLog)
	w := newLogWriter(path, maxConsoleLog)
	line := bytes.Repeat([]byte("flood\n"), 10_000)
	written := 0
	for written < 5*maxConsoleLog {
		n, err := w.Write(line)
		if n != len(line) || err != nil {
			t.Fatal(n, err)
		}
		written += n
	}
	if _, err := w.Write([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !bytes.HasSuffix(text, []byte("the end")) {
		t.Errorf("the log does not end with the end: %v", err)
	}
	for _, name := range []string{path, path + ".1"} {
		if info, err := os.Stat(name); err != nil || info.Size() > maxConsoleLog || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestAConsoleLogThatCannotRotateLosesOutputAndNothingElse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, consoleLog)
	w := newLogWriter(path, maxConsoleLog)
	if err := os.MkdirAll(filepath.Join(path+".1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := w.Write(make([]byte, maxConsoleLog)); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > maxConsoleLog {
		t.Errorf("the log: %v, %v", info, err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if n, err := w.Write([]byte("late")); n != 4 || err != nil {
		t.Error(n, err)
	}
}
