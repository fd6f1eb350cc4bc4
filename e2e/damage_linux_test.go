package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// ways of damaging the object at path; other is another object of the same kind,
// foreign one of another repository.
var ways = []struct {
	name string
	do   func(t *testing.T, path, other, foreign string)
}{
	{"truncated", func(t *testing.T, path, _, _ string) {
		info, err := os.Stat(path)
		must(t, err)
		must(t, os.Truncate(path, info.Size()/2))
	}},
	{"empty", func(t *testing.T, path, _, _ string) { must(t, os.Truncate(path, 0)) }},
	{"flipped", func(t *testing.T, path, _, _ string) { flip(t, path) }},
	{"swapped", func(t *testing.T, path, other, _ string) {
		must(t, os.Rename(path, path+".tmp"))
		must(t, os.Rename(other, path))
		must(t, os.Rename(path+".tmp", other))
	}},
	{"foreign", func(t *testing.T, path, _, foreign string) {
		data, err := os.ReadFile(foreign)
		must(t, err)
		must(t, os.WriteFile(path, data, 0o600))
	}},
	{"missing", func(t *testing.T, path, _, _ string) { must(t, os.Remove(path)) }},
}

// flip changes one bit in ten places of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	for i := range 10 {
		data[len(data)*(2*i+1)/20] ^= 4
	}
	must(t, os.WriteFile(path, data, 0o600))
}

// TestDamage damages each kind of object in each way: verify notices and names
// it, restore gives everything back that is whole, under its final name only if it
// is whole, and says what is not, and a backup heals what the source still has.
func TestDamage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	src, dest := w.path("src"), w.path("repo")
	for i := range 30 { // several packs
		w.write(filestest.Bytes(fmt.Sprint("old", i), 600_000), "src", fmt.Sprintf("old-%02d", i))
	}
	first := w.backup(ok, encrypted(src, dest)...)
	for i := range 10 {
		w.write(filestest.Bytes(fmt.Sprint("new", i), 600_000), "src", fmt.Sprintf("new-%02d", i))
	}
	last := w.backup(ok, encrypted(src, dest)...)
	foreign := w.path("foreign")
	for range 2 {
		w.backup(ok, encrypted(src, foreign)...)
	}
	w.verify(ok, dest, "--read-data")

	biggest := func(repo, dir string) (all []string) {
		sizes := objects(t, repo, dir)
		return slices.SortedFunc(maps.Keys(sizes), func(a, b string) int {
			return int(sizes[b]-sizes[a]) + strings.Compare(a, b)
		})
	}
	for _, dir := range []string{"packs", "index", "snapshots", "keys", "config"} {
		for _, way := range ways {
			if testing.Short() && way.name != "flipped" && way.name != "missing" {
				continue
			}
			t.Run(dir+" "+way.name, func(t *testing.T) {
				w := *w
				w.t = t
				copied := w.path("copy")
				tool(t, "", "cp", "-a", dest, copied)
				defer removeAll(t, copied)
				// A cache that knows the store as it was is the harder case; the
				// cache belongs to the repository's ID, which the copy has too.
				w.verify(ok, copied)

				var path, other, alien string
				if dir == "config" {
					path, alien = filepath.Join(copied, dir), filepath.Join(foreign, dir)
					if way.name == "swapped" {
						return // there is only one
					}
				} else {
					path = biggest(copied, dir)[0]
					// Padding makes packs of one size now and then; one in the place of
					// another is found by reading only, as flipped bits are.
					size := objects(t, copied, dir)[path]
					unlike := func(repo string) string {
						sizes := objects(t, repo, dir)
						for _, p := range biggest(repo, dir) {
							if p != path && (dir != "packs" || sizes[p] != size) {
								return p
							}
						}
						return ""
					}
					other, alien = unlike(copied), unlike(foreign)
					if other == "" && way.name == "swapped" || alien == "" && way.name == "foreign" {
						return // there is only one
					}
				}
				way.do(t, path, other, alien)
				id := filepath.Base(path)
				switch dir {
				case "packs":
					packDamage(t, &w, copied, src, first.Snapshot, last.Snapshot, id, way.name)
				case "index":
					indexDamage(t, &w, copied, src, id, way.name)
				case "snapshots":
					snapshotDamage(t, &w, copied, src, id, first.Snapshot, last.Snapshot, way.name)
				default: // without a key, or the parameters, nothing can be read
					r := w.verify(failed, copied)
					if !strings.Contains(r.out, "CANNOT BE CHECKED") {
						t.Errorf("%v", r)
					}
					w.want(failed, "restore", "latest", "--to", w.path("to"), "--backup-dirs", copied).complaint(t, false)
					r = w.run(append([]string{"backup"}, encrypted(src, copied)...)...)
					if way.name == "missing" && dir == "config" {
						// Not a repository any more. It is not touched, and its config
						// makes it one again.
						if r.code == ok && !strings.Contains(r.errout, "created repository "+filepath.Join(copied, "backup-handler.repo")) {
							t.Errorf("%v", r)
						}
						removeAll(t, filepath.Join(copied, "backup-handler.repo"))
						tool(t, "", "cp", "-a", filepath.Join(dest, "config"), path)
						w.verify(ok, copied, "--read-data")
						return
					}
					if r.code != refused {
						t.Errorf("exit code: %v", r)
					}
					r.complaint(t, false)
				}
			})
		}
	}
}

