package repo

import (
	"context"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// ahead are lists of a repository that is being opened, asked for before its keys are
// known: over a distance, looking for config and key and deriving it takes as long as some
// requests, and what is listed needs no key. Each list is for the first who asks for it.
//
// What they say is older than the question, by as long as opening takes. A reader, for whom
// a prune may come between any two requests, is not worse off. A writer relies on the order
// of its lists (docs/format.md, §9): it asks for them itself.
type ahead struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	lists  map[string]*aheadList // by directory
}

type aheadList struct {
	done    chan struct{}
	objects []listedObject
	unknown []string
	err     error
}

// listAhead begins to list what [Repository.LoadIndex] and [Repository.Snapshots] do.
func listAhead(ctx context.Context, b storage.Backend) *ahead {
	a := &ahead{lists: make(map[string]*aheadList)}
	ctx, a.cancel = context.WithCancel(ctx)
	r := &Repository{backend: b}
	// The index before the packs, as in loadLocked.
	for _, dirs := range [][]string{{"index", "packs"}, {kindDir(kindCondemned)}, {"snapshots"}} {
		lists := make([]*aheadList, len(dirs))
		for i, dir := range dirs {
			lists[i] = &aheadList{done: make(chan struct{})}
			a.lists[dir] = lists[i]
		}
		a.wg.Go(func() {
			for i, l := range lists {
				l.err = r.list(ctx, dirs[i], &l.unknown, func(id ID, size int64) { l.objects = append(l.objects, listedObject{id, size}) })
				close(l.done)
			}
		})
	}
	return a
}

// take waits for a list and gives it away; nil: there is none. a may be nil.
func (a *ahead) take(ctx context.Context, dir string) *aheadList {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	l := a.lists[dir]
	delete(a.lists, dir)
	a.mu.Unlock()
	if l == nil {
		return nil
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		return nil
	}
	if l.err != nil { // whoever asks gets an answer, or an error, of its own
		return nil
	}
	return l
}

// close ends what is under way. a may be nil.
func (a *ahead) close() {
	if a != nil {
		a.cancel()
		a.wg.Wait()
	}
}
