package bootargs

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestALineKeepsOrderRepetitionsAndQuotes(t *testing.T) {
	got := Parse(" console=ttyS0  ip=a ip=b \"quoted arg=x y\" k=\"v w\" bare\tt=1=2 -- init args\n")
	want := Line{{"console", "ttyS0"}, {"ip", "a"}, {"ip", "b"}, {"quoted arg", "x y"}, {"k", "v w"}, {"bare", ""}, {"t", "1=2"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if last, ok := got.Last("ip"); last != "b" || !ok {
		t.Errorf("Last: %q, %v", last, ok)
	}
	if all := got.All("ip"); !cmp.Equal(all, []string{"a", "b"}) {
		t.Errorf("All: %q", all)
	}
	if _, ok := got.Last("init"); ok {
		t.Error("what follows -- was read")
	}
}

func TestIPTakesAddressGatewayDeviceAndDNS(t *testing.T) {
	for in, want := range map[string]IP{
		"10.0.0.2::10.0.0.1:255.255.255.0::eth0:off": {Address: netip.MustParsePrefix("10.0.0.2/24"),
			Gateway: netip.MustParseAddr("10.0.0.1"), Device: "eth0"},
		"10.0.0.2::10.0.0.1:255.255.255.252:vm:eth1:none:1.1.1.1:9.9.9.9:10.0.0.9": {Address: netip.MustParsePrefix("10.0.0.2/30"),
			Gateway: netip.MustParseAddr("10.0.0.1"), Device: "eth1", Hostname: "vm",
			DNS: []netip.Addr{netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("9.9.9.9")}},
		"10.0.0.2":             {Address: netip.MustParsePrefix("10.0.0.2/32")},
		"10.0.0.2:::0.0.0.0":   {Address: netip.MustParsePrefix("10.0.0.2/0")},
		"10.0.0.2::::::":       {Address: netip.MustParsePrefix("10.0.0.2/32")},
		"10.0.0.2:::255.0.0.0": {Address: netip.MustParsePrefix("10.0.0.2/8")},
	} {
		got, err := ParseIP(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
			cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", in, diff)
		}
	}
}

func TestIPRefusesWhatIsNoFixedAddress(t *testing.T) {
	for _, in := range []string{"", "dhcp", "::::::dhcp", "10.0.0.2::::::dhcp", "10.0.0.256", "10.0.0.2::x", "10.0.0.2:::255.0.255.0",
		"10.0.0.2::::::off:dns", "fe80::1", "10.0.0.2:::24", "10.0.0.2::::::::::"} {
		if got, err := ParseIP(in); err == nil {
			t.Errorf("%q gave %+v", in, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("console=ttyS0 ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off \"a b\" -- x")
	f.Add("\"")
	f.Add("=\"\"=\" -- ")
	f.Fuzz(func(t *testing.T, line string) {
		for _, a := range Parse(line) {
			if a.Key == "ip" {
				if ip, err := ParseIP(a.Value); err == nil && (!ip.Address.IsValid() || !ip.Address.Addr().Is4()) {
					t.Fatalf("%q gave %+v", a.Value, ip)
				}
			}
		}
	})
}
