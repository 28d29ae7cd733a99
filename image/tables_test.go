package image

import (
	"strings"
	"testing"

	"smartvm/internal/cpuarch"
)

func TestInstalledModulesComeUnpackedWithModprobesTables(t *testing.T) {
	t.Parallel()
	const root = "lib/modules/" + testRelease + "/"
	packed := map[string][]byte{}
	for name, data := range testPackage(t, cpuarch.X8664) {
		name, ours := strings.CutPrefix(name, root)
		switch {
		case !ours || strings.Contains(name, "unwanted"): // it needs what nobody has
		case strings.HasSuffix(name, ".ko"):
			packed[name+".zst"] = pack(t, zstded, data)
		default:
			packed[name] = data
		}
	}
	installed, err := InstallModules(t.Context(), testRelease, packed)
	if err != nil {
		t.Fatal(err)
	}
	const dep = "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko: kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko" +
		" kernel/drivers/virtio/virtio.ko kernel/net/vmw_vsock/vsock.ko\n"
	if !strings.Contains(string(installed["modules.dep"]), dep) {
		t.Errorf("modules.dep lacks %q:\n%s", dep, installed["modules.dep"])
	}
	if !strings.Contains(string(installed["modules.alias"]), "alias fs-overlay overlay\n") {
		t.Errorf("modules.alias:\n%s", installed["modules.alias"])
	}
	if got, err := ModuleRelease(installed["kernel/drivers/virtio/virtio.ko"]); got != testRelease || err != nil {
		t.Errorf("virtio.ko is for %q, %v", got, err)
	}
	if _, ok := installed["modules.builtin"]; !ok {
		t.Error("modules.builtin is gone")
	}
}
