package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// TestSeveralDestinations: each succeeds or fails alone; one that was away, or is
// new, catches up.
func TestSeveralDestinations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	src, a, b, c := w.tree(10, "src"), w.path("a"), w.path("b"), w.path("c")
	rep := w.backup(ok, encrypted(src, a, b)...)
	if len(rep.Destinations) != 2 || len(rep.Destinations[1].Copied) != 1 || rep.Destinations[1].Copied[0] != rep.Snapshot {
		t.Errorf("%+v", rep.Destinations)
	}
	equalDestinations(t, w, src, a, b)

	// One is away: something else is at its place. The run is no success, but the
	// other one has everything.
	for _, away := range []string{b, a} {
		other := map[string]string{a: b, b: a}[away]
		must(t, os.Rename(away, away+".away"))
		must(t, os.WriteFile(away, nil, 0o600))
		for i := range 2 {
			w.write(filestest.Bytes(away+string(rune('0'+i)), 300_000), "src", "since-"+filepath.Base(away)+string(rune('0'+i)))
			rep = w.backup(partial, encrypted(src, a, b)...)
			for _, d := range rep.Destinations {
				if (d.Error != "") != (d.Location == away) {
					t.Errorf("%s: error %q", d.Location, d.Error)
				}
			}
			r := w.want(partial, append([]string{"backup"}, encrypted(src, a, b)...)...)
			if !strings.Contains(r.out, away+"  FAILED") || !strings.Contains(r.out, other+"  ok") {
				t.Errorf("%v", r)
			}
		}
		w.verify(ok, other, "--read-data")
		same(t, src, w.restore(ok, other, "latest", src))
		must(t, os.Remove(away))
		must(t, os.Rename(away+".away", away))
		w.backup(ok, encrypted(src, a, b)...)
		equalDestinations(t, w, src, a, b)
	}

	// A third one gets the whole history.
	w.backup(ok, encrypted(src, a, b, c)...)
	equalDestinations(t, w, src, a, b, c)
	if n := len(w.snapshotIDs(c)); n != 12 {
		t.Errorf("the third has %d snapshots", n)
	}

	// Damage in one neither stops nor spreads to the others; the source heals it.
	damaged := 0
	for pack := range objects(t, b, "packs") {
		must(t, os.Truncate(pack, 100))
		damaged++
	}
	if damaged == 0 {
		t.Fatal("no pack")
	}
	w.verify(failed, b)
	w.write([]byte("after the damage"), "src", "after")
	rep = w.backup(ok, encrypted(src, a, b, c)...)
	if !strings.Contains(strings.Join(rep.Notes, "\n"), b+": ") {
		t.Errorf("no word of the damage: %q", rep.Notes)
	}
	for _, d := range []string{a, b, c} {
		same(t, src, w.restore(ok, d, rep.Snapshot, src))
	}
	w.verify(ok, a, "--read-data")
	w.verify(ok, c, "--read-data")

	// A command that reads takes the next one where the first cannot be opened.
	must(t, os.Rename(a, a+".away"))
	to := w.mkdir("to")
	r := w.want(ok, "restore", "latest:"+src, "--to", to, "--backup-dirs", a, "--backup-dirs", c)
	if !strings.Contains(r.errout, a) {
		t.Errorf("no word of the one that is away: %v", r)
	}
	same(t, src, to)
}

// All destinations are away: refused, each is named.
func TestNoDestination(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src := w.tree(1, "src")
	x, y := w.write(nil, "x"), w.write(nil, "y")
	r := w.want(refused, append([]string{"backup"}, encrypted(src, x, y)...)...)
	r.complaint(t, false, x, y)
}

// Below /mnt and the like nothing is made while nothing is mounted.
func TestNotMounted(t *testing.T) {
	t.Parallel()
	needRoot(t, "it makes a directory in /mnt")
	dir, err := os.MkdirTemp("/mnt", "bh-e2e-")
	if err != nil {
		t.Skip("/mnt: ", err)
	}
	defer os.Remove(dir) // fails, and shows, if something was written
	w := newWorld(t)
	w.configure()
	src, here := w.tree(1, "src"), w.path("here")
	if strings.Contains(tool(t, "", "findmnt", "-nT", dir), "/mnt") {
		t.Skip("something is mounted at /mnt")
	}
	r := w.want(refused, append([]string{"backup"}, encrypted(src, filepath.Join(dir, "repo"))...)...)
	r.complaint(t, true, "mounted")
	rep := w.backup(partial, encrypted(src, here, filepath.Join(dir, "repo"))...)
	if !strings.Contains(rep.Destinations[1].Error, "mounted") || rep.Destinations[0].Error != "" {
		t.Errorf("%+v", rep.Destinations)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("something was written: %v", left)
	}
	mount(t, dir, "-t", "tmpfs", "-o", "size=50m", "tmpfs")
	w.backup(ok, encrypted(src, here, filepath.Join(dir, "repo"))...)
	equalDestinations(t, w, src, here, filepath.Join(dir, "repo"))
}

// One destination is full: it fails alone, and catches up when it has room.
func TestOneFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure()
	src := bigSource(w, 10)
	small, large := w.mkdir("small"), w.path("large")
	mount(t, small, "-t", "tmpfs", "-o", "size=20m", "tmpfs")
	full := filepath.Join(small, "repo")
	for _, order := range [][]string{{large, full}, {full, large}} {
		rep := w.backup(partial, encrypted(src, order...)...)
		for _, d := range rep.Destinations {
			if (d.Error != "") != (d.Location == full) {
				t.Errorf("%v: %s: error %q", order, d.Location, d.Error)
			}
		}
		w.verify(ok, large, "--read-data")
		same(t, src, w.restore(ok, large, rep.Snapshot, src))
	}
	tool(t, "", "mount", "-o", "remount,size=100m", small)
	w.backup(ok, encrypted(src, full, large)...)
	equalDestinations(t, w, src, large, full)
}
