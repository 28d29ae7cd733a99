package smartvm

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestKeyOf(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"web":                                  "web",
		"web-1":                                "web-1",
		"0":                                    "0",
		"a--b-":                                "a--b-",
		"01234567-89ab-4cde-8f01-23456789abcd": "01234567-89ab-4cde-8f01-23456789abcd",
		strings.Repeat("x", 63):                strings.Repeat("x", 63),
		strings.Repeat("x", 64):                strings.Repeat("x", 52) + "-7ce100971f",
		"Web_1":                                "web-1-93f4c8d00c",
		"web 1":                                "web-1-5bcf3c836b",
		"..":                                   "vm-5ec1f7e700",
		"":                                     "vm-e3b0c44298",
		"-web":                                 "web-9cc3145b16",
		"../../etc":                            "etc-74ccf3c5b4",
		"größe":                                "gr--e-d353a2671b",
		"web-1-93f4c8d00c":                     "web-1-93f4c8d00c-7bf0a57b4d",
	} {
		if got := keyOf(id); got != want {
			t.Errorf("keyOf(%q) = %q, want %q", id, got, want)
		}
	}
}

// ids are drawn from what people type and from what collides: other cases, other signs, cut names, keys of other ids.
func ids() *rapid.Generator[string] {
	near := rapid.StringMatching(`[abAB_. -]{0,4}`)
	return rapid.OneOf(
		rapid.String(),
		near,
		rapid.Custom(func(t *rapid.T) string { return keyOf(near.Draw(t, "id")) }),
		rapid.Custom(func(t *rapid.T) string {
			return strings.Repeat("x", rapid.IntRange(45, 70).Draw(t, "length")) + near.Draw(t, "end")
		}),
		rapid.StringMatching(`[a-z0-9-]{1,3}-[0-9a-f]{10}`),
	)
}

func TestTwoIDsNeverShareAKey(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := ids().Draw(t, "a"), ids().Draw(t, "b")
		if a != b && keyOf(a) == keyOf(b) {
			t.Fatalf("%q and %q share the key %q", a, b, keyOf(a))
		}
	})
}

func TestAKeyIsAlwaysAnIDForFirecrackerAndAFolderName(t *testing.T) {
	t.Parallel()
	valid := regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	rapid.Check(t, func(t *rapid.T) {
		id := ids().Draw(t, "id")
		key := keyOf(id)
		if !valid.MatchString(key) || filepath.Base(key) != key || key != keyOf(id) {
			t.Fatalf("keyOf(%q) = %q", id, key)
		}
	})
}
