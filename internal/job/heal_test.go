package job

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"github.com/SP1R4/BackupHandler/v3/internal/verify"
)

// sectors loses up to n sectors of a file: zeros, noise, or bits of them.
func sectors(rnd *rand.Rand, n int) func(path string, data []byte, _ int) error {
	return func(path string, data []byte, _ int) error {
		data = bytes.Clone(data)
		for range n {
			at := rnd.IntN((len(data) + 4095) / 4096)
			sector := data[at*4096 : min(len(data), (at+1)*4096)]
			switch rnd.IntN(3) {
			case 0:
				clear(sector)
			case 1:
				for i := range sector {
					sector[i] = byte(rnd.Uint32())
				}
			case 2:
				for range 1 + rnd.IntN(9) {
					sector[rnd.IntN(len(sector))] ^= 1 << rnd.IntN(8)
				}
			}
		}
		return os.WriteFile(path, data, 0o600)
	}
}

// shortened cuts two sectors off.
func shortened(path string, data []byte, _ int) error {
	return os.Truncate(path, int64(max(0, len(data)-8192)))
}

// A repository with repair data heals by itself: afterwards it gives back every snapshot
// without any repair data.
func TestHeal(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	type damage = func(t *testing.T, dest string)
	of := func(dir string, do func(string, []byte, int) error) damage {
		return func(t *testing.T, dest string) { each(t, dest, dir, do) }
	}
	damages := map[string]damage{
		"nothing":           func(*testing.T, string) {},
		"one bit of packs":  of("packs", oneFlip),
		"the last bit":      of("packs", lastFlip),
		"two sectors":       of("packs", sectors(rnd, 2)),
		"truncated packs":   of("packs", shortened),
		"grown packs":       of("packs", grown),
		"snapshots flipped": of("snapshots", flipped),
		"snapshots emptied": of("snapshots", emptied),
		"snapshots gone":    of("snapshots", removed),
		"key slots flipped": of("keys", oneFlip),
		"key slots no JSON": of("keys", func(path string, data []byte, _ int) error { data[0] = 'x'; return os.WriteFile(path, data, 0o600) }),
		"key slots gone":    of("keys", removed),
		"config flipped":    func(t *testing.T, dest string) { damageFile(t, filepath.Join(dest, "config"), oneFlip) },
		"config gone":       func(t *testing.T, dest string) { damageFile(t, filepath.Join(dest, "config"), removed) },
		"repair data":       of("parity", oneFlip),
		"repair data gone":  of("parity", removed),
		"index, and sectors": func(t *testing.T, dest string) {
			each(t, dest, "index", removed)
			each(t, dest, "packs", sectors(rnd, 1))
		},
		"everything": func(t *testing.T, dest string) {
			each(t, dest, "packs", sectors(rnd, 2))
			each(t, dest, "snapshots", everySecond(removed))
			each(t, dest, "snapshots", flipped)
			each(t, dest, "keys", removed)
			damageFile(t, filepath.Join(dest, "config"), removed)
			each(t, dest, "index", flipped)
		},
	}
	key := keyFile(t, "m")
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			a := access(t, unset, AccessOptions{KeyFile: key})
			a.Parity = 5
			var ids []repo.ID
			for i := range 3 {
				write(t, filepath.Join(b.src, "sub", fmt.Sprint("more", i)), noise(uint64(i), 700_000))
				res := b.run(a, "a")
				ids = append(ids, res.Snapshot.ID)
			}
			damage(t, b.place("a"))

			d, err := a.OpenDestination(t.Context(), b.place("a"))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			dry, err := Repair(t.Context(), d, nil, RepairOptions{DryRun: true, Workers: 2})
			if err != nil {
				t.Fatal(err)
			}
			if !dry.Whole() {
				t.Errorf("dry: %+v", dry)
			}
			before := content(t, b.place("a"))
			again, err := Repair(t.Context(), d, nil, RepairOptions{DryRun: true, Workers: 2})
			if err != nil || len(before) != len(content(t, b.place("a"))) {
				t.Errorf("a dry run wrote: %v %+v", err, again)
			}
			res, err := Repair(t.Context(), d, nil, RepairOptions{Workers: 2})
			if err != nil {
				t.Fatal(err)
			}
			if !res.Whole() || res.After != nil && len(res.After.Mendable) > 0 {
				t.Fatalf("%+v\n%+v", res, res.After)
			}
			if name == "nothing" && (res.After != nil || res.Chunks != 0 || res.Protected != 0) {
				t.Errorf("%+v", res)
			}
			d.Close()

			// What is damaged goes, what has repair data has it anew.
			d = b.loaded(a, "a")
			if _, err := d.Prune(t.Context(), repo.PruneOptions{Grace: repo.DefaultGrace, Alone: true, MaxUnused: 1, MaxRepack: -1, Workers: 2}, Known{Dir: t.TempDir()}); err != nil {
				t.Fatal(err)
			}
			d.Close()
			d = b.loaded(a, "a") // what was adopted is published by the first
			if _, err := d.Prune(t.Context(), repo.PruneOptions{Grace: repo.DefaultGrace, Alone: true, MaxUnused: 1, MaxRepack: -1, Workers: 2}, Known{Dir: t.TempDir()}); err != nil {
				t.Fatal(err)
			}
			d.Close()
			for path := range content(t, b.place("a")) {
				object, ok := strings.CutPrefix(path, filepath.Join(b.place("a"), "parity")+"/")
				if ok {
					path = filepath.Join(b.place("a"), object)
				} else if rel, _ := filepath.Rel(b.place("a"), path); strings.HasPrefix(rel, "packs/") || strings.HasPrefix(rel, "snapshots/") || strings.HasPrefix(rel, "keys/") || rel == "config" {
					path = filepath.Join(b.place("a"), "parity", rel)
				}
				if _, err := os.Stat(path); err != nil {
					t.Error(err)
				}
			}
			if err := os.RemoveAll(filepath.Join(b.place("a"), "parity")); err != nil {
				t.Fatal(err)
			}
			d = b.loaded(a, "a")
			defer d.Close()
			rep, err := verify.Run(t.Context(), d.Repo, verify.Options{ReadData: true, Workers: 2})
			if err != nil || !rep.OK() || rep.Snapshots != int64(len(ids)) {
				t.Errorf("%v %+v", err, rep)
			}
		})
	}
}

