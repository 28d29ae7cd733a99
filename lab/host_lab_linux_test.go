package lab_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"smartvm/drive"
	"smartvm/internal/kvm"
	"smartvm/internal/proof"
	"smartvm/lab"
)

func TestTheLabsKVMRunsGuests(t *testing.T) {
	proof.Lab(t)
	if r := kvm.Probe(t.Context(), kvm.DefaultPath); r.State != kvm.Usable {
		t.Errorf("KVM: %+v", r)
	}
}

func TestTheLabHasWhatAHostOfVMsHas(t *testing.T) {
	proof.Lab(t)
	for name, line := range map[string]string{
		"TAP":                  "ip tuntap add t0 mode tap user 1000 && ip link set t0 up && ip link del t0",
		"bridge and veth":      "ip link add br0 type bridge && ip link add v0 type veth peer name v1 && ip link set v0 master br0 && ip link del v0 && ip link del br0",
		"network namespace":    "ip netns add n && ip netns exec n ip link set lo up && ip netns del n",
		"WireGuard":            "ip link add wg0 type wireguard && wg genkey >key && wg set wg0 private-key key listen-port 51820 && wg show wg0 && ip link del wg0",
		"nftables":             "nft -f rules && nft list chain ip lab out && nft delete table ip lab",
		"cgroup v2":            "mkdir /sys/fs/cgroup/lab && cat /sys/fs/cgroup/lab/cgroup.procs && rmdir /sys/fs/cgroup/lab && grep -w memory /sys/fs/cgroup/cgroup.controllers",
		"overlay":              "mkdir l u w m && touch l/a && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w overlay m && ls m/a && umount m",
		"btrfs on a loop":      "truncate -s 128M disk && mkfs.btrfs -q disk && mkdir b && mount -o loop disk b && umount b",
		"QEMU":                 "qemu-system-x86_64 -accel help | grep kvm",
		"vhost and vsock":      "ls -l /dev/vhost-vsock",
		"a user without power": "su user -c 'id -u' | grep 1000",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			const rules = "table ip lab { chain out { type nat hook postrouting priority 100; ip saddr 172.16.0.0/16 counter masquerade; }\n}\n"
			if err := os.WriteFile(filepath.Join(dir, "rules"), []byte(rules), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-ec", line)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestTheLabClonesFiles(t *testing.T) {
	proof.Lab(t)
	for _, dir := range []string{lab.Scratch, "/var/lib/smartvm", t.TempDir()} {
		if !drive.CanReflink(dir) {
			t.Errorf("no reflinks in %s", dir)
		}
	}
}

// The jailer's pivot_root(2) fails on an initramfs, whose mount has no parent.
func TestTheLabsRootCanBePivoted(t *testing.T) {
	proof.Lab(t)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "unshare", "-m", "sh", "-ec",
		`mount --make-rslave / && mount -t tmpfs t . && cd "$PWD" && mkdir old bin && cp /bin/busybox bin && pivot_root . old && /bin/busybox ls /old/lab`)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "src") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTheLabReachesNobody(t *testing.T) {
	proof.Lab(t)
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if link.Name() != "lo" {
			t.Errorf("there is an interface %s", link.Name())
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{192, 0, 2, 1}}); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("connect to another host: %v", err)
	}
}
