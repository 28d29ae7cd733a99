package smartvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
)

// ListOptions say which VMs are listed.
type ListOptions struct {
	// Live leaves out those that do not run.
	Live bool
}

// List tells about every VM below the data folder, whoever made it: oldest first. It asks all of them at once.
func (m *Manager) List(ctx context.Context, options ListOptions) ([]Status, error) {
	looks, err := m.looks()
	if err != nil {
		return nil, err
	}
	all := make([]Status, len(looks))
	var wait sync.WaitGroup
	places := make(chan struct{}, listAtOnce)
	for i, l := range looks {
		if options.Live && !l.state().Live() && l.state() != Configuring {
			continue
		}
		wait.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			all[i] = l.status(ctx)
		})
	}
	wait.Wait()
	all = slices.DeleteFunc(all, func(s Status) bool { return s.Key == "" })
	slices.SortStableFunc(all, func(a, b Status) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all, nil
}

// listAtOnce is how many VMs are asked at a time.
const listAtOnce = 64

// looks looks at every VM below the data folder.
func (m *Manager) looks() ([]look, error) {
	keys, err := m.keys()
	if err != nil {
		return nil, err
	}
	var looks []look
	for _, key := range keys {
		l := lookAt(m.options.folderOf(key))
		if errors.Is(l.err, fs.ErrNotExist) {
			if _, err := os.Lstat(l.folder.data); err != nil {
				continue // removed meanwhile
			}
			l.err = fmt.Errorf("%s has no record: it is no VM of this program's", l.folder.data)
		}
		looks = append(looks, l)
	}
	return looks, nil
}
