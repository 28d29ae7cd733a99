package smartvm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"strings"
	"unicode"
)

// hintBytes is how much of a console's end is looked at for what tells why a guest failed.
const hintBytes = 16 << 10

// consoleHint picks from a console's last output what tells why a guest failed: the line of a kernel panic, else the last
// few lines. The guest wrote it, so it is cut and stripped of everything that a terminal would obey.
func consoleHint(tail []byte) string {
	const maxLines, maxLine = 3, 200
	clean := strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(string(bytes.TrimSpace(tail)), "?"))
	lines := strings.FieldsFunc(clean, func(r rune) bool { return r == '\n' })
	for i, line := range lines {
		if len(line) > maxLine {
			lines[i] = line[:maxLine]
		}
		if strings.Contains(line, "Kernel panic") {
			return fmt.Sprintf("%q", lines[i])
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return fmt.Sprintf("%q", strings.Join(lines[max(0, len(lines)-maxLines):], "\n"))
}

// panicLine returns the guest kernel's line that says why it panicked, or "".
func panicLine(tail []byte) string {
	for line := range lines(tail) {
		if at := strings.Index(line, "Kernel panic"); at >= 0 {
			return clip(strings.TrimSpace(printableText(line[at:])))
		}
	}
	return ""
}

// guestOutOfMemory tells whether the guest's kernel says that memory ran out (mm/oom_kill.c).
func guestOutOfMemory(tail []byte) bool {
	return bytes.Contains(tail, []byte("Out of memory: Killed process")) || bytes.Contains(tail, []byte("System is deadlocked on memory"))
}

// lastOutput is the end of what a VMM and its guest printed, the VMM's own words preferred; made printable.
func lastOutput(vmm, console []byte) string {
	for _, tail := range [][]byte{vmm, console} {
		text := strings.TrimSpace(printableText(string(tail[max(0, len(tail)-1024):])))
		if text != "" {
			return text
		}
	}
	return ""
}

// printableText strips a guest's or a VMM's words of everything that a terminal would obey; line ends stay.
func printableText(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(text, "?"))
}

func clip(line string) string {
	const most = 200
	if len(line) > most {
		return strings.ToValidUTF8(line[:most], "") + "…"
	}
	return line
}

func lines(text []byte) iter.Seq[string] { return strings.Lines(string(text)) }

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
