package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"smartvm/internal/bootargs"
)

// imageInits are where the kernel looks for an init (init/main.c), and systemd's own place.
var imageInits = []string{"/sbin/init", "/etc/init", "/bin/init", "/lib/systemd/systemd"}

// becomeImageInit starts the agent and then becomes the image's own init, which is PID 1 from then on and the agent's
// parent. It returns only an error. An agent that dies later stays dead: nobody is left to start it again.
func becomeImageInit(line bootargs.Line) error {
	candidates := imageInits
	if path, ok := line.Last("init"); ok {
		candidates = []string{path}
	}
	for _, path := range candidates {
		info, err := os.Stat(path)
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			continue
		}
		if name, ok := line.Last("smartvm.hostname"); ok {
			if err := syscall.Sethostname([]byte(name)); err != nil {
				say("host name %q: %v", name, err)
			}
		}
		startAgent()
		return fmt.Errorf("%s: %w", path, syscall.Exec(path, []string{path}, []string{"HOME=/", "TERM=linux",
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}))
	}
	return fmt.Errorf("the image has no init to start: looked for %s", strings.Join(candidates, ", "))
}
