package job

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// each calls do for every object of a directory of a repository.
func each(t *testing.T, dest, dir string, do func(path string, data []byte, i int) error) {
	t.Helper()
	all := content(t, filepath.Join(dest, dir))
	if len(all) == 0 {
		t.Fatalf("nothing in %s", dir)
	}
	for i, path := range slices.Sorted(maps.Keys(all)) {
		if err := do(path, []byte(all[path]), i); err != nil {
			t.Fatal(err)
		}
	}
}

func flipped(path string, data []byte, _ int) error {
	data = bytes.Clone(data)
	for i := range 10 {
		data[len(data)*(2*i+1)/20] ^= 4
	}
	return os.WriteFile(path, data, 0o600)
}

func removed(path string, _ []byte, _ int) error   { return os.Remove(path) }
func halved(path string, data []byte, _ int) error { return os.Truncate(path, int64(len(data)/2)) }
func emptied(path string, _ []byte, _ int) error   { return os.Truncate(path, 0) }
func grown(path string, data []byte, _ int) error  { return os.WriteFile(path, append(data, 0), 0o600) }
func oneFlip(path string, data []byte, n int) error {
	data[len(data)/2] ^= 1
	return os.WriteFile(path, data, 0o600)
}
func lastFlip(path string, data []byte, n int) error {
	data[len(data)-1] ^= 1
	return os.WriteFile(path, data, 0o600)
}

func everySecond(f func(string, []byte, int) error) func(string, []byte, int) error {
	return func(path string, data []byte, i int) error {
		if i%2 == 1 {
			return nil
		}
		return f(path, data, i)
	}
}

func (b *bench) repair(a, from *Access, damaged, whole string, dryRun bool) *RepairResult {
	b.t.Helper()
	d, err := a.OpenDestination(b.t.Context(), b.place(damaged))
	if err != nil {
		b.t.Fatal(err)
	}
	defer d.Close()
	res, err := Repair(b.t.Context(), d, b.loaded(from, whole), RepairOptions{DryRun: dryRun, Workers: 2})
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

// Whatever is damaged in a repository that another one has too is healed: afterwards
// it alone gives back every snapshot.
func TestRepair(t *testing.T) {
	type damage = func(t *testing.T, dest string)
	of := func(dir string, do func(string, []byte, int) error) damage {
		return func(t *testing.T, dest string) { each(t, dest, dir, do) }
	}
	damages := map[string]damage{}
	for name, do := range map[string]func(string, []byte, int) error{
		"flipped": flipped, "missing": removed, "truncated": halved, "empty": emptied, "grown": grown, "one bit": oneFlip, "the last bit": lastFlip,
	} {
		for _, dir := range []string{"packs", "index", "snapshots"} {
			if dir == "snapshots" && name == "missing" {
				continue // that is a snapshot that was forgotten
			}
			damages[dir+" "+name] = of(dir, do)
			if dir != "index" {
				damages[dir+" "+name+", some"] = of(dir, everySecond(do))
			}
		}
	}
	damages["everything at once"] = func(t *testing.T, dest string) {
		each(t, dest, "packs", everySecond(flipped))
		each(t, dest, "packs", func(path string, data []byte, i int) error {
			if i%4 == 1 {
				return os.Remove(path)
			}
			return nil
		})
		each(t, dest, "index", everySecond(flipped))
		each(t, dest, "snapshots", everySecond(halved))
	}
	mine, theirs := access(t, unset, AccessOptions{KeyFile: keyFile(t, "m")}), access(t, unset, AccessOptions{KeyFile: keyFile(t, "t")})
	for _, sibling := range []bool{true, false} {
		for name, damage := range damages {
			if kind := strings.Fields(name)[1]; !sibling && kind != "flipped" && kind != "missing" && kind != "at" {
				continue // what is damaged makes no difference to where it is taken from
			}
			t.Run(fmt.Sprintf("%s, sibling=%t", name, sibling), func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				var ids []repo.ID
				for i := range 3 {
					write(t, filepath.Join(b.src, "sub", fmt.Sprint("more", i)), strings.Repeat(fmt.Sprint("run ", i), 1000*i))
					ids = append(ids, b.well(mine, "a"))
				}
				other := mine
				if !sibling {
					other = theirs
				}
				b.copy(mine, other, "a", CopyOptions{Apart: !sibling}, "b")
				before := content(t, b.place("b"))
				damage(t, b.place("a"))
				damaged := content(t, b.place("a"))

				dry := b.repair(mine, other, "a", "b", true)
				if !dry.Whole() || dry.After != nil {
					t.Errorf("dry run: %+v", dry)
				}
				if !maps.Equal(content(t, b.place("a")), damaged) {
					t.Fatal("a dry run changed something")
				}
				res := b.repair(mine, other, "a", "b", false)
				if !res.Whole() || res.LostCount != 0 || len(res.Failed) > 0 {
					t.Fatalf("%+v", res)
				}
				if res.Healed() != res.Before.LostCount || len(res.Exchanged) != len(res.Before.BadSnapshots) || !slices.Equal(res.Exchanged, dry.Exchanged) {
					t.Errorf("healed %d of %d, exchanged %d of %d", res.Healed(), res.Before.LostCount, len(res.Exchanged), len(res.Before.BadSnapshots))
				}
				if !maps.Equal(content(t, b.place("b")), before) {
					t.Error("the other repository was changed")
				}
				// Nothing but damaged snapshots was deleted or overwritten.
				after := content(t, b.place("a"))
				for path, data := range damaged {
					if now, ok := after[path]; !ok || now != data && filepath.Base(filepath.Dir(path)) != "snapshots" {
						t.Errorf("%s was changed", path)
					}
				}
				// A second repair finds nothing to do.
				again := b.repair(mine, other, "a", "b", false)
				if !again.Whole() || again.Chunks != 0 || len(again.Exchanged) > 0 {
					t.Errorf("the second: %+v", again)
				}
				if err := os.RemoveAll(b.place("b")); err != nil {
					t.Fatal(err)
				}
				b.wantSnapshots(mine, "a", ids...)
				if name == "everything at once" { // what is healed serves as a source, and a destination
					b.copy(mine, mine, "a", CopyOptions{}, "c")
					b.wantSnapshots(mine, "c", ids...)
					b.wantSnapshots(mine, "a", append(ids, b.well(mine, "a"))...)
				}
			})
		}
	}
}