// Reading goes on without a repair, and the next backup stores again what is damaged.
func TestReadsMend(t *testing.T) {
	b := newBench(t)
	a := access(t, unset, AccessOptions{KeyFile: keyFile(t, "m")})
	a.Parity = 5
	write(t, filepath.Join(b.src, "large"), noise(1, 3<<20))
	res := b.run(a, "a")
	each(t, b.place("a"), "packs", oneFlip)
	each(t, b.place("a"), "snapshots", oneFlip)
	var told []string
	a.OnMended = func(_ string, objects []string) { told = append(told, objects...) }
	d := b.loaded(a, "a")
	defer d.Close()
	if len(d.Unreadable) > 0 || len(d.Snapshots) != 1 {
		t.Fatalf("%+v", d.Unreadable)
	}
	n, err := tree.Lookup(t.Context(), d.Repo, d.Snapshots[0].RootNode(), filepath.Join(b.src, "large"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range n.Content {
		loc, ok := d.Repo.Locate(c.Hash)
		if !ok {
			t.Fatal("lost")
		}
		plain, err := d.Repo.ReadBlock(t.Context(), &loc.Block, nil)
		if err == nil {
			err = repo.CheckChunk(c.Hash, plain[loc.Offset:loc.Offset+loc.Size])
		}
		if err != nil {
			t.Error(err)
		}
	}
	d.Close()
	if !slices.Contains(told, "snapshots/"+res.Snapshot.ID.String()) || !slices.ContainsFunc(told, func(s string) bool { return strings.HasPrefix(s, "packs/") }) {
		t.Errorf("told of %q", told)
	}
}

// What was forgotten or removed does not come back, whatever the order of a crash.
func TestGoneStaysGone(t *testing.T) {
	b := newBench(t)
	a := access(t, unset, AccessOptions{KeyFile: keyFile(t, "m")})
	a.Parity = 5
	first := b.run(a, "a").Snapshot.ID
	b.run(a, "a")
	d := b.loaded(a, "a")
	defer d.Close()
	if err := d.Repo.Forget(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"snapshots", "parity/snapshots"} {
		if _, err := os.Stat(filepath.Join(b.place("a"), dir, first.String())); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	// Also where the host that forgets makes no repair data itself.
	a.Parity = 0
	d2 := b.loaded(a, "a")
	defer d2.Close()
	second := d2.Snapshots[0].ID
	if err := d2.Repo.Forget(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	res, err := Repair(t.Context(), d, nil, RepairOptions{Workers: 2})
	if err != nil || len(res.Objects) > 0 || res.Before.Snapshots > 0 {
		t.Errorf("%v %+v", err, res)
	}
}

// Lost content is read from the files that it was made of, as far as they have it still.
func TestRepairFromFiles(t *testing.T) {
	for _, name := range []string{"unchanged", "appended", "changed", "link"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			a := access(t, unset, AccessOptions{KeyFile: keyFile(t, "m")})
			path := filepath.Join(b.src, "large")
			write(t, path, noise(7, 5<<20))
			sparse := filepath.Join(b.src, "sparse")
			f, err := os.Create(sparse)
			if err != nil {
				t.Fatal(err)
			}
			f.WriteAt([]byte(noise(8, 300_000)), 4<<20)
			f.Close()
			res := b.run(a, "a")
			d := b.loaded(a, "a")
			for i, file := range []string{path, sparse} {
				n, err := tree.Lookup(t.Context(), d.Repo, d.Snapshots[0].RootNode(), file)
				if err != nil {
					t.Fatal(err)
				}
				loc, _ := d.Repo.Locate(n.Content[len(n.Content)-1].Hash)
				pack := filepath.Join(b.place("a"), "packs", loc.Block.Pack.String()[:2], loc.Block.Pack.String())
				data, err := os.ReadFile(pack)
				if err != nil {
					t.Fatal(err)
				}
				data[loc.Block.Offset+5] ^= 1 << i // both may be in one block
				if err := os.WriteFile(pack, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			d.Close()
			whole := true
			switch name {
			case "appended":
				write(t, path, noise(7, 5<<20)+"more")
			case "changed":
				write(t, path, noise(9, 5<<20))
				whole = false
			case "link": // to the same content, somewhere else
				os.Rename(path, path+".away")
				if err := os.Symlink(path+".away", path); err != nil {
					t.Fatal(err)
				}
				whole = false
			}
			for _, dry := range []bool{true, false} {
				d, err := a.OpenDestination(t.Context(), b.place("a"))
				if err != nil {
					t.Fatal(err)
				}
				got, err := Repair(t.Context(), d, nil, RepairOptions{Workers: 2, DryRun: dry, Host: res.Snapshot.Host})
				if err != nil {
					t.Fatal(err)
				}
				if got.Before.LostCount < 2 || got.Whole() != whole || !whole && got.LostCount != 1 {
					t.Errorf("dry %t: %+v %+v", dry, got, got.After)
				}
				other, err := Repair(t.Context(), d, nil, RepairOptions{Workers: 2, DryRun: true, Host: "another"})
				if err != nil || dry && (other.Whole() || other.LostCount != got.Before.LostCount) {
					t.Errorf("files of another host: %v %+v", err, other)
				}
				d.Close()
			}
		})
	}
}

func damageFile(t *testing.T, path string, do func(string, []byte, int) error) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = do(path, data, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// noise is text that does not compress, the same for the same seed.
func noise(seed uint64, n int) string {
	rnd := rand.NewChaCha8([32]byte{byte(seed), 1})
	b := make([]byte, n)
	rnd.Read(b)
	return string(b)
}

// What no snapshot needs is no reason to call a repository damaged for ever.
func TestRepairUnneeded(t *testing.T) {
	b := newBench(t)
	a := access(t, unset, AccessOptions{KeyFile: keyFile(t, "m")})
	write(t, filepath.Join(b.src, "once"), noise(1, 100_000))
	first := b.run(a, "a").Snapshot.ID
	if err := os.Remove(filepath.Join(b.src, "once")); err != nil {
		t.Fatal(err)
	}
	// Nothing of the first is relied upon.
	d := b.loaded(a, "a")
	if err := d.Repo.Forget(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	d.Close()
	each(t, b.place("a"), "packs", halved)
	b.run(a, "a")
	d = b.loaded(a, "a")
	res, err := Repair(t.Context(), d, nil, RepairOptions{Workers: 2})
	if err != nil || !res.Whole() || res.Before.OK() {
		t.Fatalf("%v %+v", err, res)
	}
	d.Close()
	d = b.loaded(a, "a")
	if _, err := d.Prune(t.Context(), repo.PruneOptions{Grace: repo.DefaultGrace, Alone: true, MaxRepack: -1, Workers: 2}, Known{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d = b.loaded(a, "a")
	rep, err := verify.Run(t.Context(), d.Repo, verify.Options{ReadData: true, Workers: 2})
	if err != nil || !rep.OK() {
		t.Errorf("%v %+v", err, rep)
	}
}
