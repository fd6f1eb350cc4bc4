package repo

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// An aheadWatch counts lists and reads, fails the first ones of some directories, and lets
// nobody read a key before all has begun that can be without.
type aheadWatch struct {
	storage.Backend
	fail  map[string]bool // "list DIR", "get DIR": the first list, or all reads of an object's first time
	await []string        // the same

	mu    sync.Mutex
	asked map[string]int // "list DIR", "get DIR", "get NAME"
	begun chan struct{}  // closed when all that is awaited has
}

func watchAhead(b storage.Backend, fail map[string]bool, await ...string) *aheadWatch {
	return &aheadWatch{Backend: b, fail: fail, await: await, asked: make(map[string]int), begun: make(chan struct{})}
}

// note counts a request, and says whether it is to fail.
func (w *aheadWatch) note(what, one string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	missing := func(what string) bool { return w.asked[what] == 0 }
	before := slices.ContainsFunc(w.await, missing)
	w.asked[what]++
	if one != what {
		w.asked[one]++
	}
	if before && !slices.ContainsFunc(w.await, missing) {
		close(w.begun)
	}
	return w.fail[what] && w.asked[one] == 1
}

func (w *aheadWatch) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	if w.note("list "+dir, "list "+dir) {
		return errors.New("no answer")
	}
	return w.Backend.List(ctx, dir, fn)
}

func (w *aheadWatch) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	dir, _, _ := strings.Cut(name, "/")
	if w.note("get "+dir, "get "+name) {
		return nil, errors.New("no answer")
	}
	if dir == "keys" {
		select {
		case <-w.begun:
		case <-time.After(time.Minute):
			return nil, errors.New("nothing was asked for ahead")
		}
	}
	return w.Backend.Get(ctx, name, off, length)
}

func (*aheadWatch) Close() error { return nil }

// TestAhead: what is to be listed, and on a new machine read, is asked for before the keys
// have been read, once, and gives what it gives otherwise.
func TestAhead(t *testing.T) {
	m := newStore(t)
	for seed := range uint64(3) {
		r, _ := openIn(t, m, "")
		mustBackup(t, r, smallSource(seed))
	}
	_, want := openIn(t, m, "")
	lists := []string{"list index", "list snapshots", "list condemned"}
	all := append(lists[:3:3], "get index", "get snapshots")
	known := t.TempDir()

	for _, c := range []struct {
		name  string
		fail  []string
		await []string
		cache string
	}{
		{"new machine", nil, all, t.TempDir()},
		{"no cache", nil, all, ""},
		{"lists fail", []string{"list index", "list snapshots", "list packs"}, lists, ""},
		{"reads fail", []string{"get index", "get snapshots"}, all, ""},
		{"cache is made", nil, all, known},
		{"cache", nil, lists, known},
	} {
		fail := make(map[string]bool)
		for _, what := range c.fail {
			fail[what] = true
		}
		m := m.Clone()
		b, ctx := watchAhead(m, fail, c.await...), t.Context()
		r, err := Open(ctx, b, Options{Credentials: []seal.Credential{testKey(0)}, Ahead: true, CacheDir: c.cache, CacheBytes: 1 << 20})
		if err != nil {
			t.Fatal(c.name, err)
		}
		report, err := r.LoadIndex(ctx)
		if err != nil || report.Packs != want.Packs || report.IndexObjects != want.IndexObjects || !report.OK() {
			t.Errorf("%s: %+v, %v; want %+v", c.name, report, err, want)
		}
		got, err := r.Snapshots(ctx)
		if err != nil || len(got) != 3 || slices.ContainsFunc(got, func(s RawSnapshot) bool { return s.Err != nil }) {
			t.Errorf("%s: snapshots %+v, %v", c.name, got, err)
		}
		for _, dir := range []string{"index", "packs", "snapshots", "condemned"} {
			what := "list " + dir
			if n := b.asked[what]; fail[what] != (n == 2) || n > 2 || n == 0 {
				t.Errorf("%s: %s was listed %d times", c.name, dir, n)
			}
		}
		for dir, n := range map[string]int{"get index": want.IndexObjects, "get snapshots": 3} {
			if c.name == "cache" {
				n = 0
			} else if fail[dir] {
				n *= 2
			}
			if b.asked[dir] != n {
				t.Errorf("%s: %s: %d times, not %d", c.name, dir, b.asked[dir], n)
			}
		}
		// Later lists are later: a snapshot that has come meanwhile is seen.
		if len(fail) == 0 {
			w, _ := openIn(t, m, "")
			mustBackup(t, w, smallSource(9))
			if s, err := r.Snapshots(ctx); err != nil || len(s) != 4 {
				t.Errorf("%d snapshots, %v", len(s), err)
			}
			if again, err := r.LoadIndex(ctx); err != nil || again.Packs <= report.Packs {
				t.Errorf("%+v, %v", again, err)
			}
		}
		r.Close()
	}
	// What does not open leaves nothing behind, and what is not asked for ends.
	b := watchAhead(m, nil, lists...)
	if _, err := Open(t.Context(), b, Options{Credentials: []seal.Credential{testKey(9)}, Ahead: true}); !errors.Is(err, seal.ErrWrongKey) {
		t.Error(err)
	}
	r, err := Open(t.Context(), b, Options{Credentials: []seal.Credential{testKey(0)}, Ahead: true})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

// TestAheadBytes: what waits for the key is bounded.
func TestAheadBytes(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	mustBackup(t, r, smallSource(1))
	a := listAhead(t.Context(), m)
	for _, l := range a.lists {
		<-l.done
	}
	large := []listedObject{{NewID(), aheadBytes - 1}, {NewID(), 1}, {NewID(), 1}}
	if names := a.announce("index", &aheadList{done: a.lists["index"].done, objects: large}); len(names) != 2 {
		t.Errorf("%d objects are read", len(names))
	}
	a.close()
}
