package guest

import (
	"fmt"
	"strconv"
	"strings"
)

// signals are Linux's numbers on x86-64 and arm64, which agree (signal(7)). The host may be another system, so its own
// names do not help.
var signals = [...]string{1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 5: "TRAP", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL",
	10: "USR1", 11: "SEGV", 12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 16: "STKFLT", 17: "CHLD", 18: "CONT",
	19: "STOP", 20: "TSTP", 21: "TTIN", 22: "TTOU", 23: "URG", 24: "XCPU", 25: "XFSZ", 26: "VTALRM", 27: "PROF",
	28: "WINCH", 29: "IO", 30: "PWR", 31: "SYS"}

// ParseSignal reads a signal as people write it: "TERM", "SIGTERM", "sigterm" or "15".
func ParseSignal(s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n >= 1 && n <= 64 {
			return n, nil
		}
		return 0, fmt.Errorf("guest: there is no signal %d: 1 to 64 exist", n)
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for n, known := range signals {
		if name != "" && name == known {
			return n, nil
		}
	}
	return 0, fmt.Errorf("guest: there is no signal %q", s)
}