// What neither has stays lost, and is named; dry, too.
func TestRepairNotAll(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	s1 := b.well(a, "a", "b")
	write(t, filepath.Join(b.src, "only"), strings.Repeat("only in a ", 5000))
	s2 := b.well(a, "a")
	each(t, b.place("a"), "packs", flipped)
	for _, dry := range []bool{true, false} {
		res := b.repair(a, a, "a", "b", dry)
		if res.Whole() || res.LostCount == 0 || int64(len(res.Lost)) != res.LostCount {
			t.Fatalf("dry=%t: %+v", dry, res)
		}
		for _, l := range res.Lost {
			if l.Snapshot != s2 {
				t.Errorf("dry=%t: %s:%s", dry, l.Snapshot.Short(), l.Path)
			}
		}
		if res.Chunks == 0 {
			t.Errorf("dry=%t: nothing is stored", dry)
		}
	}
	// A snapshot that only the damaged one had.
	each(t, b.place("a"), "snapshots", flipped)
	res := b.repair(a, a, "a", "b", false)
	if res.Whole() || len(res.Failed) != 1 || res.Failed[0].ID != s2 || !slices.Equal(res.Exchanged, []repo.ID{s1}) {
		t.Errorf("%+v", res)
	}
	b.wantSnapshots(a, "a", s1)
	// Itself is no other repository; an empty one has nothing.
	d := b.loaded(a, "a")
	if _, err := Repair(t.Context(), d, d, RepairOptions{}); err == nil {
		t.Error("from itself")
	}
}

// Each write of a repair fails once, with and without effect, and the power is cut
// there: the next repair heals all the same, or, where a snapshot was being
// exchanged, a copy brings it back.
func TestRepairFails(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	ids := []repo.ID{b.well(a, "a", "b"), b.well(a, "a", "b")}
	each(t, b.place("a"), "packs", flipped)
	each(t, b.place("a"), "snapshots", everySecond(flipped))
	damaged := content(t, b.place("a"))
	from := b.loaded(a, "b")
	for _, outcome := range []storagetest.Outcome{storagetest.Fail, storagetest.Lose, storagetest.Cut, storagetest.LoseCut} {
		for n, hit := 0, true; hit; n++ {
			m := storage.NewMemory()
			for path, data := range damaged {
				rel, err := filepath.Rel(b.place("a"), path)
				if err != nil {
					t.Fatal(err)
				}
				storagetest.Put(t, m, filepath.ToSlash(rel), []byte(data))
			}
			f := storagetest.At(m, n, outcome)
			_, err := Repair(t.Context(), openStore(t, f), from, RepairOptions{})
			hit = len(f.Ops()) > n
			if failure, ok := errors.AsType[*Failure](err); err != nil && (!ok || failure.Code != ExitPartial && failure.Code != ExitUsage) {
				t.Errorf("%v at %d: %v", outcome, n, err)
			}
			res, err := Repair(t.Context(), openStore(t, m), from, RepairOptions{})
			if err != nil || !res.Whole() {
				t.Fatalf("after %v at %d: %v, %+v", outcome, n, err, res)
			}
			d := openStore(t, m)
			if len(d.Snapshots) < len(ids) {
				for _, s := range from.Snapshots {
					if err := copySnapshot(t.Context(), from, d, s, repo.WriterOptions{}, nil); err != nil {
						t.Fatal(err)
					}
				}
				d = openStore(t, m)
			}
			if len(d.Snapshots) != len(ids) || len(d.Unreadable) > 0 {
				t.Errorf("after %v at %d: %d snapshots, %d unreadable", outcome, n, len(d.Snapshots), len(d.Unreadable))
			}
		}
	}
}
