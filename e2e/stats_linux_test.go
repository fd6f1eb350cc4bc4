package e2e

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// TestStatsUnique: what stats says that a snapshot has for itself is what a prune finds to
// be needed less when that snapshot is gone.
func TestStatsUnique(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	src, dest := w.tree(30, "src"), w.path("a")
	for i := range 5 {
		w.write(filestest.Bytes(fmt.Sprint("stays", i), 100_000), "src", "d1", fmt.Sprint("stays", i))
		w.write(filestest.Bytes(fmt.Sprint("goes", i), 50_000*(i+1)), "src", "d2", "changes")
		w.want(ok, append([]string{"backup"}, encrypted(src, dest)...)...)
	}
	type stats struct {
		Space struct {
			Groups []struct {
				Snapshots []struct {
					ID     string
					Unique int64 `json:"unique_bytes"`
					Added  int64 `json:"added_bytes"`
				}
			}
		}
	}
	look := func() (s stats, needed int64) {
		must(t, json.Unmarshal([]byte(w.want(ok, "stats", "--json", "--backup-dirs", dest).out), &s))
		var p []struct {
			Needed int64 `json:"needed_bytes"`
		}
		must(t, json.Unmarshal([]byte(w.want(ok, "prune", "-n", "--json", "--backup-dirs", dest).out), &p))
		return s, p[0].Needed
	}
	for range 3 {
		before, needed := look()
		victim := before.Space.Groups[0].Snapshots[1]
		if victim.Unique < 50_000 || victim.Unique > victim.Added {
			t.Errorf("%+v", victim)
		}
		w.want(ok, "forget", victim.ID, "--backup-dirs", dest)
		_, left := look()
		if gone := needed - left; gone < victim.Unique-1000 || gone > victim.Unique+1000 { // a prune rounds each chunk
			t.Errorf("%d bytes are needed less, %d were unique", gone, victim.Unique)
		}
	}
}
