package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"smartvm/emulator/machine"
)

// backing is the file behind a drive.
type backing struct {
	node   node
	size   int64  // bytes
	serial string // the drive's, see inspect
}

// inspect looks at a drive's file and describes it for QEMU, with the serial number that Firecracker would give it:
// device, device type and inode in decimal, cut at 20 bytes (devices/virtio/block/virtio/device.rs).
func (v *vm) inspect(drive machine.Drive) (backing, error) {
	fail := func(err error) (backing, error) { return backing{}, fmt.Errorf("drive %s: %w", drive.ID, err) }
	file, err := os.Open(drive.Path)
	if err != nil {
		return fail(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fail(err)
	}
	device := info.Mode()&os.ModeDevice != 0
	if !device && !info.Mode().IsRegular() {
		return fail(fmt.Errorf("%s is neither a file nor a block device", drive.Path))
	}
	size, err := file.Seek(0, io.SeekEnd) // a block device has no size in its inode
	if err != nil {
		return fail(err)
	}
	v.nodes++
	stat := info.Sys().(*syscall.Stat_t)
	serial := fmt.Sprintf("%d%d%d", stat.Dev, stat.Rdev, stat.Ino)
	return backing{
		node:   newNode("node"+strconv.Itoa(v.nodes), drive, device, size),
		size:   size,
		serial: serial[:min(len(serial), 20)],
	}, nil
}

// setDrive opens the new file, puts it behind the device and tells the guest the size. The medium's own command
// (blockdev-change-medium) is refused: a virtio drive has no tray.
func (v *vm) setDrive(ctx context.Context, id, path string) error {
	drive, err := v.drive(id)
	if err != nil {
		return err
	}
	changed := *drive
	changed.Path = path
	next, err := v.inspect(changed)
	if err != nil {
		return err
	}
	if _, err := v.execute(ctx, "blockdev-add", next.node, nil); err != nil {
		return fmt.Errorf("drive %s: %w", id, err)
	}
	_, err = v.execute(ctx, "qom-set",
		map[string]any{"path": "/machine/peripheral/" + driveID(id), "property": "drive", "value": next.node.NodeName}, nil)
	if err != nil {
		delErr := v.deleteNode(ctx, next.node)
		return fmt.Errorf("drive %s: %w", id, errors.Join(err, delErr))
	}
	last := v.backings[id]
	v.backings[id], *drive = next, changed
	if next.size != last.size {
		if err := v.announceSize(ctx, id, next); err != nil {
			return err
		}
	}
	return v.deleteNode(ctx, last.node)
}

// announceSize tells the guest how big the drive is now. The only way to do so is to "resize" the file to the size that
// it has; QEMU refuses that for what cannot be resized.
func (v *vm) announceSize(ctx context.Context, id string, b backing) error {
	_, err := v.execute(ctx, "block_resize", map[string]any{"node-name": b.node.NodeName, "size": b.size}, nil)
	var refused *commandError
	if errors.As(err, &refused) {
		v.warn("drive %s: the guest is not told of the new size: %s", id, refused.Reason)
		return nil
	}
	return err
}

func (v *vm) deleteNode(ctx context.Context, n node) error {
	_, err := v.execute(context.WithoutCancel(ctx), "blockdev-del", map[string]any{"node-name": n.NodeName}, nil)
	return err
}

func (v *vm) drive(id string) (*machine.Drive, error) {
	for i := range v.spec.Drives {
		if v.spec.Drives[i].ID == id {
			return &v.spec.Drives[i], nil
		}
	}
	return nil, fmt.Errorf("the machine has no drive %s", id)
}
