package firecracker

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"smartvm/internal/cgroup"
	"smartvm/internal/proof"
)

func TestAVMMStartsInItsCgroup(t *testing.T) {
	proof.Cgroups(t)
	hierarchy, err := cgroup.Mounted()
	if err != nil {
		t.Fatal(err)
	}
	const path = "smartvm-test-start"
	id, err := cgroup.Make(hierarchy, path, cgroup.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(hierarchy, path)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := cgroup.Remove(ctx, dir, id); err != nil {
			t.Error(err)
		}
	})
	p, err := Start(t.Context(), Command{Path: os.Args[0], Args: []string{"obedient"}, Dir: shortDir(t), Socket: "fc.sock", Cgroup: dir})
	if err != nil {
		t.Fatal(err)
	}
	if in, err := cgroup.Has(dir, p.PID()); !in || err != nil {
		t.Errorf("it is not in it: %v", err)
	}
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

func TestACgroupThatIsNotThereOrTheJailsToNameIsRefused(t *testing.T) {
	t.Parallel()
	command := Command{Path: os.Args[0], ID: "vm", Dir: shortDir(t), Socket: "fc.sock", Cgroup: filepath.Join(t.TempDir(), "none")}
	if _, err := Start(t.Context(), command); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one that is not there: %v", err)
	}
	command.Jail = &Jail{}
	if _, err := Start(t.Context(), command); err == nil || !strings.Contains(err.Error(), "named by the jail") {
		t.Errorf("one beside a jail's: %v", err)
	}
}
