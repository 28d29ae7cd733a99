package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
)

// InstallModules prepares all modules of a kernel as they lie on an installed system. packed are the files of a package
// below lib/modules/<release>/, by their path from there. The result has the modules unpacked, and what depmod(8) makes
// when a package is installed: modules.dep and modules.alias, as text, which is what busybox's modprobe reads. It serves
// systems that are put together without running anything of theirs.
func InstallModules(ctx context.Context, release string, packed map[string][]byte) (map[string][]byte, error) {
	root := "lib/modules/" + release + "/"
	files := contents{}
	installed := map[string][]byte{}
	for name, data := range packed {
		files[root+name] = inMemory(data)
		if _, module := moduleName(name); !module {
			installed[name] = data
		}
	}
	c, err := newModuleCollector(files, release)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(c.paths)) {
		if err := ctx.Err(); err != nil {
			return nil, ctx.Err()
		}
		if _, err := c.load(name, nil); err != nil {
			return nil, fmt.Errorf("install modules: %w", err)
		}
	}
	set := moduleSet{release: release, modules: c.order}
	for _, m := range set.modules {
		installed[m.path] = m.data
	}
	installed["modules.dep"] = []byte(set.dep())
	installed["modules.alias"] = []byte(set.alias())
	return installed, nil
}

// inMemory is a packaged file that was read already.
type inMemory []byte

func (m inMemory) size() int64                            { return int64(len(m)) }
func (m inMemory) read(use func(io.ReaderAt) error) error { return use(bytes.NewReader(m)) }
