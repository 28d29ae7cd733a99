package main

import (
	"bytes"
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// goMod finds the module's path in a go.mod.
var goMod = regexp.MustCompile(`(?m)^module[ \t]+(\S+)[ \t]*$`)

// modulePath is what the go command takes as a module's path, a little stricter: the dot in the first element that a
// path needs to be fetched from the net is not asked for.
var modulePath = regexp.MustCompile(`^[a-z0-9][A-Za-z0-9._~-]*(/[A-Za-z0-9_][A-Za-z0-9._~-]*)*$`)

// rename gives the module in dir the path to and returns the files that it changed, relative to dir. All files are read
// and changed in memory first, so that a file that cannot be read or parsed leaves the tree as it was.
func rename(dir, to string) (changed []string, err error) {
	if !modulePath.MatchString(to) || strings.Contains(to, "..") {
		return nil, fmt.Errorf("%q is no module path; it looks like example.com/name", to)
	}
	root := filepath.Join(dir, "go.mod")
	mod, err := os.ReadFile(root)
	if err != nil {
		return nil, err
	}
	match := goMod.FindSubmatch(mod)
	if match == nil {
		return nil, fmt.Errorf("%s has no module line", root)
	}
	from := string(match[1])
	if from == to {
		return nil, nil
	}
	r, err := newRenamer(dir, from, to)
	if err != nil {
		return nil, err
	}
	texts := map[string][]byte{}
	for _, name := range r.files {
		before, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		after, err := r.text(name, before)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(before, after) {
			texts[name] = after
			changed = append(changed, name)
		}
	}
	for i, name := range changed {
		if err := overwrite(filepath.Join(dir, name), texts[name]); err != nil {
			return changed[:i], err
		}
	}
	return changed, nil
}

// renamer knows the tree whose module is renamed.
type renamer struct {
	from, to string
	files    []string
	phrases  *regexp.Regexp // where running text means the module, not the command of the same name
}

// newRenamer lists the files of the tree, without what is built and what git keeps, and the packages among them.
func newRenamer(dir, from, to string) (*renamer, error) {
	r := &renamer{from: from, to: to}
	var packages []string
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case entry.IsDir() && (rel == ".git" || rel == "bin" || rel == "build"):
			return fs.SkipDir
		case entry.IsDir():
			packages = append(packages, rel)
		case entry.Type().IsRegular() && isText(rel):
			r.files = append(r.files, rel)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.phrases = phrases(from, packages)
	return r, nil
}

// isText tells the files in which the module may be named: sources, pages, build files.
func isText(name string) bool {
	switch path.Ext(name) {
	case ".go", ".mod", ".md", ".yml", ".yaml", ".txtar", ".txt", ".sh":
		return true
	}
	return path.Base(name) == "Makefile" || name == ".ci/run"
}

// phrases compiles what counts as the module's path in running text; its second group is the path itself. `smartvm` may
// also be a command or a folder, so the path counts only
//   - in front of a folder of the tree: smartvm/firecracker, but not /var/lib/smartvm/vms;
//   - in an import or in go.mod's words: import "smartvm", require smartvm v1.0.0, -replace=smartvm=../smartvm,
//     go get smartvm.
func phrases(from string, folders []string) *regexp.Regexp {
	var names []string
	for _, folder := range folders {
		if folder != "." {
			names = append(names, regexp.QuoteMeta(folder))
		}
	}
	// A longer name first: of alternatives the first that matches is taken.
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) })
	module := regexp.QuoteMeta(from)
	var forms []string
	if len(names) > 0 {
		forms = append(forms, `(^|[^\w./~$){}-])(`+module+`)(/(?:`+strings.Join(names, "|")+`)(?:[^\w-]|$))`)
	}
	forms = append(forms,
		`(^\s*(?:import\s+)?(?:[\w.]+\s+)?")(`+module+`)("\s*$)`,
		`((?:^|\W)(?:module|require|replace|go get)[ =])(`+module+`)([@\s=]|$)`,
	)
	return regexp.MustCompile(`(?m)` + strings.Join(forms, "|"))
}

// text returns the file with the module renamed.
func (r *renamer) text(name string, data []byte) ([]byte, error) {
	formatted := false
	if path.Ext(name) == ".go" {
		before, err := format.Source(data)
		formatted = err == nil && bytes.Equal(before, data)
		if data, err = r.imports(name, data); err != nil {
			return nil, err
		}
	}
	data = r.running(data)
	if formatted {
		// Imports are sorted by their path, which is another one now.
		return format.Source(data)
	}
	return data, nil
}

// imports renames in a Go file exactly what the parser calls an import.
func (r *renamer) imports(name string, data []byte) ([]byte, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, data, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	specs := slices.Clone(file.Imports)
	slices.Reverse(specs) // from the end, so that the offsets in front stay right
	for _, spec := range specs {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		rest, own := strings.CutPrefix(imported, r.from)
		if !own || rest != "" && rest[0] != '/' {
			continue
		}
		start, end := files.Position(spec.Path.Pos()).Offset, files.Position(spec.Path.End()).Offset
		data = slices.Replace(slices.Clone(data), start, end, []byte(strconv.Quote(r.to+rest))...)
	}
	return data, nil
}

// running renames in running text. A match may swallow the character in front of the next one, so it is done until
// nothing is left to do; the new path is hidden behind a NUL meanwhile, as it may contain the old one.
func (r *renamer) running(data []byte) []byte {
	const hidden = "\x00"
	if bytes.Contains(data, []byte(hidden)) {
		return data // no text
	}
	for {
		next := r.phrases.ReplaceAllFunc(data, func(match []byte) []byte {
			at := r.phrases.FindSubmatchIndex(match)
			for group := 2; group*2+1 < len(at); group += 3 {
				if start, end := at[group*2], at[group*2+1]; start >= 0 {
					return slices.Concat(match[:start], []byte(hidden), match[end:])
				}
			}
			return match
		})
		if bytes.Equal(next, data) {
			return bytes.ReplaceAll(data, []byte(hidden), []byte(r.to))
		}
		data = next
	}
}

// overwrite replaces a file's text and keeps its mode.
func overwrite(name string, data []byte) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, data, info.Mode().Perm())
}
