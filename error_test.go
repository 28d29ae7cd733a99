package smartvm

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCodesInTheCodeAndInTheDocsAgree(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "error.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	inCode := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Code" {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			inCode[spec.Names[0].Name] = value
		}
		return true
	})
	text, err := os.ReadFile("docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	inDocs := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| `([A-Za-z]+)` \\|").FindAllSubmatch(text, -1) {
		inDocs[string(row[2])] = string(row[1])
	}
	if len(inCode) == 0 {
		t.Fatal("no code was found in error.go")
	}
	if diff := cmp.Diff(inCode, inDocs); diff != "" {
		t.Errorf("error.go (-) and docs/errors.md (+) differ:\n%s", diff)
	}
}

func TestErrorIsItsCodeAndItsCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	err := fmt.Errorf("around: %w", &Error{Code: InvalidState, Op: "pause", VM: "a", Err: cause})
	if !errors.Is(err, InvalidState) || !errors.Is(err, cause) || errors.Is(err, InvalidConfig) {
		t.Errorf("errors.Is does not see through %v", err)
	}
	if got := CodeOf(err); got != InvalidState {
		t.Errorf("CodeOf = %q", got)
	}
	if got := CodeOf(cause); got != "" {
		t.Errorf("CodeOf of an error without a code = %q", got)
	}
	if got, want := err.Error(), `around: vm "a": pause: cause (INVALID_STATE)`; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
}
