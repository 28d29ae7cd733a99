package proof_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"smartvm/internal/proof"
)

// The README shows a program of another module that uses this one. It is taken from there and built.
func TestTheProgramInTheREADMEBuilds(t *testing.T) {
	t.Parallel()
	root := proof.Root(t)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	program := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindSubmatch(readme)
	if program == nil {
		t.Fatal("the README shows no program")
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	module := regexp.MustCompile(`(?m)^module (\S+)$`).FindSubmatch(mod)[1]
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string][]byte{
		"main.go": program[1],
		// A real user's `go mod tidy` fills in the rest; here the copies of what this module needs do, without the net.
		"go.sum": sum,
		"go.mod": bytes.ReplaceAll(bytes.Replace(mod, module, []byte("example.com/mine"), 1),
			[]byte("\ngo 1."), []byte("\nrequire "+string(module)+" v0.0.0\n\nreplace "+string(module)+" => "+root+"\n\ngo 1.")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-mod=mod", "-o", os.DevNull, ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOFLAGS=", "GOPROXY=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("go build: %v\n%s", err, out)
	}
}
