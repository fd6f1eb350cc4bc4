package repo

import (
	"os"
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
