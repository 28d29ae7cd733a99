package firecracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// BinaryTimeout bounds one question to a binary, when the context has no shorter deadline.
const BinaryTimeout = 5 * time.Second

const maxBinaryOutput = 64 << 10 // bytes of a binary's answer that are looked at

// Build is what a VMM binary says of itself.
type Build struct {
	Name    string // "Firecracker", or the emulator's: what GET / calls app_name
	Version Version
}

// Emulator tells that the binary is not Firecracker itself but answers its API in its place.
func (b Build) Emulator() bool { return b.Name != firecrackerName }

// The names of the two that are known.
const (
	firecrackerName = "Firecracker"
	emulatorName    = "Firecracker emulator"
)

// BinaryVersion runs the binary at path with --version. Firecracker answers "Firecracker v1.16.1"; our emulator answers
// the same, for clients that look no further, and says on the next line that it is one. Anything else is an error.
func BinaryVersion(ctx context.Context, path string) (Build, error) {
	answer, err := ask(ctx, path, "--version")
	if err != nil {
		return Build{}, err
	}
	line, rest, _ := strings.Cut(answer, "\n")
	number, ok := strings.CutPrefix(line, firecrackerName+" ")
	version, err := ParseVersion(number)
	if !ok || err != nil {
		return Build{}, fmt.Errorf("%s --version: %.80q is neither Firecracker's answer nor the emulator's: is it the right binary?",
			path, line)
	}
	build := Build{Name: firecrackerName, Version: version}
	if next, _, _ := strings.Cut(rest, "\n"); strings.Contains(next, "emulator") {
		build.Name = emulatorName
	}
	return build, nil
}

// SnapshotVersion runs the binary at path with --snapshot-version: the version of the snapshots that it writes. It loads
// those of the same major and no newer minor version.
func SnapshotVersion(ctx context.Context, path string) (Version, error) {
	answer, err := ask(ctx, path, "--snapshot-version")
	if err != nil {
		return Version{}, err
	}
	line, _, _ := strings.Cut(answer, "\n")
	v, err := ParseVersion(line)
	if err != nil {
		return Version{}, fmt.Errorf("%s --snapshot-version: %w", path, err)
	}
	return v, nil
}

// JailerVersion runs the jailer at path with --version: "Jailer v1.16.1".
func JailerVersion(ctx context.Context, path string) (Version, error) {
	answer, err := ask(ctx, path, "--version")
	if err != nil {
		return Version{}, err
	}
	line, _, _ := strings.Cut(answer, "\n")
	number, ok := strings.CutPrefix(line, "Jailer ")
	version, err := ParseVersion(number)
	if !ok || err != nil {
		return Version{}, fmt.Errorf("%s --version: %.80q is not the jailer's answer: is it the right binary?", path, line)
	}
	return version, nil
}

// ask runs the binary with one flag and returns what it prints.
func ask(ctx context.Context, path, flag string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, BinaryTimeout)
	defer cancel()
	var stdout, stderr bounded
	cmd := exec.CommandContext(ctx, path, flag)
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // a grandchild that holds the pipe must not hold us
	if err := cmd.Run(); err != nil {
		if reason := ctx.Err(); reason != nil {
			err = fmt.Errorf("no answer: %w", reason)
		}
		if said := lastLines(stderr.kept.Bytes()); said != "" {
			return "", fmt.Errorf("%s %s: %w: %s", path, flag, err, said)
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("%s %s: %w", path, flag, err)
		}
		return "", fmt.Errorf("%s %s cannot be run: %w", path, flag, err)
	}
	return strings.TrimSpace(stdout.kept.String()), nil
}

// bounded keeps the first bytes that are written and lets the rest go by. (It does not embed the buffer: io.Copy would
// find ReadFrom, and fill it without bound.)
type bounded struct{ kept bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.kept.Write(p[:min(len(p), maxBinaryOutput-b.kept.Len())])
	return len(p), nil
}
