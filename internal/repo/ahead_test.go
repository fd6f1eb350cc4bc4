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

// A listWatch counts lists, fails the first one of some directories, and lets nobody read a
// key before the lists have begun that can be made without.
type listWatch struct {
	storage.Backend
	fail map[string]bool

	mu    sync.Mutex
	lists map[string]int
	begun chan struct{} // closed when all three have
}

var listedAhead = []string{"index", "snapshots", "condemned"}

func watchLists(b storage.Backend, fail map[string]bool) *listWatch {
	return &listWatch{Backend: b, fail: fail, lists: make(map[string]int), begun: make(chan struct{})}
}

func (w *listWatch) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	w.mu.Lock()
	w.lists[dir]++
	first := w.lists[dir] == 1
	all := first && slices.Contains(listedAhead, dir) && !slices.ContainsFunc(listedAhead, func(d string) bool { return w.lists[d] == 0 })
	w.mu.Unlock()
	if all {
		close(w.begun)
	}
	if first && w.fail[dir] {
		return errors.New("no answer")
	}
	return w.Backend.List(ctx, dir, fn)
}

func (w *listWatch) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if strings.HasPrefix(name, "keys/") {
		select {
		case <-w.begun:
		case <-time.After(time.Minute):
			return nil, errors.New("nothing was listed ahead")
		}
	}
	return w.Backend.Get(ctx, name, off, length)
}

func (*listWatch) Close() error { return nil }

// TestAhead: what is to be listed is asked for before the keys have been read, once, and
// gives what it gives otherwise.
func TestAhead(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	mustBackup(t, r, smallSource(1))
	_, want := openIn(t, m, "")

	for name, fail := range map[string]map[string]bool{"": nil, "a list fails": {"index": true, "snapshots": true, "packs": true}} {
		m := m.Clone()
		b, ctx := watchLists(m, fail), t.Context()
		r, err := Open(ctx, b, Options{Credentials: []seal.Credential{testKey(0)}, Ahead: true})
		if err != nil {
			t.Fatal(name, err)
		}
		report, err := r.LoadIndex(ctx)
		if err != nil || report.Packs != want.Packs || report.IndexObjects != want.IndexObjects || !report.OK() {
			t.Errorf("%s: %+v, %v; want %+v", name, report, err, want)
		}
		if s, err := r.Snapshots(ctx); err != nil || len(s) != 1 {
			t.Errorf("%s: %d snapshots, %v", name, len(s), err)
		}
		for _, dir := range []string{"index", "packs", "snapshots", "condemned"} {
			if n := b.lists[dir]; fail[dir] != (n == 2) || n > 2 || n == 0 {
				t.Errorf("%s: %s was listed %d times", name, dir, n)
			}
		}
		// Later lists are later: a snapshot that has come meanwhile is seen.
		if fail == nil {
			w, _ := openIn(t, m, "")
			mustBackup(t, w, smallSource(2))
			if s, err := r.Snapshots(ctx); err != nil || len(s) != 2 {
				t.Errorf("%d snapshots, %v", len(s), err)
			}
			if again, err := r.LoadIndex(ctx); err != nil || again.Packs <= report.Packs {
				t.Errorf("%+v, %v", again, err)
			}
		}
		r.Close()
	}
	// What does not open leaves nothing behind, and what is not asked for ends.
	b := watchLists(m, nil)
	if _, err := Open(t.Context(), b, Options{Credentials: []seal.Credential{testKey(9)}, Ahead: true}); !errors.Is(err, seal.ErrWrongKey) {
		t.Error(err)
	}
	r, err := Open(t.Context(), b, Options{Credentials: []seal.Credential{testKey(0)}, Ahead: true})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}
