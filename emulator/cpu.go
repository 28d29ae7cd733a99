package emulator

import (
	"errors"
	"strconv"
	"strings"

	"smartvm/emulator/serde"
)

// cpuModel is what the static CPU templates ask of the host: vendor, family, model and stepping as CPUID gives them.
type cpuModel struct {
	vendor                  string
	family, model, stepping int
}

// The processors that Firecracker has static templates for (arch/x86_64/cpu_model.rs).
var (
	skylake     = cpuModel{"GenuineIntel", 6, 0x55, 4}
	cascadeLake = cpuModel{"GenuineIntel", 6, 0x55, 7}
	iceLake     = cpuModel{"GenuineIntel", 6, 0x6a, 6}
	milan       = cpuModel{"AuthenticAMD", 25, 1, 1}
)

// templateModels tells which processors a static template is for; the first one's vendor is the template's.
var templateModels = map[string][]cpuModel{
	"C3":   {skylake, cascadeLake, iceLake},
	"T2":   {skylake, cascadeLake, iceLake},
	"T2S":  {skylake, cascadeLake},
	"T2CL": {cascadeLake, iceLake},
	"T2A":  {milan},
}

// checkTemplate refuses a static template for another processor, as the start of a VM does.
func checkTemplate(template string, host cpuModel) error {
	if template == "" {
		return nil
	}
	models := templateModels[template]
	if host.vendor != models[0].vendor {
		return errors.New("Failed to get CPU template: CPU vendor mismatched between actual CPU and CPU template.")
	}
	for _, m := range models {
		if m == host {
			return nil
		}
	}
	return errors.New("Failed to get CPU template: The current CPU model is not permitted to apply the CPU template.")
}

// putCPUConfig is a custom CPU template. It is checked as JSON and has no effect.
type putCPUConfig struct{ onlyBeforeStart }

func parsePutCPUConfig(body []byte) (action, string, error) {
	return putCPUConfig{}, "", decode(body, decodeCPUConfig())
}

func (putCPUConfig) beforeStart(c *controller) (any, error) {
	c.setCustomCPU()
	return nil, nil
}

func (c *controller) setCustomCPU() {
	c.warn("CPU templates")
	c.vm.machine.CPUTemplate, c.vm.customCPU = "", true
}

func decodeCPUConfig() serde.Decode {
	type none struct{}
	list := func(item serde.Decode) serde.Decode {
		return serde.Vec(new([]none), func(*none) serde.Decode { return item })
	}
	text := func(check func(string) error) serde.Decode {
		return serde.Parsed(new(none), func(s string) (none, error) { return none{}, check(s) })
	}
	leaf := serde.OpenStruct("CpuidLeafModifier",
		serde.Required("leaf", text(checkNumber)),
		serde.Required("subleaf", text(checkNumber)),
		serde.Required("flags", serde.Uint32(new(uint32))),
		serde.Required("modifiers", list(serde.OpenStruct("CpuidRegisterModifier",
			serde.Required("register", text(checkRegister)),
			serde.Required("bitmap", text(checkBitmap(32)))))))
	msr := serde.OpenStruct("RegisterModifier",
		serde.Required("addr", text(checkNumber)),
		serde.Required("bitmap", text(checkBitmap(64))))
	return serde.Struct("CustomCpuTemplate",
		serde.Default("kvm_capabilities", list(text(checkCapability))),
		serde.Default("cpuid_modifiers", list(leaf)),
		serde.Default("msr_modifiers", list(msr)))
}

func checkRegister(s string) error {
	switch s {
	case "eax", "ebx", "ecx", "edx":
		return nil
	}
	return serde.Fail("Invalid CPUID register. Must be one of [eax, ebx, ecx, edx]")
}

func checkNumber(s string) error {
	base := 2
	digits, ok := strings.CutPrefix(s, "0b")
	if !ok {
		base = 16
		digits, ok = strings.CutPrefix(s, "0x")
	}
	if !ok {
		return serde.Fail("No supported number system prefix found in value [%s]. Make sure to prefix the number with "+
			"'0x' for hexadecimal numbers or '0b' for binary numbers.", s)
	}
	if kind := rustParseUint(digits, base); kind != "" {
		return serde.Fail("Failed to parse string [%s] as a number for CPU template - ParseIntError { kind: %s }", s, kind)
	}
	return nil
}

func checkCapability(s string) error {
	kind := rustParseUint(strings.TrimPrefix(s, "!"), 10)
	words := map[string]string{
		"Empty":        "cannot parse integer from empty string",
		"InvalidDigit": "invalid digit found in string",
		"PosOverflow":  "number too large to fit in target type",
	}
	if kind != "" {
		return serde.Fail("Failed to parse string [%s] as a kvm capability - can not convert to numeric: %s", s, words[kind])
	}
	return nil
}

// rustParseUint reads a number of 32 bits as Rust's from_str_radix does and names what is wrong with it.
func rustParseUint(s string, base int) (kind string) {
	if s == "" {
		return "Empty"
	}
	if s == "+" || strings.ContainsRune(s, '_') {
		return "InvalidDigit"
	}
	_, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), base, 32)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return "PosOverflow"
	case err != nil:
		return "InvalidDigit"
	}
	return ""
}

// checkBitmap accepts 0, 1 and x for each bit, with underscores between them.
func checkBitmap(size int) func(string) error {
	return func(s string) error {
		digits := strings.TrimPrefix(s, "0b")
		n := 0
		for i := len(digits) - 1; i >= 0; i-- {
			if n == size {
				return serde.Fail("Failed to parse string [%s] as a bitmap - string is too long", s)
			}
			switch digits[i] {
			case '_':
				continue
			case 'x', '0', '1':
			default:
				return serde.Fail("Failed to parse string [%s] as a bitmap - unknown character: %d", s, digits[i])
			}
			n++
		}
		return nil
	}
}
