package tsc_test

import (
	"testing"

	"smartvm/internal/tsc"
)

func TestTheCounterIsMeasuredAlikeTwice(t *testing.T) {
	t.Parallel()
	sample := tsc.Take()
	one, err := sample.KHz()
	if err != nil {
		t.Fatal(err)
	}
	two, err := sample.KHz()
	if err != nil {
		t.Fatal(err)
	}
	if diff := max(one, two) - min(one, two); diff > one/1000 {
		t.Errorf("%d and %d kHz", one, two)
	}
	t.Logf("%d kHz", one)
}
