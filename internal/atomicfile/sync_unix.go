//go:build unix

package atomicfile

import "os"

// SyncDir makes durable which names a folder holds (fsync(2): "Calling fsync() does not necessarily ensure that the
// entry in the directory containing the file has also reached disk").
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}
