package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"smartvm/internal/proof"

	"github.com/google/go-cmp/cmp"
)

// A small tree with the module's name in every place where it means the module, and in some where it does not.
var before = map[string]string{
	"go.mod":       "module acme\n\ngo 1.26.0\n",
	"tools/go.mod": "module acme/tools\n",
	"acme.go":      "// Package acme drives acme/engine; see [acme/engine.Start].\npackage acme\n\nimport \"acme/engine\"\n\nvar _ = engine.Start\n",
	"engine/engine.go": "package engine\n\n// Dir is no package: acme/vms lies in /var/lib/acme/engine.\nconst Dir = \"/var/lib/acme\"\n\n" +
		"// Start is for the command acme.\nfunc Start() {}\n",
	"cmd/acme/main.go": "package main\n\nimport (\n\t\"fmt\"\n\n\troot \"acme\"\n\t\"acmex/y\"\n)\n\nvar _, _, _ = fmt.Print, root.X, y.Z\n",
	"README.md": "# acme\n\n    go mod edit -require=acme@v0.0.0 -replace=acme=../acme\n\n```go\nimport \"acme\"\n```\n\n" +
		"`acme/engine` runs `bin/acme` from `./cmd/acme`; require acme v0.0.0\nreplace acme => ../acme\n",
	"Makefile":         "build:\n\tgo build -o bin/ ./cmd/acme\n\tgo vet acme/engine acme/engine\n",
	"build/cache.txt":  "acme/engine\n",
	"testdata/img.bin": "acme/engine\n",
}

var after = map[string]string{
	"go.mod":       "module example.com/acme/v2\n\ngo 1.26.0\n",
	"tools/go.mod": "module example.com/acme/v2/tools\n",
	"acme.go": "// Package acme drives example.com/acme/v2/engine; see [example.com/acme/v2/engine.Start].\npackage acme\n\n" +
		"import \"example.com/acme/v2/engine\"\n\nvar _ = engine.Start\n",
	"engine/engine.go": before["engine/engine.go"],
	// gofmt sorts the imports by the new path.
	"cmd/acme/main.go": "package main\n\nimport (\n\t\"fmt\"\n\n\t\"acmex/y\"\n\troot \"example.com/acme/v2\"\n)\n\nvar _, _, _ = fmt.Print, root.X, y.Z\n",
	"README.md": "# acme\n\n    go mod edit -require=example.com/acme/v2@v0.0.0 -replace=example.com/acme/v2=../acme\n\n" +
		"```go\nimport \"example.com/acme/v2\"\n```\n\n" +
		"`example.com/acme/v2/engine` runs `bin/acme` from `./cmd/acme`; require example.com/acme/v2 v0.0.0\nreplace example.com/acme/v2 => ../acme\n",
	"Makefile":         "build:\n\tgo build -o bin/ ./cmd/acme\n\tgo vet example.com/acme/v2/engine example.com/acme/v2/engine\n",
	"build/cache.txt":  before["build/cache.txt"],
	"testdata/img.bin": before["testdata/img.bin"],
}

func TestRenameChangesTheModuleAndNothingElse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeTree(t, dir, before)
	changed, err := rename(dir, "example.com/acme/v2")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(after, readTree(t, dir)); diff != "" {
		t.Errorf("tree after the renaming (-want +got):\n%s", diff)
	}
	if want := 6; len(changed) != want {
		t.Errorf("changed %d files (%q), want %d", len(changed), changed, want)
	}
}

func TestRenameThereAndBackGivesTheSameTree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeTree(t, dir, before)
	for _, to := range []string{"example.com/acme/v2", "acme"} {
		if _, err := rename(dir, to); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, readTree(t, dir)); diff != "" {
		t.Errorf("tree after both renamings (-want +got):\n%s", diff)
	}
}

func TestRenameRefusesWhatIsNoModulePath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeTree(t, dir, before)
	for _, to := range []string{"", "/x", "x/", "a b", "../x", "x/../y", "https://example.com/x", "-x", "x\ny"} {
		if _, err := rename(dir, to); err == nil {
			t.Errorf("rename to %q: no error", to)
		}
	}
	if diff := cmp.Diff(before, readTree(t, dir)); diff != "" {
		t.Errorf("a refused renaming changed the tree (-want +got):\n%s", diff)
	}
}

func TestRenameLeavesTheTreeAsItWasWhenAFileCannotBeParsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeTree(t, dir, before)
	writeTree(t, dir, map[string]string{"zzz/broken.go": "no Go at all"})
	if _, err := rename(dir, "example.com/x"); err == nil {
		t.Fatal("no error")
	}
	if got := readTree(t, dir)["go.mod"]; got != before["go.mod"] {
		t.Errorf("go.mod is %q", got)
	}
}

// This project itself is renamed, in a copy: every import still leads somewhere, and none leads to the old module.
func TestThisTreeCanBeRenamed(t *testing.T) {
	t.Parallel()
	const to = "example.com/somebody/microvm"
	dir := t.TempDir()
	copyTree(t, proof.Root(t), dir)
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	from := string(goMod.FindSubmatch(mod)[1])
	if _, err := rename(dir, to); err != nil {
		t.Fatal(err)
	}
	list := exec.Command("go", "list", "-deps", "-test", "-f", "{{with .Module}}{{.Path}}{{end}}", "./...")
	list.Dir = dir
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal("go list:", err)
	}
	modules := strings.Fields(string(out))
	own := 0
	for _, module := range modules {
		switch module {
		case to:
			own++
		case from:
			t.Error("a package of the old module is still imported")
		}
	}
	if own == 0 {
		t.Errorf("no package of %s among %q", to, modules)
	}
}

func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		target := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		files[filepath.ToSlash(rel)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// copyTree copies the sources, without what is built and what git keeps.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case rel == ".git" && !entry.IsDir(): // in a worktree a file
			return nil
		case rel == ".git" || rel == "bin" || rel == "build":
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}
