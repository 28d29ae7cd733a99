package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// stage is a folder beside a bundle's, in which the bundle is made. The last step swaps the two by name, so whoever
// opens the bundle sees the old one or the new one, and a failure takes nothing away.
type stage struct {
	dir    string // the folder that is worked in
	target string // the bundle's folder
	lock   *os.File
}

// newStage makes the folder, after having swept what makers that died left beside it. A stage is known by its name, and
// its maker holds a lock on it, which ends with the maker.
func newStage(target string) (*stage, error) {
	target, err := filepath.Abs(target)
	if err != nil {
		return nil, err
	}
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	parent := filepath.Dir(target)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for the bundle: %w", err)
	}
	sweep(parent, stagePrefix(target))
	const attempts = 10
	for range attempts {
		s := &stage{target: target}
		if s.dir, err = os.MkdirTemp(parent, stagePrefix(target)); err != nil {
			break
		}
		if err = s.take(); err == nil {
			return s, nil
		}
		// Another maker swept the folder before it was locked.
		s.abandon()
	}
	return nil, fmt.Errorf("make the folder for the bundle: %w", err)
}

// take locks the folder and makes sure that it is still there.
func (s *stage) take() error {
	var err error
	if s.lock, err = os.Open(s.dir); err != nil {
		return err
	}
	if err := lockFolder(s.lock); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return os.Chmod(s.dir, 0o755)
}

// path gives the path of a file in the stage.
func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// commit puts the stage in the bundle's place and removes what was there.
func (s *stage) commit() error {
	if err := checkTarget(s.target); err != nil { // again: the making took its time
		return err
	}
	if err := syncFolder(s.dir); err != nil {
		return fmt.Errorf("finish the bundle: %w", err)
	}
	if err := swap(s.dir, s.target); err != nil {
		return fmt.Errorf("put the bundle in its place: %w", err)
	}
	// What was in the target, if anything, is in the stage now; abandon removes it.
	if err := syncFolder(filepath.Dir(s.target)); err != nil {
		return fmt.Errorf("finish the bundle: %w", err)
	}
	return nil
}

// abandon removes the stage with all that is in it.
func (s *stage) abandon() {
	os.RemoveAll(s.dir)
	if s.lock != nil {
		s.lock.Close() // ends the lock
	}
}

// checkTarget refuses to put a bundle in the place of anything but a bundle or an empty folder: a path given by mistake
// must not cost anybody's files.
func checkTarget(target string) error {
	info, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder: give a new folder, or that of a bundle", target)
	}
	entries, err := os.ReadDir(target)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == manifestName, name == kernelName, name == initrdName, strings.HasPrefix(name, stampName):
		default:
			return fmt.Errorf("%s holds %q, which is no part of a bundle: give a new folder, or that of a bundle", target, name)
		}
	}
	return nil
}

// stagePrefix begins the names of a target's stages.
func stagePrefix(target string) string { return "." + filepath.Base(target) + ".unfinished-" }

// sweep removes stages whose makers died. What cannot be removed stays; it is in nobody's way.
func sweep(parent, prefix string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		lock, err := os.Open(dir)
		if err != nil {
			continue
		}
		if lockFolder(lock) == nil {
			os.RemoveAll(dir)
		}
		lock.Close()
	}
}

// swapInSteps is swap for where the system cannot do it in one. If it fails half-way, it goes back.
func swapInSteps(from, to string) error {
	old := from + ".old"
	err := os.Rename(to, old)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Rename(from, to)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return errors.Join(err, os.Rename(old, to))
	}
	return os.Rename(old, from)
}