func packDamage(t *testing.T, w *world, dest, src, first, last, id, way string) {
	var args []string
	if way == "flipped" {
		args = []string{"--read-data"} // content is not read otherwise
	}
	r := w.verify(failed, dest, args...)
	if !strings.Contains(r.out, id) && !strings.Contains(r.out, id[:8]) {
		t.Errorf("pack %s is not named: %v", id, r)
	}
	if !strings.Contains(r.out, "lost "+last[:8]) {
		t.Errorf("no lost files are named: %v", r)
	}
	for _, cache := range []string{"--no-cache", "--no-progress"} {
		to, err := os.MkdirTemp(w.dir, "damaged-")
		must(t, err)
		r = w.want(failed, "restore", last+":"+src, "--to", to, "--backup-dirs", dest, cache)
		whole := wholeOnly(t, src, to)
		lost := 0
		for i := range 40 {
			name := fmt.Sprintf("old-%02d", i)
			if i >= 30 {
				name = fmt.Sprintf("new-%02d", i-30)
			}
			if _, err := os.Lstat(filepath.Join(to, name)); err == nil {
				continue
			}
			lost++
			if !strings.Contains(r.errout, "lost: "+filepath.Join(src, name)) || !strings.Contains(r.out, "lost "+filepath.Join(src, name)) {
				t.Errorf("%s is lost, but not named: %v", name, r)
			}
		}
		if whole == 0 || lost == 0 || whole+lost != 40 {
			t.Errorf("%d whole, %d lost", whole, lost)
		}
		if left, _ := filepath.Glob(filepath.Join(to, ".bh-restore-*")); len(left) > 0 {
			t.Errorf("unfinished files are left: %q", left)
		}
	}
	if way == "flipped" {
		return // only reading finds it: see verify
	}
	// The source still has everything: the next run stores it again.
	rep := w.backup(ok, encrypted(src, dest)...)
	if !strings.Contains(strings.Join(rep.Notes, "\n"), "damaged") {
		t.Errorf("no word of the damage: %q", rep.Notes)
	}
	for _, snapshot := range []string{rep.Snapshot, last} {
		same(t, src, w.restore(ok, dest, snapshot, src))
	}
	w.restore(ok, dest, first, src)
}

func indexDamage(t *testing.T, w *world, dest, src, id, way string) {
	if way == "missing" {
		w.verify(ok, dest, "--read-data") // packs tell what is in them
	} else {
		// The cache makes it unnecessary to read it otherwise.
		for _, how := range []string{"--no-cache", "--read-data"} {
			if r := w.verify(failed, dest, how); !strings.Contains(r.out, id[:8]) || strings.Contains(r.out, "lost") {
				t.Errorf("index %s is not named, or something is lost: %v", id, r)
			}
		}
	}
	same(t, src, w.restore(ok, dest, "latest", src))
	same(t, src, w.restore(ok, dest, "latest", src, "--no-cache"))
	w.backup(ok, encrypted(src, dest)...)
	same(t, src, w.restore(ok, dest, "latest", src))
}

func snapshotDamage(t *testing.T, w *world, dest, src, id, first, last, way string) {
	if way == "missing" {
		w.verify(ok, dest)
	} else if r := w.verify(failed, dest); !strings.Contains(r.out, "damaged snapshot "+id[:8]) {
		t.Errorf("snapshot %s is not named: %v", id, r)
	}
	for _, s := range []string{first, last} {
		if s == id || way == "swapped" {
			w.want(failed, "restore", s, "--to", w.path("to"), "--backup-dirs", dest)
			continue
		}
		to := w.restore(ok, dest, s, src)
		if n := wholeOnly(t, src, to); n < 30 {
			t.Errorf("%d files of snapshot %s", n, s)
		}
	}
	rep := w.backup(ok, encrypted(src, dest)...)
	same(t, src, w.restore(ok, dest, rep.Snapshot, src))
}

// What one snapshot has lost, another may still have: the restore says which.
func TestLostButElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.path("src"), w.path("repo")
	file := w.write(filestest.Bytes("v1", 100_000), "src", "file")
	first := w.backup(ok, encrypted(src, dest)...)
	old := objects(t, dest, "packs")
	w.write(filestest.Bytes("v2", 100_000), "src", "file")
	last := w.backup(ok, encrypted(src, dest)...)
	// The large pack of the second run is that of the new content.
	var victim string
	for p, size := range objects(t, dest, "packs") {
		if _, known := old[p]; !known && size > 90_000 {
			victim = p
		}
	}
	must(t, os.Remove(victim))
	to := w.mkdir("to")
	r := w.want(failed, "restore", last.Snapshot+":"+src, "--to", to, "--backup-dirs", dest)
	if !strings.Contains(r.out, "lost "+file+" is whole in snapshot "+first.Snapshot[:8]) {
		t.Errorf("%v", r)
	}
	if r := w.verify(failed, dest); !strings.Contains(r.out, "whole in "+first.Snapshot[:8]) {
		t.Errorf("%v", r)
	}
	w.want(ok, "restore", first.Snapshot+":"+file, "--to", to, "--backup-dirs", dest)
	if data, err := os.ReadFile(filepath.Join(to, "file")); err != nil || !bytes.Equal(data, filestest.Bytes("v1", 100_000)) {
		t.Errorf("the older content: %v", err)
	}
}
