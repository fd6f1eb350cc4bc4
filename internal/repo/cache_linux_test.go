package repo

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// However segments came and went, Close unmaps all of them.
func TestCloseUnmaps(t *testing.T) {
	m, cache := newStore(t), t.TempDir()
	mapped := func() int {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(maps), cache)
	}
	for i := range uint64(4) {
		r, _ := openIn(t, m, cache)
		for range 3 {
			if _, err := r.LoadIndex(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s := smallSource(i)
		mustBackup(t, r, s)
		r.index.mu.Lock()
		r.index.compact(true)
		r.index.mu.Unlock()
		if mapped() == 0 {
			t.Error("nothing is mapped: the cache is not used")
		}
		if i == 2 { // a damaged page
			segs := *r.index.segs.Load()
			segs[0].checked[0].Store(0)
			flipCached(t, cache, segs[0].file, pageBytes+3)
			if _, ok := r.Locate(hashOf(s.data[0])); !ok {
				t.Error("lost")
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if n := mapped(); n != 0 {
			t.Errorf("%d mappings are left", n)
		}
	}
}

// truncateMapped cuts pages of a mapped file off. Who reads them gets a SIGBUS.
func truncateMapped(t *testing.T, x *index, page int) {
	t.Helper()
	segs := *x.segs.Load()
	if len(segs) != 1 || segs[0].file == "" {
		t.Fatal("the index is not in one file")
	}
	must(t, os.Truncate(filepath.Join(x.cache.dir, segs[0].file), int64(page)*pageBytes))
}

// A cache that is cut off while it is in use is rebuilt from the repository, and
// what the process relies on stays known; or if that was cut off, too, the run has
// to be repeated.
func TestTruncatedWhileMapped(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	var s source
	for i := range uint64(400) {
		s.data = append(s.data, randomBytes(i, 100))
	}
	mustBackup(t, r, s)
	for page, what := range []string{"header", "entries", "entries", "entries", "entries", "keys", "blocks", "packs", "objects"} {
		for _, seen := range []bool{false, true} { // the pages' checksums
			t.Run(fmt.Sprintf("%d %s seen=%t", page, what, seen), func(t *testing.T) {
				cache := t.TempDir()
				r, _ := openIn(t, m, cache)
				w, err := r.NewWriter(t.Context(), WriterOptions{})
				must(t, err)
				defer w.Abort()
				if !w.Has(hashOf(s.data[0])) {
					t.Fatal("lost")
				}
				if seen {
					for _, c := range s.data {
						if _, ok := r.Locate(hashOf(c)); !ok {
							t.Fatal("lost")
						}
					}
				}
				before := r.index.reliedUpon()
				if len(before) != 1 {
					t.Fatalf("%d packs are relied upon", len(before))
				}
				truncateMapped(t, &r.index, page)
				for i, c := range s.data {
					if loc, ok := r.Locate(hashOf(c)); !ok || loc.Size != uint32(len(c)) {
						t.Fatalf("chunk %d: %+v, %t", i, loc, ok)
					}
				}
				after := r.index.reliedUpon()
				_, forgotten := after[ID{}]
				delete(after, ID{})
				if packsLost := page <= 7; forgotten != packsLost {
					t.Errorf("forgotten: %t", forgotten)
				}
				if !forgotten && !maps.Equal(before, after) {
					t.Errorf("relied upon %v, before %v", after, before)
				}
				err = w.Commit(NewID(), []byte("[]"))
				if forgotten != errors.Is(err, ErrRaced) || !forgotten && err != nil {
					t.Error(err)
				}
				check := wantClean(t, r)
				if check.Chunks != 400 {
					t.Errorf("%+v", check)
				}
				must(t, r.Close())
				r, report := openIn(t, m, cache)
				if !report.OK() {
					t.Errorf("%+v", report)
				}
				must(t, r.Close())
			})
		}
	}
}

// Damage of what says where chunks are does not forget what is relied upon.
func TestHealKeepsReliance(t *testing.T) {
	m, cache := newStore(t), t.TempDir()
	r, _ := openIn(t, m, cache)
	s := smallSource(1)
	mustBackup(t, r, s)
	must(t, r.Close())
	for range 3 { // the second time the cache is given up, the third it is new
		r, _ = openIn(t, m, cache)
		w, err := r.NewWriter(t.Context(), WriterOptions{})
		must(t, err)
		for round := range 2 {
			for _, c := range s.data {
				if !w.Has(hashOf(c)) {
					t.Fatal("lost")
				}
			}
			before := r.index.reliedUpon()
			if len(before) == 0 {
				t.Fatal("nothing is relied upon")
			}
			seg := (*r.index.segs.Load())[0]
			if seg.file == "" {
				if round == 0 {
					t.Fatal("nothing is mapped")
				}
				break
			}
			for i := range seg.checked {
				seg.checked[i].Store(0)
			}
			flipCached(t, cache, seg.file, pageBytes+3)
			for _, c := range s.data {
				if _, ok := r.Locate(hashOf(c)); !ok {
					t.Fatal("lost")
				}
			}
			if after := r.index.reliedUpon(); !maps.Equal(before, after) {
				t.Errorf("relied upon %v, before %v", after, before)
			}
		}
		must(t, w.Commit(NewID(), []byte("[]")))
		must(t, r.Close())
	}
}
