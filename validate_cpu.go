package smartvm

import (
	"fmt"
	"strconv"
	"strings"

	"smartvm/internal/cpuarch"
	"smartvm/internal/lazyregexp"
)

var kvmCapability = lazyregexp.New(`^!?[0-9]+$`)

// cpuConfig checks a custom CPU template as Firecracker reads it (cpu_config/templates.rs, templates_serde.rs).
func (v *validation) cpuConfig(key string, c *CPUConfig) {
	if c == nil {
		return
	}
	for i, capability := range c.KVMCapabilities {
		number := strings.TrimPrefix(capability, "!")
		if _, err := strconv.ParseUint(number, 10, 32); err != nil || !kvmCapability.MatchString(capability) {
			v.add(fmt.Sprintf("%s.kvmCapabilities[%d]", key, i), "must be a number, with ! in front to remove it, is %q", capability)
		}
	}
	v.onlyOn(cpuarch.X8664, key+".cpuidModifiers", len(c.CPUIDModifiers))
	v.onlyOn(cpuarch.X8664, key+".msrModifiers", len(c.MSRModifiers))
	v.onlyOn(cpuarch.AArch64, key+".regModifiers", len(c.RegModifiers))
	v.onlyOn(cpuarch.AArch64, key+".vcpuFeatures", len(c.VCPUFeatures))

	for i, m := range c.CPUIDModifiers {
		leaf := fmt.Sprintf("%s.cpuidModifiers[%d]", key, i)
		v.templateNumber(leaf+".leaf", m.Leaf, 32)
		v.templateNumber(leaf+".subleaf", m.Subleaf, 32)
		if len(m.Modifiers) == 0 {
			v.add(leaf+".modifiers", "is missing")
		}
		for j, r := range m.Modifiers {
			register := fmt.Sprintf("%s.modifiers[%d]", leaf, j)
			if r.Register == "" {
				v.add(register+".register", "is missing")
			}
			v.oneOf(register+".register", r.Register, "eax", "ebx", "ecx", "edx")
			v.bitmap(register+".bitmap", r.Bitmap, 32)
		}
	}
	for i, m := range c.MSRModifiers {
		msr := fmt.Sprintf("%s.msrModifiers[%d]", key, i)
		v.templateNumber(msr+".addr", m.Addr, 32)
		v.bitmap(msr+".bitmap", m.Bitmap, 64)
	}
	for i, m := range c.RegModifiers {
		register := fmt.Sprintf("%s.regModifiers[%d]", key, i)
		v.templateNumber(register+".addr", m.Addr, 64)
		v.bitmap(register+".bitmap", m.Bitmap, 128)
	}
	for i, m := range c.VCPUFeatures {
		v.bitmap(fmt.Sprintf("%s.vcpuFeatures[%d].bitmap", key, i), m.Bitmap, 32)
	}
}

func (v *validation) onlyOn(arch, key string, entries int) {
	if entries > 0 && v.arch != arch {
		v.add(key, "can only be given on %s", arch)
	}
}

// templateNumber checks a number that Firecracker takes as a string; its parser wants the prefix.
func (v *validation) templateNumber(key, s string, bits int) {
	if s == "" {
		v.add(key, "is missing")
		return
	}
	digits, base := strings.TrimPrefix(s, "0x"), 16
	if strings.HasPrefix(s, "0b") {
		digits, base = strings.TrimPrefix(s, "0b"), 2
	}
	if _, err := strconv.ParseUint(digits, base, bits); err != nil || digits == s {
		v.add(key, "must be a number of %d bits that starts with 0x or 0b, is %q", bits, s)
	}
}

func (v *validation) bitmap(key, s string, bits int) {
	if s == "" {
		v.add(key, "is missing")
		return
	}
	digits := strings.ReplaceAll(strings.TrimPrefix(s, "0b"), "_", "")
	if !strings.HasPrefix(s, "0b") || digits == "" || len(digits) > bits || strings.Trim(digits, "01x") != "" {
		v.add(key, "must be 0b and up to %d of 0, 1 and x, is %q", bits, s)
	}
}
