package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
)

// codec is a way of compression, by the name that its users know it under.
type codec string

const (
	gzipped   codec = "gzip"
	xzed      codec = "xz"
	zstded    codec = "zstd"
	lz4Legacy codec = "lz4"
	bzip2ed   codec = "bzip2"
	lzmaed    codec = "lzma"
	lzoed     codec = "lzo"
)

// Bounds of a decoder's memory. `zstd -22 --ultra`, which the kernel's build uses, has a window of 128 MiB; `xz -9`
// has a dictionary of 64 MiB.
const (
	maxZstdWindow = 128 << 20
	maxXzDict     = 64 << 20
)

// signatures are the first bytes of compressed data. The kernel's own list is in lib/decompress.c.
var signatures = []struct {
	codec codec
	magic string
}{
	{gzipped, "\x1f\x8b"},
	{xzed, "\xfd7zXZ\x00"},
	{zstded, "\x28\xb5\x2f\xfd"},
	{lz4Legacy, "\x02\x21\x4c\x18"},
	{bzip2ed, "BZh"},
	{lzmaed, "\x5d\x00\x00"},
	{lzoed, "\x89LZO"},
}

// codecOf tells by the first bytes how data is compressed; "" means not at all, or in a way that has no signature.
func codecOf(head []byte) codec {
	for _, s := range signatures {
		if bytes.HasPrefix(head, []byte(s.magic)) {
			return s.codec
		}
	}
	return ""
}

// decompress returns what r holds unpacked. The caller bounds what it reads. Close frees the decoder, not r.
func decompress(c codec, r io.Reader) (io.ReadCloser, error) {
	switch c {
	case gzipped:
		// The decoder must not look for a second member behind the first: a kernel's payload may have padding there.
		zr, err := gzip.NewReader(bufio.NewReader(r))
		if err != nil {
			return nil, err
		}
		zr.Multistream(false)
		return zr, nil
	case xzed:
		zr, err := xz.NewReader(r, maxXzDict)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(zr), nil
	case zstded:
		zr, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, err
		}
		return zr.IOReadCloser(), nil
	case lz4Legacy:
		return io.NopCloser(lz4.NewReader(r)), nil
	}
	return nil, fmt.Errorf("compressed with %s, which is not supported: gzip, xz, zstd and lz4 are", c)
}

// errTooLarge is what a bounded read ends with when there is more.
var errTooLarge = errors.New("larger than its limit")

// bounded returns r, but reading more than limit bytes fails with errTooLarge: nothing is cut off silently.
func bounded(r io.Reader, limit int64) io.Reader { return &boundedReader{r: r, left: limit} }

type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	// One byte more than allowed is asked for, so that data of exactly the limit ends with io.EOF.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if int64(n) > b.left {
		return int(b.left), errTooLarge
	}
	b.left -= int64(n)
	return n, err
}
