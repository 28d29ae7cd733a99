package drive

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"smartvm/internal/bytesize"
)

// An empty ext4 filesystem, by the kernel's Documentation/filesystems/ext4 (names in quotes are its names).
//
// Nothing is written that the kernel can work out by itself: gdt_csum lets it make the bitmaps of untouched groups
// when it needs them, and an inode table that is a hole reads as the zeros that it has to hold ("EXT4_BG_INODE_ZEROED"
// keeps the guest from writing those zeros in the background). There is no journal, as the drive dies with its VM, and
// no backup of the superblock (sparse_super2 without backup groups).
const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize // one bit each in a bitmap of one block
	inodeSize      = 256
	bytesPerInode  = 16384 // mke2fs's inode_ratio
	descSize       = 32

	inodesPerBlock = blockSize / inodeSize
	minDriveSize   = 1 << 20
	maxDriveSize   = (1<<32 - 1) * blockSize // without the 64bit feature

	rootInode  = 2
	firstInode = 11 // the first that is not reserved; lost+found, as e2fsck wants it

	compatFeatures   = 0x8 | 0x20 | 0x200             // ext_attr, dir_index, sparse_super2
	incompatFeatures = 0x2 | 0x40                     // filetype, extents
	roCompatFeatures = 0x2 | 0x8 | 0x10 | 0x20 | 0x40 // large_file, huge_file, gdt_csum, dir_nlink, extra_isize
	inodeUninit      = 0x1                            // EXT4_BG_INODE_UNINIT
	blockUninit      = 0x2                            // EXT4_BG_BLOCK_UNINIT
	inodeZeroed      = 0x4                            // EXT4_BG_INODE_ZEROED
)

var le = binary.LittleEndian

// sparseFile is what a filesystem is written to: a new, empty file.
type sparseFile interface {
	io.WriterAt
	Truncate(size int64) error
}

// formatExt4 makes f a drive of size bytes with an empty ext4 filesystem and returns how many bytes it wrote.
func formatExt4(f sparseFile, size int64) (written int64, err error) {
	if size < minDriveSize || size > maxDriveSize {
		return 0, fmt.Errorf("a drive must have %s to %s, not %s",
			bytesize.String(minDriveSize), bytesize.String(maxDriveSize), bytesize.String(size))
	}
	if err := f.Truncate(size); err != nil {
		return 0, err
	}
	fs := layOut(size)
	if _, err := rand.Read(fs.uuid[:]); err != nil {
		return 0, err
	}
	if _, err := rand.Read(fs.hashSeed[:]); err != nil {
		return 0, err
	}
	fs.now = uint32(time.Now().Unix())
	for _, piece := range fs.pieces() {
		if _, err := f.WriteAt(piece.data, piece.block*blockSize); err != nil {
			return written, err
		}
		written += int64(len(piece.data))
	}
	return written, nil
}

// ext4 is the layout of a filesystem. Group 0 begins with the superblock and the group descriptors; every group has a
// block bitmap, an inode bitmap and a part of the inode table; group 0 goes on with the two folders' blocks.
type ext4 struct {
	blocks         int64
	groups         int64
	inodesPerGroup int64
	tableBlocks    int64 // of one group's part of the inode table
	descBlocks     int64 // of the group descriptors

	uuid, hashSeed [16]byte
	now            uint32
}

func layOut(size int64) ext4 {
	fs := ext4{blocks: size / blockSize}
	perGroup := min(fs.blocks, blocksPerGroup)
	inodes := max(perGroup*blockSize/bytesPerInode, 2*inodesPerBlock)
	fs.tableBlocks = (inodes + inodesPerBlock - 1) / inodesPerBlock
	fs.inodesPerGroup = fs.tableBlocks * inodesPerBlock

	// A last group that has hardly more room than its own bookkeeping needs is left out, as mke2fs does.
	const worthwhile = 50
	if rest := fs.blocks % blocksPerGroup; fs.blocks > blocksPerGroup && rest != 0 && rest < 2+fs.tableBlocks+worthwhile {
		fs.blocks -= rest
	}
	fs.groups = (fs.blocks + blocksPerGroup - 1) / blocksPerGroup
	fs.descBlocks = (fs.groups*descSize + blockSize - 1) / blockSize
	return fs
}

