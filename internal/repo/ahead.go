package repo

import (
	"context"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// ahead are lists of a repository that is being opened, asked for before its keys are
// known: over a distance, looking for config and key and deriving it takes as long as some
// requests, and what is listed needs no key. On a machine that has no cache of the
// repository, index objects and snapshots follow, sealed as they are. Each list and each
// object is for the first who asks for it.
//
// What they say is older than the question, by as long as opening takes. A reader, for whom
// a prune may come between any two requests, is not worse off. A writer relies on the order
// of its lists (docs/format.md, §9): it asks for them itself.
type ahead struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	lists  map[string]*aheadList // by directory
	bodies map[string]*aheadBody // by name
}

type aheadList struct {
	done    chan struct{}
	asked   chan struct{} // closed when its objects are in bodies; nil: they will not be
	objects []listedObject
	unknown []string
	err     error
}

// An aheadBody is an object, sealed, that was asked for as soon as it was listed.
type aheadBody struct {
	done chan struct{}
	raw  []byte // nil: it could not be read
}

// aheadBytes bounds what is read of each directory before the key is known: it waits in
// memory.
const aheadBytes = 4 << 20

// listAhead begins to list what [Repository.LoadIndex] and [Repository.Snapshots] do.
func listAhead(ctx context.Context, b storage.Backend) *ahead {
	a := &ahead{lists: make(map[string]*aheadList), bodies: make(map[string]*aheadBody)}
	ctx, a.cancel = context.WithCancel(ctx)
	a.ctx = ctx
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

// fetch begins to read the index objects and snapshots that are listed, for a machine that
// has no cache of them: all are read next. Each is for the first who asks for it. It is
// called before anybody takes a list. a may be nil.
func (a *ahead) fetch(b storage.Backend) {
	if a == nil {
		return
	}
	for _, dir := range []string{"index", "snapshots"} {
		l := a.lists[dir]
		l.asked = make(chan struct{})
		a.wg.Go(func() {
			names := a.announce(dir, l)
			close(l.asked)
			var g errgroup.Group
			g.SetLimit(fetchers)
			for name, body := range names {
				g.Go(func() error {
					defer close(body.done)
					body.raw, _ = get(a.ctx, b, name, 0, -1) // nil with an error, which is that of whoever asks anew
					return nil
				})
			}
			g.Wait()
		})
	}
}

// announce waits for a list, and says which of its objects will be read.
func (a *ahead) announce(dir string, l *aheadList) map[string]*aheadBody {
	if !wait(a.ctx, l.done) || l.err != nil {
		return nil
	}
	names := make(map[string]*aheadBody)
	left := int64(aheadBytes)
	for _, o := range l.objects {
		if left -= o.size; left >= 0 {
			names[dir+"/"+o.id.String()] = &aheadBody{done: make(chan struct{})}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.Copy(a.bodies, names)
	return names
}

// takeBody waits for an object that is being read, and gives it away; nil: it is not, or
// that failed. a may be nil.
func (a *ahead) takeBody(ctx context.Context, name string) []byte {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	body := a.bodies[name]
	delete(a.bodies, name)
	a.mu.Unlock()
	if body == nil || !wait(ctx, body.done) {
		return nil
	}
	return body.raw
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
	if l == nil || !wait(ctx, l.done) || l.asked != nil && !wait(ctx, l.asked) {
		return nil
	}
	if l.err != nil { // whoever asks gets an answer, or an error, of its own
		return nil
	}
	return l
}

// wait waits until c is closed, and says whether it was before ctx ended.
func wait(ctx context.Context, c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}

// close ends what is under way. a may be nil.
func (a *ahead) close() {
	if a != nil {
		a.cancel()
		a.wg.Wait()
	}
}
