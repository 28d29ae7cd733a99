package guest

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

// dist holds our init for each architecture, when `make guest-init` has built it; in a clean clone it holds only a
// README, so that a plain `go build ./...` works.
//
//go:embed all:dist
var dist embed.FS

// ErrNoInit says that this program was built without our init for an architecture.
var ErrNoInit = errors.New("guest: built without the guest's init")

// Init returns our init for an architecture, "x86_64" or "aarch64" (Go's names "amd64" and "arm64" do too): a static
// program, at most 4 MB, to be /init of an initramfs.
func Init(arch string) ([]byte, error) {
	goarch, ok := map[string]string{"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}[arch]
	if !ok {
		return nil, fmt.Errorf("guest: there is no init for architecture %q: x86_64 and aarch64 exist", arch)
	}
	b, err := dist.ReadFile("dist/init-" + goarch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w for %s: run `make guest-init` and build again", ErrNoInit, arch)
	}
	return b, err
}