// start returns where the bookkeeping of a group begins: its block bitmap, behind it the inode bitmap and the table.
func (fs *ext4) start(group int64) int64 {
	if group == 0 {
		return 1 + fs.descBlocks
	}
	return group * blocksPerGroup
}

func (fs *ext4) rootBlock() int64      { return fs.start(0) + 2 + fs.tableBlocks }
func (fs *ext4) lostFoundBlock() int64 { return fs.rootBlock() + 1 }

// length returns how many blocks a group has; the last one may be short.
func (fs *ext4) length(group int64) int64 {
	return min(blocksPerGroup, fs.blocks-group*blocksPerGroup)
}

// used returns how many blocks of a group, all at its beginning, are taken.
func (fs *ext4) used(group int64) int64 {
	if group == 0 {
		return fs.lostFoundBlock() + 1
	}
	return 2 + fs.tableBlocks
}

type piece struct {
	block int64
	data  []byte
}

// pieces returns everything that is not zero.
func (fs *ext4) pieces() []piece {
	super := make([]byte, blockSize)
	copy(super[1024:], fs.superblock())
	pieces := []piece{
		{0, super},
		{1, fs.descriptors()},
		{fs.start(0), bitmap(fs.used(0), fs.length(0))},
		{fs.start(0) + 1, bitmap(firstInode, fs.inodesPerGroup)},
		{fs.start(0) + 2, fs.inodes()},
		{fs.rootBlock(), folder(
			entry{rootInode, "."}, entry{rootInode, ".."}, entry{firstInode, "lost+found"})},
		{fs.lostFoundBlock(), folder(entry{firstInode, "."}, entry{rootInode, ".."})},
	}
	if last := fs.groups - 1; last > 0 {
		pieces = append(pieces, piece{fs.start(last), bitmap(fs.used(last), fs.length(last))})
	}
	return pieces
}

// superblock is "struct ext4_super_block".
func (fs *ext4) superblock() []byte {
	free := int64(0)
	for g := range fs.groups {
		free += fs.length(g) - fs.used(g)
	}
	inodes := fs.groups * fs.inodesPerGroup

	b := make([]byte, 1024)
	le.PutUint32(b[0x00:], uint32(inodes))
	le.PutUint32(b[0x04:], uint32(fs.blocks))
	le.PutUint32(b[0x0c:], uint32(free))
	le.PutUint32(b[0x10:], uint32(inodes-firstInode))
	le.PutUint32(b[0x18:], 2) // s_log_block_size: 1024 << 2
	le.PutUint32(b[0x1c:], 2) // s_log_cluster_size
	le.PutUint32(b[0x20:], blocksPerGroup)
	le.PutUint32(b[0x24:], blocksPerGroup) // s_clusters_per_group
	le.PutUint32(b[0x28:], uint32(fs.inodesPerGroup))
	le.PutUint32(b[0x30:], fs.now) // s_wtime
	le.PutUint16(b[0x36:], 0xffff) // s_max_mnt_count: no check by count
	le.PutUint16(b[0x38:], 0xef53) // s_magic
	le.PutUint16(b[0x3a:], 1)      // s_state: cleanly unmounted
	le.PutUint16(b[0x3c:], 1)      // s_errors: continue
	le.PutUint32(b[0x40:], fs.now) // s_lastcheck
	le.PutUint32(b[0x4c:], 1)      // s_rev_level: dynamic
	le.PutUint32(b[0x54:], firstInode)
	le.PutUint16(b[0x58:], inodeSize)
	le.PutUint32(b[0x5c:], compatFeatures)
	le.PutUint32(b[0x60:], incompatFeatures)
	le.PutUint32(b[0x64:], roCompatFeatures)
	copy(b[0x68:], fs.uuid[:])
	copy(b[0xec:], fs.hashSeed[:])
	b[0xfc] = 1                      // s_def_hash_version: half MD4
	le.PutUint16(b[0xfe:], descSize) // s_desc_size
	le.PutUint32(b[0x100:], 0x4|0x8) // s_default_mount_opts: user_xattr, acl
	le.PutUint32(b[0x108:], fs.now)  // s_mkfs_time
	le.PutUint16(b[0x15c:], 32)      // s_min_extra_isize
	le.PutUint16(b[0x15e:], 32)      // s_want_extra_isize
	le.PutUint32(b[0x160:], 0x1)     // s_flags: signed directory hash
	return b
}

