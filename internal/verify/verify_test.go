package verify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// A fixture is a repository in memory. Each chunk is a block of its own, each run
// has its own packs.
type fixture struct {
	t     testing.TB
	store *storage.Memory
	r     *repo.Repository
	w     *repo.Writer // of the run in progress
	snaps []*tree.Snapshot
}

func open(t testing.TB, b storage.Backend) *repo.Repository {
	t.Helper()
	r, err := repo.Open(t.Context(), b, repo.Options{Credentials: []seal.Credential{seal.None{}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, store: storage.NewMemory()}
	err := repo.Init(t.Context(), f.store, repo.InitOptions{
		Lockers: []seal.Locker{seal.None{}}, Wrap: seal.WrapOptions{Created: time.Unix(1_700_000_000, 0)},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.r = open(t, f.store)
	if _, err := f.r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) chunk(kind repo.Kind, data string) tree.Chunk {
	f.t.Helper()
	if f.w == nil {
		w, err := f.r.NewWriter(f.t.Context(), repo.WriterOptions{Sealers: 1, Readers: 2})
		if err != nil {
			f.t.Fatal(err)
		}
		f.w = w
	}
	b := f.w.Batch(kind)
	tail, err := b.Tail()
	if err != nil {
		f.t.Fatal(err)
	}
	hash := repo.Hash(sha256.Sum256([]byte(data)))
	if _, err := b.Add(copy(tail, data), 0, hash); err != nil {
		f.t.Fatal(err)
	}
	if err := b.Flush(); err != nil {
		f.t.Fatal(err)
	}
	return tree.Chunk{Hash: hash, Size: uint32(len(data))}
}

// file returns a file with a chunk for each part.
func (f *fixture) file(name string, parts ...string) *tree.Node {
	n := &tree.Node{Name: name, Type: tree.File, Mode: 0o644, Links: 1}
	for _, p := range parts {
		n.Content = append(n.Content, f.chunk(repo.Data, p))
		n.Size += int64(len(p))
	}
	return n
}

// indirect returns a file whose list of chunks is stored in pieces of two.
func (f *fixture) indirect(name string, parts ...string) *tree.Node {
	n := f.file(name, parts...)
	n.Indirect = true
	chunks := n.Content
	n.Content = nil
	for piece := range slices.Chunk(chunks, 2) {
		n.Content = append(n.Content, f.chunk(repo.Metadata, string(tree.AppendChunks(nil, piece))))
	}
	return n
}

func (f *fixture) dir(name string, entries ...*tree.Node) *tree.Node {
	f.t.Helper()
	n := &tree.Node{Name: name, Type: tree.Dir, Mode: 0o755, Links: 1}
	w := tree.PageWriter{Page: func(p []byte) error {
		n.Content = append(n.Content, f.chunk(repo.Metadata, string(p)))
		return nil
	}}
	slices.SortFunc(entries, func(a, b *tree.Node) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// snapshot ends a run.
func (f *fixture) snapshot(entries ...*tree.Node) *tree.Snapshot {
	f.t.Helper()
	s := &tree.Snapshot{
		ID: repo.NewID(), Time: time.Unix(1_700_000_000+int64(len(f.snaps)), 0), Host: "h", Sources: []tree.Path{"/"},
		Root: f.dir("", entries...).Content,
	}
	body, err := tree.EncodeSnapshot(s)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.w.Commit(s.ID, body); err != nil {
		f.t.Fatal(err)
	}
	f.w = nil
	f.snaps = append(f.snaps, s)
	return s
}

// change rewrites an object; nil removes it.
func (f *fixture) change(name string, fn func(data []byte) []byte) {
	f.t.Helper()
	rc, err := f.store.Get(f.t.Context(), name, 0, -1)
	if err != nil {
		f.t.Fatal(err)
	}
	data, err := io.ReadAll(rc)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.store.Delete(f.t.Context(), name); err != nil {
		f.t.Fatal(err)
	}
	if data = fn(data); data != nil {
		f.create(name, data)
	}
}

func (f *fixture) create(name string, data []byte) {
	f.t.Helper()
	w, err := f.store.Create(f.t.Context(), name)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		f.t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		f.t.Fatal(err)
	}
}

func packName(id repo.ID) string { return "packs/" + id.String()[:2] + "/" + id.String() }

func remove([]byte) []byte { return nil }

// spoil flips a bit in the block of a chunk.
func (f *fixture) spoil(c tree.Chunk) {
	f.t.Helper()
	loc, ok := f.r.Locate(c.Hash)
	if !ok {
		f.t.Fatal("no such chunk")
	}
	f.change(packName(loc.Block.Pack), func(data []byte) []byte {
		data = bytes.Clone(data)
		data[loc.Block.Offset] ^= 1
		return data
	})
}

func (f *fixture) names(dir string) []string {
	f.t.Helper()
	var names []string
	if err := f.store.List(f.t.Context(), dir, func(i storage.Info) error { names = append(names, i.Name); return nil }); err != nil {
		f.t.Fatal(err)
	}
	return names
}

// verify runs over a clone of the store, in a process of its own.
func (f *fixture) verify(o Options) *Report {
	f.t.Helper()
	r := open(f.t, f.store.Clone())
	defer r.Close()
	rep, err := Run(f.t.Context(), r, o)
	if err != nil {
		f.t.Fatal(err)
	}
	return rep
}

// lost renders what a report says is lost, by the numbers of snapshots.
func (f *fixture) lost(rep *Report) []string {
	number := func(id repo.ID) string {
		i := slices.IndexFunc(f.snaps, func(s *tree.Snapshot) bool { return s.ID == id })
		return fmt.Sprint(i)
	}
	var out []string
	for _, l := range rep.Lost {
		line := number(l.Snapshot) + ":" + string(l.Path)
		for _, id := range l.AlsoIn {
			line += " " + number(id)
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// three has three snapshots: /a/old is the same in all, /a/new another each time,
// /b only in the first two, /list is a file with an indirect list.
func three(t testing.TB) (f *fixture, nodes map[string]*tree.Node) {
	f = newFixture(t)
	nodes = make(map[string]*tree.Node)
	keep := func(key string, n *tree.Node) *tree.Node { nodes[key] = n; return n }
	for i := range 3 {
		is := fmt.Sprint(i)
		entries := []*tree.Node{
			keep("a"+is, f.dir("a", keep("old", f.file("old", "old 1", "old 2")), keep("new"+is, f.file("new", "common", "version "+is)))),
			keep("list", f.indirect("list", "l1", "l2", "l3", "l4", "l5")),
			{Name: "hole", Type: tree.File, Links: 1, Size: 1 << 40, Extents: []tree.Extent{}},
			{Name: "link", Type: tree.Symlink, Links: 1, Target: "a"},
			f.file("empty"),
		}
		if i < 2 {
			entries = append(entries, keep("b", f.dir("b", keep("raw", f.file("\xff", "raw")))))
		}
		f.snapshot(entries...)
	}
	return f, nodes
}

func TestWhole(t *testing.T) {
	f, _ := three(t)
	for name, o := range map[string]Options{"structure": {}, "data": {ReadData: true, Workers: 3}, "sample": {Sample: 0.01, Seed: 3}} {
		rep := f.verify(o)
		if !rep.OK() || !rep.Whole() || len(rep.Faults) > 0 || len(rep.Lost) > 0 {
			t.Errorf("%s: %+v", name, rep)
		}
		// Three roots, three times a, b once; old 3 times as its page changes; raw once.
		if rep.Snapshots != 3 || rep.Dirs != 3+3+1 || rep.Files != 3*2+3*3+1 || rep.Chunks == 0 {
			t.Errorf("%s: %d snapshots, %d directories, %d files, %d chunks", name, rep.Snapshots, rep.Dirs, rep.Files, rep.Chunks)
		}
		packs := int64(len(f.names("packs")))
		switch name {
		case "structure":
			if rep.PacksRead != 0 || rep.BytesRead != 0 {
				t.Error(rep.PacksRead, rep.BytesRead)
			}
		case "data":
			if rep.PacksRead != packs || rep.BytesRead != rep.Index.Bytes {
				t.Error(rep.PacksRead, packs, rep.BytesRead, rep.Index.Bytes)
			}
		case "sample":
			if rep.PacksRead < 1 || rep.PacksRead >= packs {
				t.Error(rep.PacksRead, packs)
			}
		}
	}
}

func TestNothingIsNotOK(t *testing.T) {
	f := newFixture(t)
	for _, o := range []Options{{}, {ReadData: true}, {Sample: 1}} {
		rep := f.verify(o)
		if rep.OK() || rep.Whole() || rep.FaultCount != 1 || !strings.Contains(rep.Faults[0], "no snapshot") {
			t.Errorf("%+v", rep)
		}
	}
}

func TestBadOptions(t *testing.T) {
	f, _ := three(t)
	nan := 0.0
	nan /= nan
	for _, share := range []float64{-0.1, 1.1, nan} {
		if rep, err := Run(t.Context(), f.r, Options{Sample: share}); err == nil {
			t.Error(share, rep)
		}
	}
}

func TestDamage(t *testing.T) {
	first := func(n *tree.Node) tree.Chunk { return n.Content[0] }
	chunks := func(t *testing.T, f *fixture, n *tree.Node) []tree.Chunk {
		var all []tree.Chunk
		err := tree.EachChunk(t.Context(), f.r, n, func(c tree.Chunk) error {
			all = append(all, c)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	type nodes = map[string]*tree.Node
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, f *fixture, n nodes)
		shape  []string // lost, without reading data
		data   []string // lost, reading data
		bad    int      // snapshots
		silent bool     // the structure shows nothing at all
	}{
		{
			name:   "bit rot in content that all share",
			damage: func(_ *testing.T, f *fixture, n nodes) { f.spoil(n["old"].Content[1]) },
			data:   []string{"0:/a/old", "1:/a/old", "2:/a/old"}, silent: true,
		},
		{
			name:   "bit rot in the newest version",
			damage: func(_ *testing.T, f *fixture, n nodes) { f.spoil(n["new2"].Content[1]) },
			data:   []string{"2:/a/new 1 0"}, silent: true,
		},
		{
			name:   "bit rot in what versions share",
			damage: func(_ *testing.T, f *fixture, n nodes) { f.spoil(first(n["new0"])) },
			data:   []string{"0:/a/new", "1:/a/new", "2:/a/new"}, silent: true,
		},
		{
			name:   "bit rot behind an indirect list",
			damage: func(t *testing.T, f *fixture, n nodes) { f.spoil(chunks(t, f, n["list"])[3]) },
			data:   []string{"0:/list", "1:/list", "2:/list"}, silent: true,
		},
		{
			name:   "indirect list",
			damage: func(_ *testing.T, f *fixture, n nodes) { f.spoil(n["list"].Content[1]) },
			shape:  []string{"0:/list", "1:/list", "2:/list"},
		},
		{
			name:   "directory page of one snapshot",
			damage: func(_ *testing.T, f *fixture, n nodes) { f.spoil(first(n["a1"])) },
			shape:  []string{"1:/a 2 0"},
		},
		{
			name:   "directory page of two snapshots",
			damage: func(_ *testing.T, f *fixture, n nodes) { f.spoil(first(n["b"])) },
			shape:  []string{"0:/b", "1:/b"},
		},
		{
			name:   "root",
			damage: func(_ *testing.T, f *fixture, _ nodes) { f.spoil(f.snaps[2].Root[0]) },
			shape:  []string{"2:/ 1 0"},
		},
		{
			name: "pack of the last run's data",
			damage: func(_ *testing.T, f *fixture, n nodes) {
				loc, _ := f.r.Locate(n["new2"].Content[1].Hash)
				f.change(packName(loc.Block.Pack), remove)
			},
			shape: []string{"2:/a/new 1 0"},
		},
		{
			name: "truncated pack of the last run's directories",
			damage: func(_ *testing.T, f *fixture, n nodes) {
				loc, _ := f.r.Locate(first(n["a2"]).Hash)
				f.change(packName(loc.Block.Pack), func(d []byte) []byte { return d[:len(d)-1] })
			},
			shape: []string{"2:/ 1 0"},
		},
		{
			name:   "snapshot",
			damage: func(_ *testing.T, f *fixture, _ nodes) { f.change("snapshots/"+f.snaps[1].ID.String(), flip) },
			bad:    1,
		},
		{
			name: "all index objects",
			damage: func(_ *testing.T, f *fixture, _ nodes) {
				for _, name := range f.names("index") {
					f.change(name, flip)
				}
			},
		},
		{
			name: "key slot",
			damage: func(_ *testing.T, f *fixture, _ nodes) {
				f.create("keys/"+repo.ID{1}.String(), []byte("no slot"))
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, n := three(t)
			c.damage(t, f, n)
			if c.data == nil {
				c.data = c.shape
			}
			for what, o := range map[string]Options{"structure": {}, "data": {ReadData: true, Workers: 2}} {
				rep := f.verify(o)
				want := c.data
				if what == "structure" {
					want = c.shape
				}
				if got := f.lost(rep); !slices.Equal(got, want) || rep.LostCount != int64(len(want)) {
					t.Errorf("%s: lost %q, want %q", what, got, want)
				}
				if len(rep.BadSnapshots) != c.bad || int(rep.Snapshots) != 3-c.bad {
					t.Errorf("%s: bad snapshots %v", what, rep.BadSnapshots)
				}
				if rep.OK() != (c.silent && what == "structure") {
					t.Errorf("%s: OK is %v: %+v", what, rep.OK(), rep)
				}
				if whole := len(want) == 0 && c.bad == 0; rep.Whole() != whole {
					t.Errorf("%s: Whole is %v", what, rep.Whole())
				}
				for _, l := range rep.Lost {
					if l.Reason == "" || strings.Contains(l.Reason, "\n") {
						t.Errorf("%s: %q is no reason", what, l.Reason)
					}
				}
			}
		})
	}
}

func flip(data []byte) []byte {
	data = bytes.Clone(data)
	data[len(data)-1] ^= 1
	return data
}

// A chunk that is stored twice is lost only if both copies are.
func TestSecondCopy(t *testing.T) {
	f := newFixture(t)
	f.snapshot(f.file("f", "twice"))
	// A process that does not know of the first run stores the chunk again.
	blind := f.store.Clone()
	for _, name := range f.names("packs") {
		if err := blind.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	g := &fixture{t: t, store: blind, r: open(t, blind), snaps: f.snaps}
	if _, err := g.r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := g.file("f", "twice")
	g.snapshot(n)
	for _, name := range g.names("") {
		if !slices.Contains(f.names(""), name) {
			rc, err := g.store.Get(t.Context(), name, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(rc)
			if err != nil {
				t.Fatal(err)
			}
			f.create(name, data)
		}
	}
	f.snaps = g.snaps
	if rep := f.verify(Options{ReadData: true}); !rep.OK() {
		t.Fatalf("%+v", rep)
	}
	// With one copy damaged there is always a fault, but a loss only if a restore
	// from the same index would end at that copy.
	loc, _ := f.r.Locate(n.Content[0].Hash)
	f.change(packName(loc.Block.Pack), func(d []byte) []byte {
		d = bytes.Clone(d)
		d[loc.Block.Offset] ^= 1
		return d
	})
	for range 10 {
		r := open(t, f.store.Clone())
		rep, err := Run(t.Context(), r, Options{ReadData: true})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Load(t.Context(), n.Content[0].Hash, n.Content[0].Size, nil)
		if rep.OK() || rep.Whole() != (err == nil) || rep.FaultCount != 1 {
			t.Errorf("%v, but %+v", err, rep)
		}
		r.Close()
	}
}

func TestSampleIsDeterministic(t *testing.T) {
	f, n := three(t)
	f.spoil(n["old"].Content[0])
	var first []*Report
	found := 0
	for seed := range uint64(4) {
		rep := f.verify(Options{Sample: 0.25, Seed: seed})
		first = append(first, rep)
		if rep.LostCount > 0 {
			found++
			if got := f.lost(rep); !slices.Equal(got, []string{"0:/a/old", "1:/a/old", "2:/a/old"}) {
				t.Errorf("%q", got)
			}
		}
	}
	if found == 0 {
		t.Error("four quarters miss the damage")
	}
	for seed := range uint64(4) {
		if rep := f.verify(Options{Sample: 0.25, Seed: seed, Workers: 4}); !reflect.DeepEqual(rep, first[seed]) {
			t.Errorf("seed %d finds something else the second time:\n%+v\n%+v", seed, first[seed], rep)
		}
	}
}

func TestChoose(t *testing.T) {
	const count = 1000
	packs := make([]pack, count)
	for i := range packs {
		h := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
		packs[i].id = repo.ID(h[:16])
	}
	packs[0].id, packs[1].id = repo.ID{}, repo.ID(bytes.Repeat([]byte{0xff}, 16)) // both ends of the circle
	for _, n := range []int{1, 2, 3, 7, 10, 100} {
		share := 1 / float64(n)
		for _, from := range []uint64{0, 1, 20_000, 1<<64 - 3} {
			times := make(map[repo.ID]int)
			sum := 0
			for i := range uint64(n) {
				chosen := choose(packs, share, from+i)
				sum += len(chosen)
				for _, p := range chosen {
					times[p.id]++
				}
			}
			if len(times) != count || sum > count+n {
				t.Errorf("%d seeds from %d choose %d packs, %d in all", n, from, len(times), sum)
			}
		}
	}
	if got := choose(packs[:1], 1e-9, 12345); len(got) != 1 {
		t.Error("not one pack")
	}
	if got := choose(nil, 0.5, 1); len(got) != 0 {
		t.Error(got)
	}
	if got := choose(packs, 0.999999999999999999, 1); len(got) != count {
		t.Error(len(got))
	}
}

// A page that a snapshot shares with another is read once, a damaged one is
// reported for each.
func TestSharedPagesAreReadOnce(t *testing.T) {
	f := newFixture(t)
	var many []*tree.Node
	for i := range 500 {
		many = append(many, f.file(fmt.Sprintf("f%03d", i), "content"))
	}
	for range 5 {
		f.snapshot(f.dir("same", many...))
	}
	rep := f.verify(Options{})
	if !rep.OK() || rep.Snapshots != 5 || rep.Dirs != 2 || rep.Files != 500 {
		t.Errorf("%+v", rep)
	}
	f.spoil(many[0].Content[0])
	rep = f.verify(Options{ReadData: true})
	if rep.LostCount != 5*500 || len(rep.Lost) != 5*500 || rep.Files != 5*500 {
		t.Errorf("%d lost, %d files", rep.LostCount, rep.Files)
	}
}

// The list of a report ends, its count goes on.
func TestLostIsBounded(t *testing.T) {
	f := newFixture(t)
	var many []*tree.Node
	for i := range 6000 {
		many = append(many, f.file(fmt.Sprintf("f%04d", i), "content"))
	}
	d := f.dir("d", many...)
	f.snapshot(d)
	f.snapshot(d, f.file("other", "x"))
	f.spoil(many[0].Content[0])
	rep := f.verify(Options{ReadData: true})
	if rep.LostCount != 12_000 || len(rep.Lost) != MaxLost {
		t.Errorf("%d of %d", len(rep.Lost), rep.LostCount)
	}
}

func TestSizesMustAddUp(t *testing.T) {
	f := newFixture(t)
	longer := f.file("longer", "one", "two")
	longer.Size--
	sparse := f.file("sparse", "one")
	sparse.Size, sparse.Extents = 100, []tree.Extent{{Offset: 1, Length: 2}}
	wrong := f.file("wrong", "three")
	wrong.Content[0].Size++
	wrong.Size++
	good := f.file("good", "one")
	good.Size, good.Extents = 100, []tree.Extent{{Offset: 97, Length: 3}}
	f.snapshot(longer, sparse, wrong, good)
	if got := f.lost(f.verify(Options{})); !slices.Equal(got, []string{"0:/longer", "0:/sparse", "0:/wrong"}) {
		t.Errorf("%q", got)
	}
}

func TestUnknownObjects(t *testing.T) {
	f, _ := three(t)
	for _, name := range []string{"notes.txt", "snapshots/old", "packs/zz", "keys/x", "parity/1", "sessions/1"} {
		f.create(name, []byte("?"))
	}
	rep := f.verify(Options{})
	got := slices.Clone(rep.Index.Unknown)
	slices.Sort(got)
	if want := []string{"keys/x", "notes.txt", "packs/zz", "parity/1", "sessions/1", "snapshots/old"}; !rep.OK() || !slices.Equal(got, want) {
		t.Errorf("OK is %v, unknown %q", rep.OK(), got)
	}
}

// A snapshot that is forgotten while the others are checked is no damage.
func TestForgottenMeanwhile(t *testing.T) {
	f, n := three(t)
	loc, _ := f.r.Locate(n["new0"].Content[1].Hash)
	f.change(packName(loc.Block.Pack), remove)
	f.change("snapshots/"+f.snaps[1].ID.String(), flip)
	r := open(t, f.store)
	defer r.Close()
	forgotten := false
	rep, err := Run(t.Context(), r, Options{Progress: func(stage string, _, _ int64) {
		if stage == StageTrees && !forgotten {
			forgotten = true
			f.change("snapshots/"+f.snaps[0].ID.String(), remove)
			f.change("snapshots/"+f.snaps[1].ID.String(), remove)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.BadSnapshots) != 0 {
		t.Error(rep.BadSnapshots)
	}
	for _, l := range rep.Lost {
		if l.Snapshot != f.snaps[2].ID || slices.Contains(l.AlsoIn, f.snaps[0].ID) {
			t.Errorf("%+v", l)
		}
	}
	if rep.LostCount != int64(len(rep.Lost)) || rep.LostCount == 0 {
		t.Error(rep.LostCount, len(rep.Lost))
	}
}

// A store that fails is no damage.
func TestStoreGone(t *testing.T) {
	f := newFixture(t)
	var dirs []*tree.Node
	for i := range 100 {
		dirs = append(dirs, f.dir(fmt.Sprintf("d%03d", i), f.file("f", fmt.Sprint(i))))
	}
	f.snapshot(dirs...)
	var failing atomic.Bool
	failed := atomic.Int64{}
	b := storagetest.NewFault(f.store.Clone(), func(op storagetest.Op, _ int) storagetest.Outcome {
		if failing.Load() && op.Kind == storagetest.Get && failed.Add(1) > 0 {
			return storagetest.Fail
		}
		return storagetest.Pass
	}, storagetest.Get)
	r := open(t, b)
	defer r.Close()
	_, err := Run(t.Context(), r, Options{Progress: func(stage string, _, _ int64) {
		if stage == StageTrees {
			failing.Store(true)
		}
	}})
	if err != nil {
		t.Fatal("one record that cannot be read ends everything:", err)
	}
	failing.Store(false)
	// The root is read, all below it is not.
	r2 := open(t, storagetest.NewFault(f.store.Clone(), func(op storagetest.Op, _ int) storagetest.Outcome {
		if failing.Load() && op.Kind == storagetest.Get && failed.Add(1) > 1 {
			return storagetest.Fail
		}
		return storagetest.Pass
	}, storagetest.Get))
	defer r2.Close()
	failed.Store(0)
	_, err = Run(t.Context(), r2, Options{Progress: func(stage string, _, _ int64) {
		if stage == StageTrees {
			failing.Store(true)
		}
	}})
	if !errors.Is(err, storagetest.ErrFault) || failed.Load() > 2*maxReadErrors {
		t.Errorf("%v after %d reads", err, failed.Load())
	}
}

func TestCancel(t *testing.T) {
	f, _ := three(t)
	for _, at := range []string{StageIndex, StageData, StageTrees} {
		ctx, cancel := context.WithCancel(t.Context())
		r := open(t, f.store.Clone())
		rep, err := Run(ctx, r, Options{ReadData: true, Progress: func(stage string, _, _ int64) {
			if stage == at {
				cancel()
			}
		}})
		if !errors.Is(err, context.Canceled) || rep != nil {
			t.Errorf("%s: %+v, %v", at, rep, err)
		}
		r.Close()
		cancel()
	}
}

func TestStillHave(t *testing.T) {
	f, n := three(t)
	check := func(r *repo.Repository, path string, except int, want ...int) {
		t.Helper()
		var got []int
		for _, id := range StillHave(t.Context(), r, f.snaps, path, f.snaps[except].ID) {
			got = append(got, slices.IndexFunc(f.snaps, func(s *tree.Snapshot) bool { return s.ID == id }))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s without %d is in %v, not %v", path, except, got, want)
		}
	}
	check(f.r, "/a/new", 1, 2, 0)
	check(f.r, "/b", 0, 1)
	check(f.r, "/b/\xff", 2, 1, 0)
	check(f.r, "/link", 0, 2, 1)
	check(f.r, "/nothing", 0)
	check(f.r, "/", 0, 2, 1)

	reopen := func() *repo.Repository {
		r := open(t, f.store.Clone())
		t.Cleanup(func() { r.Close() })
		if _, err := r.LoadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		return r
	}
	f.spoil(n["old"].Content[0]) // bit rot: the index does not know
	f.spoil(n["new1"].Content[1])
	f.spoil(n["b"].Content[0])
	r := reopen()
	check(r, "/a/old", 0)
	check(r, "/a/new", 1, 2, 0)
	check(r, "/b", 0)
	check(r, "/list", 0, 2, 1)
	f.spoil(n["new0"].Content[0]) // common to all versions
	f.spoil(n["list"].Content[2])
	r = reopen()
	check(r, "/a/new", 1)
	check(r, "/list", 0)
	loc, _ := f.r.Locate(n["new2"].Content[1].Hash)
	f.change(packName(loc.Block.Pack), remove)
	r = reopen()
	check(r, "/a/new", 0)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := StillHave(ctx, f.r, f.snaps, "/link", f.snaps[0].ID); got != nil {
		t.Error(got)
	}
}

func TestProgress(t *testing.T) {
	f, _ := three(t)
	var stages []string
	last := make(map[string][2]int64)
	f.verify(Options{ReadData: true, Workers: 1, Progress: func(stage string, done, total int64) {
		if len(stages) == 0 || stages[len(stages)-1] != stage {
			stages = append(stages, stage)
		}
		if done < last[stage][0] || done > total {
			t.Errorf("%s: %d of %d after %v", stage, done, total, last[stage])
		}
		last[stage] = [2]int64{done, total}
	}})
	if !slices.Equal(stages, []string{StageIndex, StageData, StageTrees}) {
		t.Errorf("%q", stages)
	}
	if d := last[StageData]; d[0] != d[1] || d[1] == 0 {
		t.Error(d)
	}
	if d := last[StageTrees]; d != [2]int64{3, 3} {
		t.Error(d)
	}
}
