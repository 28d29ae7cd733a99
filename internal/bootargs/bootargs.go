// Package bootargs reads and writes Linux's kernel command line, and its `ip=` argument.
package bootargs

import (
	"fmt"
	"net/netip"
	"strings"
)

// Arg is one argument; Value is empty where there is no "=".
type Arg struct{ Key, Value string }

// Line is a command line in order, with repetitions.
type Line []Arg

// Parse splits a command line as the kernel does (lib/cmdline.c, next_arg): at white space outside of double quotes; the
// quotes around a value, or around the whole argument, are taken off. What follows "--" is for init and is left out.
func Parse(line string) Line {
	var args Line
	for rest := strings.TrimLeft(line, space); rest != ""; rest = strings.TrimLeft(rest, space) {
		var word string
		word, rest = next(rest)
		if word == "--" {
			break
		}
		if len(word) >= 2 && word[0] == '"' && word[len(word)-1] == '"' {
			word = word[1 : len(word)-1]
		}
		key, value, _ := strings.Cut(word, "=")
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		args = append(args, Arg{key, value})
	}
	return args
}

const space = " \t\n\r\v\f"

func next(s string) (word, rest string) {
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case !quoted && strings.IndexByte(space, s[i]) >= 0:
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// Last returns the value of the last argument with a key, which is the one that counts for most keys.
func (l Line) Last(key string) (value string, ok bool) {
	for _, a := range l {
		if a.Key == key {
			value, ok = a.Value, true
		}
	}
	return value, ok
}

// All returns the values of all arguments with a key, in order.
func (l Line) All(key string) []string {
	var values []string
	for _, a := range l {
		if a.Key == key {
			values = append(values, a.Value)
		}
	}
	return values
}

// IP is an `ip=` argument with a fixed address (the kernel's Documentation/admin-guide/nfs/nfsroot.rst):
//
//	<client>:<server>:<gateway>:<netmask>:<hostname>:<device>:<autoconf>:<dns0>:<dns1>:<ntp0>
//
// The server, and the time server, are of no use here and left out.
type IP struct {
	Address  netip.Prefix // client and netmask; without a netmask /32
	Gateway  netip.Addr   // invalid for none
	Hostname string
	Device   string // "" for the first that there is
	DNS      []netip.Addr
}

// ParseIP reads the value of an `ip=` argument. Only fixed addresses are known: an autoconf of "off", "none" or nothing.
func ParseIP(value string) (IP, error) {
	f := strings.Split(value, ":")
	if len(f) > 10 {
		return IP{}, fmt.Errorf("ip=%s: %d fields, 10 are the most", value, len(f))
	}
	f = append(f, make([]string, 10-len(f))...)
	if mode := f[6]; mode != "" && mode != "off" && mode != "none" {
		return IP{}, fmt.Errorf("ip=%s: %q: only fixed addresses are supported (off)", value, mode)
	}
	client, err := netip.ParseAddr(f[0])
	if err != nil || !client.Is4() {
		return IP{}, fmt.Errorf("ip=%s: %q is no IPv4 address", value, f[0])
	}
	bits, err := prefixLength(f[3])
	if err != nil {
		return IP{}, fmt.Errorf("ip=%s: %w", value, err)
	}
	ip := IP{Address: netip.PrefixFrom(client, bits), Hostname: f[4], Device: f[5]}
	if f[2] != "" {
		if ip.Gateway, err = netip.ParseAddr(f[2]); err != nil || !ip.Gateway.Is4() {
			return IP{}, fmt.Errorf("ip=%s: %q is no IPv4 address", value, f[2])
		}
	}
	for _, dns := range f[7:9] {
		if dns == "" {
			continue
		}
		addr, err := netip.ParseAddr(dns)
		if err != nil || !addr.Is4() {
			return IP{}, fmt.Errorf("ip=%s: %q is no IPv4 address", value, dns)
		}
		ip.DNS = append(ip.DNS, addr)
	}
	return ip, nil
}

// prefixLength reads a netmask: ones, then zeros.
func prefixLength(mask string) (int, error) {
	if mask == "" {
		return 32, nil
	}
	addr, err := netip.ParseAddr(mask)
	if err != nil || !addr.Is4() {
		return 0, fmt.Errorf("%q is no netmask", mask)
	}
	b := addr.As4()
	m := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	for bits := 0; bits <= 32; bits++ {
		if m == uint32(uint64(0xffffffff)<<(32-bits)) {
			return bits, nil
		}
	}
	return 0, fmt.Errorf("%q is no netmask", mask)
}
