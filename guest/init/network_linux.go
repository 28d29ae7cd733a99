package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"smartvm/internal/bootargs"
)

// configureNetwork brings lo up and gives every `ip=` its interface. It returns the name servers that they named.
func configureNetwork(values []string) (dns []netip.Addr) {
	rt, err := openRoute()
	if err != nil {
		say("network: %v", err)
		return nil
	}
	defer rt.Close()
	if lo, err := net.InterfaceByName("lo"); err == nil {
		if err := rt.up(lo.Index); err != nil {
			say("lo: %v", err)
		}
	}
	for i, value := range values {
		ip, err := bootargs.ParseIP(value)
		if err == nil {
			err = configure(rt, ip, i)
		}
		if err != nil {
			say("network: %v", err)
			continue
		}
		dns = append(dns, ip.DNS...)
	}
	return dns
}

// configure sets one interface up. The first default route wins: the others get a higher metric.
func configure(rt *route, ip bootargs.IP, nth int) error {
	dev, err := device(ip.Device)
	if err != nil {
		return err
	}
	if err := rt.up(dev.Index); err != nil {
		return fmt.Errorf("%s: up: %w", dev.Name, err)
	}
	if err := rt.address(dev.Index, ip.Address); err != nil {
		return fmt.Errorf("%s: address %v: %w", dev.Name, ip.Address, err)
	}
	if !ip.Gateway.IsValid() {
		return nil
	}
	onlink := !ip.Address.Contains(ip.Gateway)
	if err := rt.defaultRoute(dev.Index, ip.Gateway, uint32(nth), onlink); err != nil {
		return fmt.Errorf("%s: default route via %v: %w", dev.Name, ip.Gateway, err)
	}
	return nil
}

// device finds an interface by name, or the first that is no loopback.
func device(name string) (*net.Interface, error) {
	if name != "" {
		dev, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("there is no interface %q", name)
		}
		return dev, nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, dev := range all {
		if dev.Flags&net.FlagLoopback == 0 && len(dev.HardwareAddr) > 0 {
			return &dev, nil
		}
	}
	return nil, fmt.Errorf("there is no interface for an address without a device")
}

// writeResolver makes the name servers known. A link that leads nowhere (an image made for systemd-resolved) is replaced.
func writeResolver(dns []netip.Addr) {
	if len(dns) == 0 {
		return
	}
	var b strings.Builder
	for _, addr := range dns {
		fmt.Fprintf(&b, "nameserver %v\n", addr)
	}
	const path = "/etc/resolv.conf"
	os.MkdirAll("/etc", 0o755)
	err := os.WriteFile(path, []byte(b.String()), 0o644)
	if err != nil {
		os.Remove(path)
		err = os.WriteFile(path, []byte(b.String()), 0o644)
	}
	if err != nil {
		say("name servers: %v", err)
	}
}
