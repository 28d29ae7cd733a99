package filewatch

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestEveryKindOfChangeIsTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	w, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, change := range []struct {
		name string
		do   func() error
	}{
		{"make", func() error { return os.WriteFile(file, nil, 0o600) }},
		{"append", func() error {
			f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString("x")
			return err
		}},
		{"rename", func() error { return os.Rename(file, file+".1") }},
		{"remove", func() error { return os.Remove(file + ".1") }},
		{"remove the folder", func() error { return os.Remove(dir) }},
	} {
		for drained := false; !drained; {
			select {
			case <-w.Changed():
			default:
				drained = true
			}
		}
		if err := change.do(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-w.Changed():
		case <-time.After(10 * time.Second):
			t.Errorf("%s: not told", change.name)
		}
	}
}

func TestAFolderThatIsNotThereCannotBeWatched(t *testing.T) {
	t.Parallel()
	if _, err := New(filepath.Join(t.TempDir(), "missing")); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
}
