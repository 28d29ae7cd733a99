package lazyregexp

import "testing"

func TestALazyExpressionMatchesAsAnyOther(t *testing.T) {
	t.Parallel()
	r := New(`^a(b+)$`)
	if !r.MatchString("abb") || r.MatchString("a") {
		t.Error("MatchString")
	}
	if got := r.FindStringSubmatch("abb"); len(got) != 2 || got[1] != "bb" {
		t.Errorf("FindStringSubmatch: %q", got)
	}
	if got := New("x").ReplaceAllString("axbx", "-"); got != "a-b-" {
		t.Errorf("ReplaceAllString: %q", got)
	}
}

func TestAWrongExpressionPanicsWhenItIsUsed(t *testing.T) {
	t.Parallel()
	r := New(`(`)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	r.MatchString("")
}
