//go:build !unix

package atomicfile

// SyncDir does nothing: here a folder cannot be opened and synced.
func SyncDir(string) error { return nil }
