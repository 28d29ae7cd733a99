package main

import (
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"smartvm/internal/bootargs"
)

// boot brings the guest up and never returns.
func boot() {
	unix.Umask(0o022)
	// The kernel's own environment is made of unknown boot arguments; nothing of it is for us or for commands.
	os.Clearenv()
	mountAPI()
	claimConsole()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		say("Ctrl-Alt-Del stays with the kernel: %v", err) // in a container's PID namespace
	}
	line := commandLine()
	modules := moduleDir()
	loadModules(modules, func(path string) bool { return !filesystems(path) })
	dns := configureNetwork(line.All("ip"))

	image := false
	if mode, ok := line.Last("smartvm.init"); ok && mode == "image" {
		image = true
	}
	if spec, ok := line.Last("root"); ok {
		loadModules(modules, filesystems) // they go with the initramfs
		if err := enterRoot(spec, line); err != nil {
			giveUp(err)
		}
	}
	if image {
		if err := becomeImageInit(line); err != nil {
			giveUp(err)
		}
	}
	mountRest()
	setHostname(line)
	writeResolver(dns)
	if _, ok := line.Last("root"); !ok {
		go func() {
			defer rebootOnPanic()
			loadModules(modules, filesystems)
		}()
	}
	supervise()
}

func commandLine() bootargs.Line {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		say("no kernel command line: %v", err)
	}
	return bootargs.Parse(string(b))
}

// claimConsole gives us the console where the initramfs had no device node for it.
func claimConsole() {
	if _, err := unix.FcntlInt(2, unix.F_GETFD, 0); err == nil {
		return
	}
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		fd, err = unix.Open("/dev/null", unix.O_RDWR, 0)
	}
	if err != nil {
		return
	}
	for i := range 3 {
		if fd != i {
			unix.Dup3(fd, i, 0)
		}
	}
	if fd > 2 {
		unix.Close(fd)
	}
}

// setHostname takes the name from our argument, else from the image, else from the first `ip=` that has one.
func setHostname(line bootargs.Line) {
	name, _ := line.Last("smartvm.hostname")
	if name == "" {
		b, _ := os.ReadFile("/etc/hostname")
		name = strings.TrimSpace(string(b))
	}
	for _, value := range line.All("ip") {
		if ip, err := bootargs.ParseIP(value); err == nil && name == "" {
			name = ip.Hostname
		}
	}
	if name == "" {
		return
	}
	if err := syscall.Sethostname([]byte(name)); err != nil {
		say("host name %q: %v", name, err)
	}
}