// descriptors are "struct ext4_group_desc", one for each group.
func (fs *ext4) descriptors() []byte {
	b := make([]byte, fs.groups*descSize)
	for g := range fs.groups {
		d := b[g*descSize:][:descSize]
		inodes, folders, flags := fs.inodesPerGroup, 0, inodeZeroed
		unused := inodes
		switch g {
		case 0:
			inodes, unused, folders = inodes-firstInode, inodes-firstInode, 2
		case fs.groups - 1:
			flags |= inodeUninit // its blocks are no full bitmap's worth: that one is written
		default:
			flags |= inodeUninit | blockUninit
		}
		start := fs.start(g)
		le.PutUint32(d[0x00:], uint32(start))
		le.PutUint32(d[0x04:], uint32(start+1))
		le.PutUint32(d[0x08:], uint32(start+2))
		le.PutUint16(d[0x0c:], uint16(fs.length(g)-fs.used(g)))
		le.PutUint16(d[0x0e:], uint16(inodes))
		le.PutUint16(d[0x10:], uint16(folders))
		le.PutUint16(d[0x12:], uint16(flags))
		le.PutUint16(d[0x1c:], uint16(unused)) // bg_itable_unused: behind the last inode in use

		sum := crc16(0xffff, fs.uuid[:])
		sum = crc16(sum, le.AppendUint32(nil, uint32(g)))
		le.PutUint16(d[0x1e:], crc16(sum, d[:0x1e]))
	}
	return b
}

// inodes is the beginning of the inode table, up to lost+found.
func (fs *ext4) inodes() []byte {
	b := make([]byte, firstInode*inodeSize)
	fs.folderInode(b[(rootInode-1)*inodeSize:], 0o755, 3, fs.rootBlock())
	fs.folderInode(b[(firstInode-1)*inodeSize:], 0o700, 2, fs.lostFoundBlock())
	return b
}

// folderInode writes "struct ext4_inode" for a folder of one block.
func (fs *ext4) folderInode(b []byte, mode, links uint16, block int64) {
	le.PutUint16(b[0x00:], 0x4000|mode)
	le.PutUint32(b[0x04:], blockSize)                      // i_size_lo
	for _, offset := range []int{0x08, 0x0c, 0x10, 0x90} { // atime, ctime, mtime, crtime
		le.PutUint32(b[offset:], fs.now)
	}
	le.PutUint16(b[0x1a:], links)
	le.PutUint32(b[0x1c:], blockSize/512) // i_blocks_lo
	le.PutUint32(b[0x20:], 0x80000)       // i_flags: extents

	tree := b[0x28:]
	le.PutUint16(tree[0:], 0xf30a) // eh_magic
	le.PutUint16(tree[2:], 1)      // eh_entries
	le.PutUint16(tree[4:], 4)      // eh_max
	le.PutUint16(tree[16:], 1)     // ee_len
	le.PutUint32(tree[20:], uint32(block))

	le.PutUint16(b[0x80:], 32) // i_extra_isize
}

type entry struct {
	inode uint32
	name  string
}

// folder is a block of "struct ext4_dir_entry_2"; the last entry reaches to the block's end. All are folders.
func folder(entries ...entry) []byte {
	b := make([]byte, blockSize)
	at := 0
	for i, e := range entries {
		length := (8 + len(e.name) + 3) &^ 3
		if i == len(entries)-1 {
			length = blockSize - at
		}
		le.PutUint32(b[at:], e.inode)
		le.PutUint16(b[at+4:], uint16(length))
		b[at+6], b[at+7] = byte(len(e.name)), 2
		copy(b[at+8:], e.name)
		at += length
	}
	return b
}

// bitmap is a block whose first used bits are set, and all behind the first length, which stand for nothing.
func bitmap(used, length int64) []byte {
	b := make([]byte, blockSize)
	for i := range int64(8 * blockSize) {
		if i < used || i >= length {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// crc16 is the CRC of gdt_csum: the polynomial 0x8005, reflected.
func crc16(sum uint16, data []byte) uint16 {
	for _, b := range data {
		sum ^= uint16(b)
		for range 8 {
			low := sum & 1
			sum >>= 1
			if low != 0 {
				sum ^= 0xa001
			}
		}
	}
	return sum
}
