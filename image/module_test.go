package image

import (
	"bytes"
	"debug/elf"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"smartvm/internal/cpuarch"
)

func collect(t *testing.T, files map[string][]byte) (moduleSet, error) {
	t.Helper()
	var p packages
	t.Cleanup(func() { p.Close() })
	if err := p.add(t.Context(), folder(t, files), nil); err != nil {
		t.Fatal(err)
	}
	return collectModules(t.Context(), p.files, testRelease)
}

func TestModulesComeAfterAllThatTheyNeed(t *testing.T) {
	t.Parallel()
	set, err := collect(t, testPackage(t, cpuarch.X8664))
	if err != nil {
		t.Fatal(err)
	}
	var boot []string
	for _, p := range set.boot {
		boot = append(boot, path.Base(p))
	}
	want := []string{
		"virtio.ko", "virtio_ring.ko", "virtio_mmio.ko", "virtio_blk.ko", "virtio_console.ko", "vsock.ko",
		"vmw_vsock_virtio_transport_common.ko", "vmw_vsock_virtio_transport.ko", "failover.ko", "net_failover.ko",
		"virtio_net.ko", "virtio-rng.ko", "overlay.ko", "libx.ko", "squashfs.ko",
	}
	if diff := cmp.Diff(want, boot); diff != "" {
		t.Errorf("loaded at boot, -want +got:\n%s", diff)
	}
	var all []string
	for _, m := range set.modules {
		all = append(all, m.name)
		for _, need := range m.needs {
			if !slices.Contains(all, need) {
				t.Errorf("%s comes before %s", m.name, need)
			}
		}
	}
	if !slices.Contains(all, "libx") || slices.Contains(all, "late") || slices.Contains(all, "unwanted") {
		t.Errorf("a soft dependency is missing, or one too many is there: %v", all)
	}
}

func TestModprobesTablesAreAsDepmodWritesThem(t *testing.T) {
	t.Parallel()
	set, err := collect(t, testPackage(t, cpuarch.X8664))
	if err != nil {
		t.Fatal(err)
	}
	const dep = "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko: kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko" +
		" kernel/drivers/virtio/virtio.ko kernel/net/vmw_vsock/vsock.ko\n"
	if !strings.Contains(set.dep(), dep) {
		t.Errorf("modules.dep lacks %q:\n%s", dep, set.dep())
	}
	want := "alias virtio:d00000002v* virtio_blk\nalias fs-overlay overlay\nalias fs-squashfs squashfs\n"
	if diff := cmp.Diff(want, set.alias()); diff != "" {
		t.Errorf("modules.alias, -want +got:\n%s", diff)
	}
}

func TestCompressedModulesAreUnpacked(t *testing.T) {
	t.Parallel()
	plain, packed := testPackage(t, cpuarch.X8664), map[string][]byte{}
	for name, data := range plain {
		if strings.HasSuffix(name, ".ko") {
			packed[name+".zst"] = pack(t, zstded, data)
		} else {
			packed[name] = data
		}
	}
	want, err := collect(t, plain)
	if err != nil {
		t.Fatal(err)
	}
	got, err := collect(t, packed)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(moduleSet{}, module{})); err != nil || diff != "" {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
}

func TestModulesThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	const root = "lib/modules/" + testRelease + "/"
	for name, c := range map[string]struct {
		change func(map[string][]byte)
		want   string
	}{
		"another kernel's": {func(f map[string][]byte) {
			f[root+"kernel/drivers/virtio/virtio.ko"] = testModule(cpuarch.X8664, "5.10.0-1", "depends=")
		}, "for kernel 5.10.0-1"},
		"a needed one missing": {func(f map[string][]byte) { delete(f, root+"kernel/net/core/failover.ko") }, "needs module failover"},
		"a driver missing":     {func(f map[string][]byte) { delete(f, root+"kernel/drivers/block/virtio_blk.ko") }, "no module virtio_blk"},
		"ext4 nowhere":         {func(f map[string][]byte) { delete(f, root+"modules.builtin") }, "no module ext4"},
		"a circle": {func(f map[string][]byte) {
			f[root+"kernel/drivers/virtio/virtio.ko"] = testModule(cpuarch.X8664, testRelease, "depends=virtio_mmio")
		}, "circle"},
		"no module at all": {func(f map[string][]byte) { f[root+"kernel/drivers/virtio/virtio.ko"] = []byte("text") }, "no ELF file"},
		"no modinfo": {func(f map[string][]byte) {
			f[root+"kernel/drivers/virtio/virtio.ko"] = elfFile(elf.ET_REL, elf.EM_X86_64, "", nil)
		}, "no usable section .modinfo"},
		"another release": {func(f map[string][]byte) {
			for name := range f {
				if strings.HasPrefix(name, root+"kernel/") {
					delete(f, name)
				}
			}
			f["lib/modules/5.10.0-1/kernel/x.ko"] = nil
		}, "no package has modules"},
	} {
		files := testPackage(t, cpuarch.X8664)
		c.change(files)
		if _, err := collect(t, files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, c.want)
		}
	}
}

func TestModuleReleaseNamesTheKernelThatAModuleFits(t *testing.T) {
	t.Parallel()
	file := testModule(cpuarch.X8664, testRelease, "")
	for name, data := range map[string][]byte{"plain": file, "zstd": pack(t, zstded, file), "gzip": pack(t, gzipped, file)} {
		if got, err := ModuleRelease(data); got != testRelease || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := ModuleRelease(bytes.Repeat([]byte("x"), 100)); err == nil {
		t.Error("text has a release")
	}
}
