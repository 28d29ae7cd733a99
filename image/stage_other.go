//go:build !linux

package image

import (
	"errors"
	"os"
)

// lockFolder refuses: without locks no dead maker's stage can be told from a living one's, and none is swept.
func lockFolder(*os.File) error { return errors.ErrUnsupported }

// swap gives the folder at from the name to. If there is a folder at to, it gets the name from.
func swap(from, to string) error { return swapInSteps(from, to) }

// syncFolder does nothing: elsewhere than on Linux a folder cannot be synced, or need not be.
func syncFolder(string) error { return nil }
