package smartvm

import (
	"fmt"
	"reflect"
	"strings"
)

// fieldsOf maps the keys of a part of the configuration to the indices of its fields.
func fieldsOf(t reflect.Type) map[string]int {
	fields := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		fields[keyOfField(t.Field(i))] = i
	}
	return fields
}

func keyOfField(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return key
}

// unknownKey says what is wrong with a key that the part t at path where does not have, and names the nearest one.
func unknownKey(name, where string, t reflect.Type) string {
	const longest = 64 // of our keys the longest has 21 bytes
	shown := name
	if len(shown) > longest {
		shown = strings.ToValidUTF8(shown[:longest], "") + "…"
	}
	text := fmt.Sprintf("unknown key `%s` in %s", strings.ToValidUTF8(shown, "?"), orFile(where))
	if len(name) > longest {
		return text
	}
	if other := homeOf(name); other != "" {
		return fmt.Sprintf("%s; it belongs in %s", text, other)
	}
	nearest, best := "", 0
	var keys []string
	for i := range t.NumField() {
		key := keyOfField(t.Field(i))
		keys = append(keys, key)
		if d := keyDistance(name, key); nearest == "" || d < best {
			nearest, best = key, d
		}
	}
	if best <= max(1, len(nearest)/3) {
		return fmt.Sprintf("%s; did you mean `%s`?", text, nearest)
	}
	return fmt.Sprintf("%s; the nearest known key is `%s`, all are: %s", text, nearest, strings.Join(keys, ", "))
}

// homeOf finds the one part of the configuration that has this very key, or "" when there is none or more than one.
func homeOf(name string) string {
	var homes []string
	var visit func(t reflect.Type, path string)
	visit = func(t reflect.Type, path string) {
		for i := range t.NumField() {
			f := t.Field(i)
			key := keyOfField(f)
			if key == name {
				homes = append(homes, orFile(path))
			}
			inner, below := f.Type, join(path, key)
			for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
				if inner.Kind() == reflect.Slice {
					below += "[]"
				}
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				visit(inner, below)
			}
		}
	}
	visit(reflect.TypeFor[Config](), "")
	if len(homes) != 1 {
		return ""
	}
	return homes[0]
}

// keyDistance is the Levenshtein distance of two keys as people mistype them: letters of another case, and the `_` and
// `-` of Firecracker's own keys, count nothing; a key that is a part of the other, as `kernel` is of `kernelImagePath`,
// is close to it.
func keyDistance(a, b string) int {
	plain := strings.NewReplacer("_", "", "-", "")
	a, b = strings.ToLower(plain.Replace(a)), strings.ToLower(plain.Replace(b))
	const word = 4
	if len(a) >= word && strings.Contains(b, a) || len(b) >= word && strings.Contains(a, b) {
		return min(max(len(a), len(b))-min(len(a), len(b)), 2)
	}
	x, y := []rune(a), []rune(b)
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		diagonal := row[0]
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(y)]
}
