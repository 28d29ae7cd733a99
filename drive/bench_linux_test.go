package drive

import (
	"fmt"
	"path/filepath"
	"testing"

	"smartvm/internal/proof"
)

// BenchmarkStage stages a 10 GiB image: one with hardly any data, as a blank disk has, and one with 200 MiB of it. It
// reports what staging wrote (written-B/op) and what the result takes of the disk (disk-B/op).
func BenchmarkStage(b *testing.B) {
	proof.Host(b)
	const size = 10 << 30
	for _, image := range []struct {
		name string
		data int64
	}{{"sparse", 64 << 10}, {"200MiB", 200 << 20}} {
		// 256 extents, as real images have their data in many places.
		var offsets []int64
		for extent := range int64(256) {
			for block := range max(image.data/256/4096, 1) {
				offsets = append(offsets, extent*(size/256)+block*4096)
			}
		}
		for _, method := range []Method{Reflink, Overlay, Copy} {
			b.Run(fmt.Sprintf("image=%s/%s", image.name, method), func(b *testing.B) {
				privateMounts(b)
				images, target := b.TempDir(), b.TempDir()
				if method == Reflink {
					images = mountXFS(b)
					target = images
				}
				source := filepath.Join(images, "image")
				sparse(b, source, size, offsets...)
				benchmarkStage(b, Request{Source: source, Dir: target, Name: "root", AllowOverlay: method == Overlay}, method)
			})
		}
	}
}

func benchmarkStage(b *testing.B, req Request, method Method) {
	var written, disk int64
	for b.Loop() {
		staged, err := Stage(b.Context(), req)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if staged.Method != method {
			b.Fatalf("staged by %s: is TMPDIR on a filesystem with reflinks?", staged.Method)
		}
		written += staged.Written
		switch method {
		case Overlay:
			disk += onDisk(b, staged.Upper)
		case Copy:
			disk += onDisk(b, staged.Path)
		}
		if err := staged.Remove(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(written)/float64(b.N), "written-B/op")
	b.ReportMetric(float64(disk)/float64(b.N), "disk-B/op")
}
