package portmux

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// The stream holds two kinds of things, both big-endian:
//
//	chunk   length u16 (1…maxChunk), CRC32C u32 of session id, length and payload; then the payload
//	mark    magic 11 bytes (begins with an impossible length), kind u8, session id u64, CRC32C u32 of all before it
//
// A receiver that has lost its place only looks for marks. One that believes to know its place may be in the middle of a
// chunk whose rest will never come, so a mark that must be found in any state is sent after a filler of zeros as long as
// the longest chunk: the filler completes the chunk (its checksum fails), and zero is no length of a chunk.
const (
	chunkHeader = 2 + 4
	// maxChunk makes a chunk with its header 32 KiB: the most that Linux's virtio_console sends in one go
	// (drivers/char/virtio_console.c, port_fops_write).
	maxChunk  = 32<<10 - chunkHeader
	markSize  = len(magic) + 1 + 8 + 4
	fillerLen = chunkHeader + maxChunk
)

const magic = "\xff\xff\xa5smartvm\x1b"

type markKind byte

const (
	announce markKind = 1 + iota // guest: the port was opened; session id 0
	syncMark                     // host: session id begins
	echo                         // guest: session id began
)

type mark struct {
	kind    markKind
	session uint64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// append adds the mark's bytes to b.
func (m mark) append(b []byte) []byte {
	start := len(b)
	b = append(b, magic...)
	b = append(b, byte(m.kind))
	b = binary.BigEndian.AppendUint64(b, m.session)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// parseMark reads a mark from the start of b, which is at least markSize long.
func parseMark(b []byte) (mark, bool) {
	b = b[:markSize]
	body := b[:markSize-4]
	if string(b[:len(magic)]) != magic || crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(b[markSize-4:]) {
		return mark{}, false
	}
	m := mark{kind: markKind(b[len(magic)]), session: binary.BigEndian.Uint64(b[len(magic)+1:])}
	return m, m.kind >= announce && m.kind <= echo
}

// appendChunk adds one chunk of a session to b; the payload is head and body together, 1 to maxChunk bytes.
func appendChunk(b []byte, session uint64, head, body []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, uint16(len(head)+len(body)))
	b = append(b, 0, 0, 0, 0)
	b = append(b, head...)
	b = append(b, body...)
	binary.BigEndian.PutUint32(b[start+2:], chunkSum(session, b[start:]))
	return b
}

// chunkSum is the checksum of a whole chunk (header and payload) in a session.
func chunkSum(session uint64, chunk []byte) uint32 {
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], session)
	sum := crc32.Checksum(id[:], castagnoli)
	sum = crc32.Update(sum, castagnoli, chunk[:2])
	return crc32.Update(sum, castagnoli, chunk[chunkHeader:])
}

// receiver takes the stream apart. It holds at most two chunks of it in memory, whatever comes.
type receiver struct {
	r       *bufio.Reader
	synced  bool   // at the edge of a chunk, as far as we know
	session uint64 // of the chunks that are valid, while synced
	pending int    // length of the chunk that the last call returned
}

func newReceiver(r io.Reader) *receiver { return &receiver{r: bufio.NewReaderSize(r, 2*fillerLen)} }

// event is what came next: a mark, a chunk's payload (valid until the next call), or lost: something that is neither,
// after which only marks are looked for.
type event struct {
	mark    *mark
	payload []byte
	lost    bool
}

// begin makes the receiver expect chunks of a session from here on.
func (d *receiver) begin(session uint64) { d.synced, d.session = true, session }

// lose makes the receiver pass over everything up to the next mark.
func (d *receiver) lose() { d.synced = false }

// next waits for the next event. Its error is the stream's own.
func (d *receiver) next() (event, error) {
	if _, err := d.r.Discard(d.pending); err != nil {
		return event{}, err
	}
	d.pending = 0
	if !d.synced {
		return d.scan()
	}
	head, err := d.r.Peek(2)
	if err != nil {
		return event{}, err
	}
	n := int(binary.BigEndian.Uint16(head))
	if n == 0xffff {
		return d.markHere()
	}
	if n == 0 || n > maxChunk {
		d.lose()
		return event{lost: true}, nil
	}
	chunk, err := d.r.Peek(chunkHeader + n)
	if err != nil {
		return event{}, err
	}
	if binary.BigEndian.Uint32(chunk[2:]) != chunkSum(d.session, chunk) {
		d.lose() // nothing is passed over: a mark may be within
		return event{lost: true}, nil
	}
	d.pending = len(chunk)
	return event{payload: chunk[chunkHeader:]}, nil
}

// markHere reads a mark at the edge of a chunk.
func (d *receiver) markHere() (event, error) {
	b, err := d.r.Peek(markSize)
	if err != nil {
		return event{}, err
	}
	m, ok := parseMark(b)
	if !ok {
		d.lose()
		return event{lost: true}, nil
	}
	d.pending = markSize
	return event{mark: &m}, nil
}

// scan passes over everything up to a mark. A mark is never waited for longer than until its last byte came: where it
// begins, markSize bytes are left to peek at.
func (d *receiver) scan() (event, error) {
	for {
		b, err := d.r.Peek(markSize)
		if err != nil {
			return event{}, err
		}
		if m, ok := parseMark(b); ok {
			d.pending = markSize
			return event{mark: &m}, nil
		}
		skip := markSize
		if i := bytes.IndexByte(b[1:], magic[0]); i >= 0 {
			skip = 1 + i
		}
		if _, err := d.r.Discard(skip); err != nil {
			return event{}, err
		}
	}
}
