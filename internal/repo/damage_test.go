package repo

import (
	"strings"
	"testing"
)

// A damaged index object is reported each time, with the cache and without, and
// what its packs hold is read, verified and used all the same.
func TestDamagedIndexObject(t *testing.T) {
	for _, how := range []string{"before the cache", "behind the cache"} {
		t.Run(how, func(t *testing.T) {
			m, cache := newStore(t), t.TempDir()
			r, _ := openIn(t, m, "")
			s := smallSource(1)
			id, _ := mustBackup(t, r, s)
			name := objects(t, m, "index")[0]
			if how == "behind the cache" {
				r, _ = openIn(t, m, cache)
				r.Close()
			}
			flip(t, m, name, 60)
			for i := range 3 {
				r, report := openIn(t, m, cache)
				if how == "before the cache" && (report.OK() || len(report.DamagedIndex) != 1 || report.Adopted != report.Packs) {
					t.Errorf("open %d: %+v", i, report)
				}
				wantSnapshots(t, r, id)
				check, err := r.CheckData(t.Context(), CheckOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if check.Packs != report.Packs || check.Chunks != int64(len(s.data)+len(s.meta)) {
					t.Errorf("check %d read %d of %d packs, %d chunks", i, check.Packs, report.Packs, check.Chunks)
				}
				if len(check.Damaged) != 0 || len(check.Faults) != 1 || !strings.Contains(check.Faults[0], "index") {
					t.Errorf("check %d: %+v", i, check)
				}
				r.Close()
			}
			// A pack of it that is damaged is noticed, too.
			pack := packIDs(t, m)[0]
			flip(t, m, packName(pack), 20)
			r, _ = openIn(t, m, cache)
			check, err := r.CheckData(t.Context(), CheckOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(check.Damaged) == 0 || len(check.Faults) != 2 {
				t.Errorf("%+v", check)
			}
			r.Close()
			// The next backup publishes the tables again.
			replace(t, m, packName(pack), nil)
			r, _ = openIn(t, m, cache)
			again, _ := mustBackup(t, r, s)
			replace(t, m, name, nil)
			wantReadable(t, m, id, again)
		})
	}
}
