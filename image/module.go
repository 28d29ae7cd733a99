package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// maxModule bounds an unpacked kernel module, in bytes. The largest of those in use have 5 MB, with debug information
// some 50.
const maxModule = 128 << 20

// wantedModule is a module that the guest may need.
type wantedModule struct {
	name     string
	boot     bool // init loads it at boot; the others are there for modprobe
	required bool // an image without it is of no use: it is in the package or built into the kernel
}

// wantedModules are the drivers of a microVM's devices and what the guest's init mounts, in load order.
var wantedModules = []wantedModule{
	{"virtio_mmio", true, true},
	{"virtio_pci", true, false}, // Firecracker's --enable-pci
	{"virtio_blk", true, true},
	{"virtio_console", true, true}, // the agent's port in the emulator
	{"vmw_vsock_virtio_transport", true, true},
	{"virtio_net", true, true},
	{"virtio_rng", true, false},
	{"virtio_balloon", true, false},
	{"i8042", true, false}, // Ctrl-Alt-Del
	{"atkbd", true, false},
	{"overlay", true, true},
	{"ext4", true, true},
	{"squashfs", true, true},
	{"erofs", true, false},
	{"fuse", false, false},
	{"loop", false, false},
	{"virtio_mem", false, false},
	{"virtio_pmem", false, false},
	{"nd_pmem", false, false},
	{"ptp_kvm", false, false},
}

// module is a kernel module, unpacked.
type module struct {
	name     string // as the kernel knows it: underscores only
	path     string // below lib/modules/<release>, without the ending of a compression
	data     []byte
	depends  []string // modules that it takes symbols from
	softPre  []string // modules that should be there before it
	aliases  []string
	vermagic string
	needs    []string // names of all modules that must be there before it, in load order
}

// moduleSet are modules with all that they depend on, in load order.
type moduleSet struct {
	release string
	modules []module
	boot    []string // paths of those that init loads, in load order
}

// collectModules takes the wanted modules, and what they depend on, from the tree lib/modules/<release> of a package.
// Debian's packages have no modules.dep (depmod makes it when they are installed), so the modules themselves are asked.
func collectModules(ctx context.Context, files contents, release string) (moduleSet, error) {
	c, err := newModuleCollector(files, release)
	if err != nil {
		return moduleSet{}, err
	}
	set := moduleSet{release: release}
	for _, want := range wantedModules {
		if err := ctx.Err(); err != nil {
			return moduleSet{}, ctx.Err()
		}
		if _, ok := c.paths[want.name]; !ok {
			if want.required && !c.builtin[want.name] {
				return moduleSet{}, fmt.Errorf("the kernel %s has no module %s, and it is not built in: use a cloud kernel (linux-image-cloud-…)", release, want.name)
			}
			continue
		}
		m, err := c.load(want.name, nil)
		if err != nil {
			return moduleSet{}, err
		}
		if !want.boot {
			continue
		}
		for _, name := range append(slices.Clone(m.needs), m.name) {
			if p := c.loaded[name].path; !slices.Contains(set.boot, p) {
				set.boot = append(set.boot, p)
			}
		}
	}
	set.modules = c.order
	return set, nil
}

// moduleCollector loads modules and what they depend on, each once.
type moduleCollector struct {
	files   contents
	release string
	paths   map[string]string // name: path in files
	builtin map[string]bool
	loaded  map[string]module
	order   []module
}

func newModuleCollector(files contents, release string) (*moduleCollector, error) {
	c := &moduleCollector{files: files, release: release, paths: map[string]string{}, builtin: map[string]bool{}, loaded: map[string]module{}}
	root := "lib/modules/" + release + "/"
	for _, p := range files.names(func(p string) bool { return strings.HasPrefix(p, root+"kernel/") }) {
		if name, ok := moduleName(p); ok {
			c.paths[name] = p
		}
	}
	if len(c.paths) == 0 {
		return nil, fmt.Errorf("the kernel is %s, but no package has modules for it (%s)", release, root)
	}
	if _, ok := files[root+"modules.builtin"]; ok {
		const maxBuiltin = 4 << 20
		data, err := files.readAll(root+"modules.builtin", maxBuiltin)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			if name, ok := moduleName(strings.TrimSpace(line)); ok {
				c.builtin[name] = true
			}
		}
	}
	return c, nil
}

// load returns the module with the name, after all that it needs. chain are the modules that asked for it.
func (c *moduleCollector) load(name string, chain []string) (module, error) {
	if m, ok := c.loaded[name]; ok {
		return m, nil
	}
	if slices.Contains(chain, name) {
		return module{}, fmt.Errorf("modules depend on each other in a circle: %s", strings.Join(append(chain, name), ", "))
	}
	p, ok := c.paths[name]
	if !ok {
		return module{}, fmt.Errorf("module %s needs module %s, which no package has", chain[len(chain)-1], name)
	}
	m, err := c.read(name, p)
	if err != nil {
		return module{}, err
	}
	before := slices.Clone(m.depends)
	for _, soft := range m.softPre {
		// A soft dependency may name an alias, or something that is built in: what no module is called is left out.
		if _, ok := c.paths[soft]; ok && !slices.Contains(chain, soft) {
			before = append(before, soft)
		}
	}
	for _, dep := range before {
		d, err := c.load(dep, append(chain, name))
		if err != nil {
			return module{}, err
		}
		for _, n := range append(slices.Clone(d.needs), dep) {
			if !slices.Contains(m.needs, n) {
				m.needs = append(m.needs, n)
			}
		}
	}
	c.loaded[name] = m
	c.order = append(c.order, m)
	return m, nil
}

