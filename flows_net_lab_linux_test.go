package smartvm

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"smartvm/guest"
	"smartvm/internal/proof"
)

// tap makes a TAP of the host's, which only root may open.
func tap(t *testing.T, name, address string) string {
	t.Helper()
	for _, line := range []string{"tuntap add dev " + name + " mode tap", "addr add " + address + " dev " + name, "link set " + name + " up"} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "link", "del", name).CombinedOutput(); err != nil {
			t.Errorf("the TAP %s is gone: %v: %s", name, err, out)
		}
	})
	return name
}

// metadata sends a request to the metadata service and returns the last line of what it answers. busybox's wget cannot
// PUT, and nc does not learn that an answer is over: the service keeps the connection.
func metadata(t *testing.T, agent *guest.Agent, address, request string) string {
	t.Helper()
	return sh(t, agent, fmt.Sprintf(`printf '%s\r\n\r\n' | timeout 3 nc %s 80 | tail -n 1`, request, address))
}

// askMMDS asks the metadata service for a value, with a session token.
func askMMDS(t *testing.T, agent *guest.Agent, key string) string {
	t.Helper()
	token := metadata(t, agent, "169.254.169.254", `PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 300`)
	if token == "" || strings.ContainsAny(token, " '\r\n") {
		t.Fatalf("the token is %q", token)
	}
	return metadata(t, agent, "169.254.169.254", `GET /`+key+` HTTP/1.1\r\nX-metadata-token: `+token)
}

const upInGuest = "ip link set eth0 up && ip addr add 169.254.0.2/16 dev eth0 && ip addr add 172.30.0.2/24 dev eth0"

func TestAJailedGuestReachesItsTAPAndItsMetadataAlsoAfterRestores(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	config.NetworkInterfaces = []NetworkInterface{{IfaceID: "net", HostDevName: tap(t, "flow0", "172.30.0.1/24"), GuestMAC: "06:00:00:00:00:01"}}
	config.MMDS = &MMDS{Version: "V2", NetworkInterfaces: []string{"net"}}
	vm, agent := boot(t, m, config)
	sh(t, agent, upInGuest)
	sh(t, agent, "ping -c 1 -W 10 172.30.0.1")
	if err := vm.SetMetadata(t.Context(), map[string]any{"who": "the first"}); err != nil {
		t.Fatal(err)
	}
	if got := askMMDS(t, agent, "who"); got != "the first" {
		t.Errorf("the metadata say %q", got)
	}
	if got := metadata(t, agent, "169.254.169.254", "GET /who HTTP/1.1"); !strings.Contains(got, "No MMDS token provided") {
		t.Errorf("without a token V2 says %q", got)
	}
	if _, err := vm.TakeSnapshot(t.Context(), "net", SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	dir, err := m.SnapshotDir("net")
	if err != nil {
		t.Fatal(err)
	}
	// The first VM runs on, so that its TAP is in use. All three guests have the same address: the TAPs are apart.
	for i, name := range []string{"flow1", "flow2"} {
		host := fmt.Sprintf("172.30.%d.1", i+1)
		clone := create(t, m, Config{})
		if err := clone.Restore(t.Context(), dir, RestoreOptions{TAPs: map[string]string{"net": tap(t, name, host+"/24")}}); err != nil {
			t.Fatal(err)
		}
		if got := clone.Config().NetworkInterfaces[0].HostDevName; got != name {
			t.Errorf("the restored VM is said to have the TAP %s", got)
		}
		who := "restored over " + name
		if err := clone.SetMetadata(t.Context(), map[string]any{"who": who}); err != nil {
			t.Fatal(err)
		}
		agent := agentOf(t, clone)
		sh(t, agent, fmt.Sprintf("ip addr add 172.30.%d.2/24 dev eth0 && ping -c 1 -W 10 %s", i+1, host))
		if got := askMMDS(t, agent, "who"); got != who {
			t.Errorf("the metadata of the restored guest say %q", got)
		}
	}
	if got := askMMDS(t, agent, "who"); got != "the first" {
		t.Errorf("then the metadata of the first say %q", got)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := m.RemoveSnapshot(t.Context(), "net"); err != nil {
		t.Error(err)
	}
}

func TestAJailedGuestReadsMetadataV1WithoutAToken(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	config.NetworkInterfaces = []NetworkInterface{{IfaceID: "net", HostDevName: tap(t, "flow3", "172.30.0.1/24")}}
	config.MMDS = &MMDS{Version: "V1", NetworkInterfaces: []string{"net"}, IPv4Address: "169.254.169.250"}
	vm, agent := boot(t, m, config)
	if err := vm.SetMetadata(t.Context(), map[string]any{"a": map[string]any{"b": "found"}}); err != nil {
		t.Fatal(err)
	}
	sh(t, agent, upInGuest)
	if got := metadata(t, agent, "169.254.169.250", "GET /a/b HTTP/1.1"); got != "found" {
		t.Errorf("the metadata say %q", got)
	}
	if got := metadata(t, agent, "169.254.169.250", `GET /a HTTP/1.1\r\nAccept: application/json`); got != `{"b":"found"}` {
		t.Errorf("the metadata say %q", got)
	}
}
