package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"smartvm/internal/cpio"
	"smartvm/internal/cpuarch"
)

// initramfs is the content of an initramfs before it is written: its members by path.
type initramfs map[string]node

// node is a member: a folder, a file, a link or a device.
type node struct {
	mode         uint32
	data         []byte // a file's content, a link's target
	major, minor uint32
}

// newInitramfs lays out the guest's first root filesystem. busybox may be nil.
func newInitramfs(init, busybox []byte, modules moduleSet) initramfs {
	fs := initramfs{}
	for _, dir := range []string{"dev", "etc", "mnt", "proc", "run", "sys", "usr", "var"} {
		fs.dir(dir, 0o755)
	}
	fs.dir("root", 0o700)
	fs.dir("tmp", 0o1777)
	fs.dir("bin", 0o755)
	fs.link("sbin", "bin")
	fs.link("usr/bin", "../bin")
	fs.link("usr/sbin", "../bin")
	fs.link("var/run", "../run")
	fs.link("etc/mtab", "../proc/self/mounts")

	// The kernel opens /dev/console for init before anything is mounted.
	fs["dev/console"] = node{mode: cpio.TypeChar | 0o600, major: 5, minor: 1}
	fs["dev/null"] = node{mode: cpio.TypeChar | 0o666, major: 1, minor: 3}

	fs.file("init", 0o755, init)
	for name, text := range etcFiles {
		fs.file("etc/"+name, 0o644, []byte(text))
	}
	if busybox != nil {
		fs.file("bin/busybox", 0o755, busybox)
		for _, applet := range busyboxApplets(busybox) {
			fs.link("bin/"+applet, "busybox")
		}
	}
	fs.modules(modules)
	return fs
}

// etcFiles are the least that programs expect to find: names for root and nobody, and for the machine itself.
var etcFiles = map[string]string{
	"group":         "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
	"hosts":         "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
	"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"os-release":    "NAME=\"SmartVM\"\nID=smartvm\nPRETTY_NAME=\"SmartVM default image\"\n",
	"passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"shells":        "/bin/sh\n",
}

// modules lays out /lib/modules/<release>: the modules, what init loads at boot, and modprobe's tables.
func (fs initramfs) modules(set moduleSet) {
	root := "lib/modules/" + set.release + "/"
	for _, m := range set.modules {
		fs.file(root+m.path, 0o644, m.data)
	}
	fs.file(root+"smartvm.modules", 0o644, []byte(set.list()))
	fs.file(root+"modules.dep", 0o644, []byte(set.dep()))
	fs.file(root+"modules.alias", 0o644, []byte(set.alias()))
}

func (fs initramfs) dir(name string, mode uint32) { fs[name] = node{mode: cpio.TypeDir | mode} }

func (fs initramfs) link(name, target string) {
	fs[name] = node{mode: cpio.TypeSymlink | 0o777, data: []byte(target)}
}

// file adds a file and the folders above it.
func (fs initramfs) file(name string, mode uint32, data []byte) {
	for i, c := range name {
		if _, known := fs[name[:i]]; c == '/' && !known {
			fs.dir(name[:i], 0o755)
		}
	}
	fs[name] = node{mode: cpio.TypeRegular | mode, data: data}
}

// write writes the archive, sorted by path, which puts every folder before what is in it. It is not compressed: the
// whole is some 10 MB, and on a CPU in software the kernel takes far longer to unpack it than a VMM to load it.
func (fs initramfs) write(w io.Writer, mtime uint32) error {
	cw := cpio.NewWriter(w, mtime)
	for _, name := range slices.Sorted(maps.Keys(fs)) {
		n := fs[name]
		h := cpio.Header{Name: name, Mode: n.mode, Size: int64(len(n.data)), Major: n.major, Minor: n.minor}
		if err := cw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := cw.Write(n.data); err != nil {
			return err
		}
	}
	return cw.Close()
}

// checkProgram makes sure that a program runs in the initramfs of an arch: there are no shared libraries.
func checkProgram(data []byte, arch string) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return errors.New("it is no ELF program")
	}
	if want := map[string]elf.Machine{cpuarch.X8664: elf.EM_X86_64, cpuarch.AArch64: elf.EM_AARCH64}[arch]; f.Machine != want {
		return fmt.Errorf("it is for another machine (%v) than %s", f.Machine, arch)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return fmt.Errorf("it is no program but an ELF file of type %v", f.Type)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is linked dynamically: the initramfs has no shared libraries")
		}
	}
	return nil
}

// busyboxApplets gives the applets that a busybox has, sorted, without running it: it may be for another machine. Its
// table of names is zero-terminated strings one after the other.
func busyboxApplets(busybox []byte) []string {
	var have []string
	for applet := range strings.FieldsSeq(knownApplets) {
		if bytes.Contains(busybox, []byte("\x00"+applet+"\x00")) {
			have = append(have, applet)
		}
	}
	return have
}

// knownApplets are the applets of busybox 1.35 to 1.37 that are of use in a guest. Those that would be in our init's
// way (init, linuxrc) and Debian's own tools in little (dpkg, rpm) are left out.
const knownApplets = `
	[ [[ adjtimex ar arch arp arping ascii ash awk base32 base64 basename bc blkdiscard blkid blockdev brctl bunzip2
	bzcat bzip2 cal cat chattr chgrp chmod chown chroot chrt cksum clear cmp comm cp cpio crc32 cttyhack cut date dc dd
	depmod devmem df diff dirname dmesg dnsdomainname dos2unix du echo ed egrep env expand expr factor fallocate false
	fdisk fgrep find findfs flock fold free freeramdisk fsfreeze fstrim ftpget ftpput fuser getopt getty grep groups
	gunzip gzip halt hd head hexdump hostid hostname httpd hwclock id ifconfig ifdown ifup insmod ionice ip ipaddr ipcalc
	iplink ipneigh iproute iprule kill killall killall5 less link linux32 linux64 ln logger login logname losetup ls
	lsattr lsmod lsof lspci lzcat lzma lzop md5sum mdev mesg mkdir mke2fs mkfifo mknod mkpasswd mkswap mktemp modinfo
	modprobe more mount mountpoint mt mv nc netstat nice nl nohup nologin nproc nsenter nslookup od partprobe passwd
	paste patch pgrep pidof ping ping6 pipe_progress pivot_root pkill pmap poweroff printenv printf ps pstree pwd pwdx
	rdate readlink realpath reboot renice reset resize rev rm rmdir rmmod route run-parts script sed seq setpriv setsid
	sh sha1sum sha256sum sha3sum sha512sum shred shuf sleep sort split ssl_client stat strings stty su sulogin sum
	swapoff swapon switch_root sync sysctl syslogd tac tail tar taskset tc tee telnet test tftp time timeout top touch
	tr traceroute traceroute6 true truncate ts tsort tty tunctl udhcpc udhcpc6 uevent umount uname uncompress unexpand
	uniq unix2dos unlink unlzma unshare unxz unzip uptime usleep uudecode uuencode vconfig vi w watch watchdog wc wget
	which who whoami xargs xxd xz xzcat yes zcat`