// read unpacks a module and reads what it says about itself.
func (c *moduleCollector) read(name, p string) (module, error) {
	data, err := c.files.readAll(p, maxModule)
	if err != nil {
		return module{}, err
	}
	if codec := codecOf(data); codec != "" {
		if data, err = unpackBytes(codec, data, maxModule); err != nil {
			return module{}, fmt.Errorf("module %s: %w", p, err)
		}
	}
	m, err := parseModule(data)
	if err != nil {
		return module{}, fmt.Errorf("module %s: %w", p, err)
	}
	if release, _, _ := strings.Cut(m.vermagic, " "); release != c.release {
		return module{}, fmt.Errorf("module %s is for kernel %s, not for %s", p, release, c.release)
	}
	m.name = name
	m.data = data
	m.path = strings.TrimPrefix(p[:strings.LastIndex(p, ".ko")+len(".ko")], "lib/modules/"+c.release+"/")
	return m, nil
}

// unpackBytes unpacks data in memory, up to limit bytes.
func unpackBytes(c codec, data []byte, limit int64) ([]byte, error) {
	zr, err := decompress(c, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	return io.ReadAll(bounded(zr, limit))
}

// moduleName gives the kernel's name for a module's file: x-y.ko.xz is x_y.
func moduleName(p string) (string, bool) {
	name, ending, ok := strings.Cut(path.Base(p), ".ko")
	switch ending {
	case "", ".xz", ".zst", ".gz":
		return strings.ReplaceAll(name, "-", "_"), ok && name != ""
	}
	return "", false
}

// maxModinfo bounds a module's description of itself, in bytes.
const maxModinfo = 4 << 20

// parseModule reads the section .modinfo of a module: "key=value" strings, each ended by a zero byte
// (include/linux/moduleparam.h in the kernel's source).
func parseModule(data []byte) (module, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return module{}, fmt.Errorf("no ELF file: %w", err)
	}
	section := f.Section(".modinfo")
	if section == nil || section.Type != elf.SHT_PROGBITS || section.Flags&elf.SHF_COMPRESSED != 0 || section.Size > maxModinfo {
		return module{}, errors.New("no kernel module: it has no usable section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return module{}, fmt.Errorf("read .modinfo: %w", err)
	}
	var m module
	for entry := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "vermagic":
			m.vermagic = value
		case "alias":
			m.aliases = append(m.aliases, value)
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					m.depends = append(m.depends, strings.ReplaceAll(name, "-", "_"))
				}
			}
		case "softdep":
			m.softPre = append(m.softPre, softDepsBefore(value)...)
		}
	}
	return m, nil
}

// softDepsBefore gives the names behind "pre:" in a soft dependency such as "pre: a b post: c".
func softDepsBefore(value string) []string {
	var names []string
	pre := false
	for _, word := range strings.Fields(value) {
		switch word {
		case "pre:":
			pre = true
		case "post:":
			pre = false
		default:
			if pre {
				names = append(names, strings.ReplaceAll(word, "-", "_"))
			}
		}
	}
	return names
}

// ModuleRelease tells for which kernel a module was built: the first word of its vermagic. The module may be packed
// with xz, zstd or gzip. The kernel refuses a module whose vermagic is not its own.
func ModuleRelease(data []byte) (string, error) {
	if c := codecOf(data); c != "" {
		var err error
		if data, err = unpackBytes(c, data, maxModule); err != nil {
			return "", fmt.Errorf("module: %w", err)
		}
	}
	m, err := parseModule(data)
	if err != nil {
		return "", fmt.Errorf("module: %w", err)
	}
	release, _, _ := strings.Cut(m.vermagic, " ")
	return release, nil
}

// list is the content of smartvm.modules: what init loads at boot, one path a line, in load order.
func (s moduleSet) list() string {
	return strings.Join(s.boot, "\n") + "\n"
}

// dep is the content of modules.dep as depmod(8) writes it: behind each module all that it needs, to be loaded from the
// last to the first.
func (s moduleSet) dep() string {
	paths := map[string]string{}
	for _, m := range s.modules {
		paths[m.name] = m.path
	}
	var b strings.Builder
	for _, m := range s.modules {
		b.WriteString(m.path + ":")
		for _, name := range slices.Backward(m.needs) {
			b.WriteString(" " + paths[name])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// alias is the content of modules.alias: the kernel asks modprobe for "fs-squashfs" when somebody mounts one.
func (s moduleSet) alias() string {
	var b strings.Builder
	for _, m := range s.modules {
		for _, a := range m.aliases {
			fmt.Fprintf(&b, "alias %s %s\n", a, m.name)
		}
	}
	return b.String()
}
