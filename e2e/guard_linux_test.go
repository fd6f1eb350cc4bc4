package e2e

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// letters is a text of some kilobytes.
func letters(i int) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("letter %d, to whom it may concern\n", i), 120+i%50))
}

// TestGuard: half of the files are encrypted between two runs. The run is suspicious, its
// destinations are told alike, retention stands still, and what was before comes back.
func TestGuard(t *testing.T) {
	t.Parallel()
	const files = 300
	w := newWorld(t)
	w.configure()
	for i := range files {
		w.write(letters(i), "src", fmt.Sprintf("d%d", i%7), fmt.Sprintf("%03d.txt", i))
	}
	src, a, b := w.path("src"), w.path("a"), w.path("b")
	conf := w.path("conf.ini")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `[META]
schema_version = 6
[DEFAULT]
source_dir = %s
mode = incremental
[BACKUPS]
backup_dirs = %s, %s
[RETENTION]
keep_last = 3
[ENCRYPTION]
enabled = yes
[GUARD]
fail = yes
`, src, a, b), 0o600))

	var last string
	for day := range 5 {
		for i := range 8 {
			w.write(letters(1000*day+i), "src", fmt.Sprintf("d%d", i%7), fmt.Sprintf("%03d.txt", 13*day+i))
		}
		w.write(letters(day), "src", "d1", fmt.Sprintf("new%d.txt", day))
		r := w.want(ok, "--config", conf, "backup")
		if strings.Contains(r.errout, "SUSPICIOUS") {
			t.Fatalf("day %d: %v", day, r)
		}
	}
	before := w.path("before")
	tool(t, w.dir, "cp", "-a", src, before)
	ids := func(dest string) (all []string) {
		var list []struct {
			ID         string   `json:"id"`
			Tags       []string `json:"tags"`
			Suspicions []string `json:"suspicions"`
		}
		r := w.want(ok, "--config", conf, "snapshots", "--backup-dirs", dest, "--json")
		must(t, json.Unmarshal([]byte(r.out), &list))
		for _, s := range list {
			all = append(all, s.ID)
		}
		if n := len(list); n > 0 {
			last = strings.Join(append(list[n-1].Tags, list[n-1].Suspicions...), " ")
		}
		return all
	}
	good := ids(a)
	if len(good) != 3 {
		t.Fatalf("%d snapshots are kept", len(good))
	}

	n := 0
	must(t, filepath.Walk(src, func(p string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		if n++; n%2 == 0 {
			return nil
		}
		data := make([]byte, info.Size())
		if _, err := rand.Read(data); err != nil {
			return err
		}
		return os.WriteFile(p, data, 0o644)
	}))
	r := w.want(partial, "--config", conf, "backup")
	if !strings.Contains(r.errout, "warning: SUSPICIOUS: ") || !strings.Contains(r.errout, "were readable and are noise now") {
		t.Errorf("no warning: %v", r)
	}
	for range 4 {
		w.write(letters(7), "src", "d1", "new.txt")
		w.want(ok, "--config", conf, "backup")
	}
	for _, dest := range []string{a, b} {
		now := ids(dest)
		if strings.Join(now[:3], " ") != strings.Join(good, " ") {
			t.Errorf("%s: of %v, %v are left", dest, good, now)
		}
		r := w.want(failed, "--config", conf, "status", "--backup-dirs", dest)
		if !strings.Contains(r.out, "is suspicious") {
			t.Errorf("%v", r)
		}
	}
	for _, dest := range []string{a, b} {
		same(t, before, w.restore(ok, dest, good[2], src))
	}
	bad := ids(a)[3]
	w.want(ok, "--config", conf, "approve", bad)
	w.want(ok, "--config", conf, "status")
	w.want(ok, "--config", conf, "backup")
	for _, dest := range []string{a, b} {
		if now := ids(dest); len(now) != 3 {
			t.Errorf("%s: approved, %v are left", dest, now)
		}
		w.verify(ok, dest, "--read-data")
	}
	if strings.Contains(last, "suspicious") {
		t.Errorf("the last snapshot is %q", last)
	}
}
