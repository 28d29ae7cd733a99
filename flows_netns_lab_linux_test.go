package smartvm

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"smartvm/internal/proof"
)

// netnsWithTAP makes a network namespace with a TAP in it that has the address, and the same MAC in all: a guest that goes on
// in another one remembers it.
func netnsWithTAP(t *testing.T, netns, tap, address string) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", netns).CombinedOutput(); err != nil {
			t.Errorf("the namespace %s is gone: %v: %s", netns, err, out)
		}
	})
	for _, line := range []string{"netns add %[1]s", "-n %[1]s tuntap add dev %[2]s mode tap", "-n %[1]s addr add %[3]s dev %[2]s", "-n %[1]s link set %[2]s address 06:00:00:00:00:03 up"} {
		if out, err := exec.Command("ip", strings.Fields(fmt.Sprintf(line, netns, tap, address))...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
}

func TestAJailedGuestIsOnTheNetworkOfItsNamespaceAlsoWhenItStartsAgainAndIsRestored(t *testing.T) {
	proof.LabLong(t)
	m, config := jailInTheLab(t)
	const tap = "nstap"
	netnsWithTAP(t, "flowns1", tap, "172.31.0.1/24")
	netnsWithTAP(t, "flowns2", tap, "172.31.0.1/24")
	config.NetNS = "flowns1"
	config.NetworkInterfaces = []NetworkInterface{{IfaceID: "net", HostDevName: tap, GuestMAC: "06:00:00:00:00:02"}}
	const reach = "ip link set eth0 up && ip addr add 172.31.0.2/24 dev eth0 && ping -c 1 -W 10 172.31.0.1"
	vm, agent := boot(t, m, config)
	check := func(vm *VM, netns string) {
		t.Helper()
		if got, want := vm.Config().NetNS, "/run/netns/"+netns; got != want {
			t.Errorf("it is said to be in %s, not in %s", got, want)
		}
		// ip-netns(8) binds the namespace's file to its name: both are the same file of nsfs.
		of, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", vm.PID()))
		if err != nil {
			t.Fatal(err)
		}
		if name, err := os.Stat("/run/netns/" + netns); err != nil || !os.SameFile(of, name) {
			t.Errorf("the VMM is in %v, not in %s, %v", of, netns, err)
		}
		if err := checkTAP(tap, ""); err == nil {
			t.Error("the host has the TAP")
		}
		stats, err := vm.Stats(t.Context())
		if err != nil || stats.NetReceived == 0 || stats.NetSent == 0 {
			t.Errorf("a ping counts %+v, %v", stats, err)
		}
	}
	sh(t, agent, reach)
	check(vm, "flowns1")
	if err := vm.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := vm.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	sh(t, agentOf(t, vm), reach)
	check(vm, "flowns1")

	if _, err := vm.TakeSnapshot(t.Context(), "netns", SnapshotOptions{}); err != nil {
		t.Fatal(err)
	}
	dir, err := m.SnapshotDir("netns")
	if err != nil {
		t.Fatal(err)
	}
	clone := create(t, m, Config{}) // with the same TAP and address, in another namespace
	if err := clone.Restore(t.Context(), dir, RestoreOptions{NetNS: "flowns2"}); err != nil {
		t.Fatal(err)
	}
	sh(t, agentOf(t, clone), "ping -c 1 -W 10 172.31.0.1")
	check(clone, "flowns2")
	lost := create(t, m, Config{})
	err = lost.Restore(t.Context(), dir, RestoreOptions{NetNS: "flowns3"})
	wantCode(t, err, InvalidConfig)
	if !strings.Contains(err.Error(), "ip netns add flowns3") {
		t.Errorf("%v does not say what to do", err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := m.RemoveSnapshot(t.Context(), "netns"); err != nil {
		t.Error(err)
	}
}
