package main

import (
	"strings"
	"testing"

	"smartvm"
)

func TestUpdateReadsWhatIsToBeChanged(t *testing.T) {
	t.Parallel()
	f := updateFlags{
		drives: []string{"data=a=b.img"}, balloon: "64", rx: []string{"eth0=10MiB"}, tx: []string{"eth0=0"}, io: []string{"data=50MiB/s"},
	}
	changes, err := f.changes()
	if err != nil {
		t.Fatal(err)
	}
	var what []string
	for _, c := range changes {
		what = append(what, c.what)
	}
	if got := strings.Join(what, ", "); got != "drive data, the balloon, interface eth0, interface eth0, drive data" {
		t.Errorf("changes: %s", got)
	}
	id, limit, err := parseRate("--io", f.io[0])
	if want := (smartvm.TokenBucket{Size: 50 << 20, RefillTime: 1000}); err != nil || id != "data" || *limit.Bandwidth != want {
		t.Errorf("%s, %+v, %v", id, limit, err)
	}
	if _, limit, err = parseRate("--tx", f.tx[0]); err != nil || *limit.Bandwidth != (smartvm.TokenBucket{}) {
		t.Errorf("a limit of 0 is %+v, %v", limit, err)
	}
	for want, bad := range map[string]updateFlags{
		`--drive "data" is not ID=PATH`: {drives: []string{"data"}},
		"--balloon":                     {balloon: "1KiB"},
		`--rx "=1" is not ID=RATE`:      {rx: []string{"=1"}},
		"--tx":                          {tx: []string{"eth0=fast"}},
		"--io":                          {io: []string{"data=-1"}},
	} {
		if _, err := bad.changes(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
