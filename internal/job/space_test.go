package job

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/chunk"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// A spaceDir is a directory of a random tree: of files, by the numbers of their pieces, and
// directories.
type spaceDir struct {
	files map[string][]int
	dirs  map[string]*spaceDir
}

// A spaceWorld makes snapshots of random trees, which share pieces, files and directories.
type spaceWorld struct {
	t     testing.TB
	rnd   *rand.Rand
	r     *repo.Repository
	w     *repo.Writer
	batch *repo.Batch
}

func newSpaceWorld(t testing.TB, seed uint64) *spaceWorld {
	t.Helper()
	ctx := t.Context()
	m := storage.NewMemory()
	err := repo.Init(ctx, m, repo.InitOptions{
		Lockers: []seal.Locker{seal.None{}}, Wrap: seal.WrapOptions{Created: time.Unix(1_700_000_000, 0)},
		Params: chunk.Params{Min: 1 << 10, Avg: 4 << 10, Max: 16 << 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(ctx, m, repo.Options{Credentials: []seal.Credential{seal.None{}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if _, err := r.LoadIndex(ctx); err != nil {
		t.Fatal(err)
	}
	return &spaceWorld{t: t, rnd: rand.New(rand.NewPCG(seed, 5)), r: r}
}

// random is a tree of some depth.
func (s *spaceWorld) random(depth, width int) *spaceDir {
	d := &spaceDir{files: map[string][]int{}, dirs: map[string]*spaceDir{}}
	for range 1 + s.rnd.IntN(width) {
		s.change(d, width)
	}
	if depth > 0 {
		for i := range s.rnd.IntN(4) {
			d.dirs[fmt.Sprintf("dir%d", i)] = s.random(depth-1, width)
		}
	}
	return d
}

func (s *spaceWorld) change(d *spaceDir, width int) {
	pieces := make([]int, 1+s.rnd.IntN(3))
	if s.rnd.IntN(50) == 0 {
		pieces = make([]int, tree.DirectChunks+1+s.rnd.IntN(20))
	}
	for i := range pieces {
		pieces[i] = s.rnd.IntN(400)
	}
	d.files[fmt.Sprintf("file%d", s.rnd.IntN(2*width))] = pieces
}

// next is a tree that has much in common with one before.
func (s *spaceWorld) next(d *spaceDir, width int) *spaceDir {
	n := &spaceDir{files: maps.Clone(d.files), dirs: maps.Clone(d.dirs)}
	for range s.rnd.IntN(3) {
		s.change(n, width)
	}
	for _, name := range slices.Sorted(maps.Keys(n.dirs)) {
		switch s.rnd.IntN(8) {
		case 0:
			delete(n.dirs, name)
		case 1:
			n.dirs["copy-of-"+name] = n.dirs[name]
		case 2, 3:
			n.dirs[name] = s.next(n.dirs[name], width)
		}
	}
	return n
}

func (s *spaceWorld) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// piece stores one of the pieces of which files consist.
func (s *spaceWorld) piece(i int) tree.Chunk {
	data := bytes.Repeat(fmt.Appendf(nil, "piece %d %x, ", i, i*i*7919), 1+i%97)
	if i%3 == 0 {
		rnd := rand.New(rand.NewPCG(uint64(i), 1))
		for k := range data {
			data[k] = byte(rnd.Uint32())
		}
	}
	tail, err := s.batch.Tail()
	s.must(err)
	sum := tree.Hash(sha256.Sum256(data))
	_, err = s.batch.Add(copy(tail, data), 0, sum)
	s.must(err)
	return tree.Chunk{Hash: sum, Size: uint32(len(data))}
}

// store stores a directory and returns its content.
func (s *spaceWorld) store(d *spaceDir) (content []tree.Chunk) {
	pw := new(tree.PageWriter)
	pw.Reset()
	meta := func(page []byte) tree.Chunk {
		h, err := s.w.AddMetadata(page)
		s.must(err)
		return tree.Chunk{Hash: h, Size: uint32(len(page))}
	}
	pw.Page = func(page []byte) error { content = append(content, meta(page)); return nil }
	for _, name := range slices.Sorted(maps.Keys(d.dirs)) {
		s.must(pw.Add(&tree.Node{Name: name, Type: tree.Dir, Links: 1, Content: s.store(d.dirs[name])}))
	}
	for _, name := range slices.Sorted(maps.Keys(d.files)) { // "file…" is behind "dir…" and "copy…"
		n := &tree.Node{Name: name, Type: tree.File, Links: 1}
		for _, i := range d.files[name] {
			c := s.piece(i)
			n.Content, n.Size = append(n.Content, c), n.Size+int64(c.Size)
		}
		if len(n.Content) > tree.DirectChunks {
			n.Content, n.Indirect = []tree.Chunk{meta(tree.AppendChunks(nil, n.Content))}, true
		}
		s.must(pw.Add(n))
	}
	s.must(pw.Flush())
	return content
}

// snapshot stores a tree as a snapshot of a group.
func (s *spaceWorld) snapshot(d *spaceDir, group int, at time.Time) *tree.Snapshot {
	w, err := s.r.NewWriter(s.t.Context(), repo.WriterOptions{Sealers: 2, Readers: 1})
	s.must(err)
	defer w.Abort()
	s.w, s.batch = w, w.Batch(repo.Data)
	snap := &tree.Snapshot{ID: repo.NewID(), Host: fmt.Sprintf("host%d", group/2), Sources: []tree.Path{tree.Path(fmt.Sprintf("/src%d", group))}, Time: at}
	snap.Root = s.store(d)
	s.must(s.batch.Flush())
	body, err := tree.EncodeSnapshot(snap)
	s.must(err)
	s.must(w.Commit(snap.ID, body))
	return snap
}

// TestSpace compares with what sets of chunks say, on random histories of several groups.
func TestSpace(t *testing.T) {
	for seed := range uint64(9) {
		s := newSpaceWorld(t, seed)
		groups := 1 + s.rnd.IntN(4)
		width := []int{3, 12, 400}[seed%3]
		trees := make([]*spaceDir, groups)
		trees[0] = s.random(3-int(seed%3)/2, width)
		for i := range trees[1:] {
			trees[i+1] = s.next(trees[0], width)
		}
		d := &Destination{Repo: s.r}
		start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		for i := range 15 {
			g := s.rnd.IntN(groups)
			d.Snapshots = append(d.Snapshots, s.snapshot(trees[g], g, start.AddDate(0, 0, i)))
			trees[g] = s.next(trees[g], width)
		}
		for _, size := range packSizes(s) {
			d.Index.Bytes += size
		}
		s.rnd.Shuffle(len(d.Snapshots), func(i, j int) { d.Snapshots[i], d.Snapshots[j] = d.Snapshots[j], d.Snapshots[i] })
		got, err := d.Space(t.Context())
		s.must(err)
		compareSpace(t, s, d, got)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// packSizes lists the packs of a repository.
func packSizes(s *spaceWorld) (sizes []int64) {
	s.must(s.r.Backend().List(s.t.Context(), "packs", func(info storage.Info) error {
		sizes = append(sizes, info.Size)
		return nil
	}))
	return sizes
}

func compareSpace(t *testing.T, s *spaceWorld, d *Destination, got *Space) {
	t.Helper()
	needs := map[repo.ID]map[tree.Hash]bool{}
	all := slices.Clone(d.Snapshots)
	slices.SortFunc(all, func(a, b *tree.Snapshot) int { return a.Time.Compare(b.Time) })
	by := map[tree.Hash][]*tree.Snapshot{} // who needs it, oldest first
	for _, snap := range all {
		needs[snap.ID] = map[tree.Hash]bool{}
		for h, err := range tree.Hashes(t.Context(), s.r, snap.RootNode()) {
			s.must(err)
			if !needs[snap.ID][h] {
				needs[snap.ID][h] = true
				by[h] = append(by[h], snap)
			}
		}
	}
	size := func(h tree.Hash) float64 {
		loc, ok := s.r.Locate(h)
		if !ok {
			t.Fatal("a chunk is missing")
		}
		return float64(loc.Block.Stored) * float64(loc.Size) / float64(loc.Block.Raw)
	}
	near := func(what string, got int64, want float64) {
		t.Helper()
		if math.Abs(float64(got)-want) > 1 {
			t.Errorf("%s: %d, want %.1f", what, got, want)
		}
	}
	shared, needed := 0.0, 0.0
	unique, added := map[repo.ID]float64{}, map[repo.ID]float64{}
	groupUnique, groupTotal := map[string]float64{}, map[string]float64{}
	key := func(host string, sources []tree.Path) string { return fmt.Sprint(host, sources) }
	for h, snaps := range by {
		n := size(h)
		needed += n
		added[snaps[0].ID] += n
		if len(snaps) == 1 {
			unique[snaps[0].ID] += n
		}
		of := map[string]bool{}
		for _, x := range snaps {
			of[key(x.Host, x.Sources)] = true
		}
		for g := range of {
			groupTotal[g] += n
			if len(of) == 1 {
				groupUnique[g] += n
			}
		}
		if len(of) > 1 {
			shared += n
		}
	}
	near("shared", got.Shared, shared)
	near("other", got.Other, float64(d.Index.Bytes)-needed)
	if got.Lost != 0 {
		t.Errorf("%d chunks are lost", got.Lost)
	}
	count := 0
	for _, g := range got.Groups {
		k := key(g.Host, g.Sources)
		near(k+", unique", g.Unique, groupUnique[k])
		near(k+", total", g.Total, groupTotal[k])
		for i, x := range g.Snapshots {
			count++
			near("unique", x.Unique, unique[x.ID])
			near("added", x.Added, added[x.ID])
			if x.First != (i == 0) || i > 0 && x.Time.Before(g.Snapshots[i-1].Time) {
				t.Error("not in the order of time")
			}
		}
	}
	if count != len(all) {
		t.Errorf("%d snapshots of %d", count, len(all))
	}
}

func TestSpaceNothing(t *testing.T) {
	d := &Destination{Repo: newSpaceWorld(t, 1).r}
	got, err := d.Space(t.Context())
	if err != nil || len(got.Groups) != 0 || got.Other != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if g := got.Growth(30, nil); g.Rate != nil || g.Days != 0 {
		t.Errorf("%+v", g)
	}
}

// A page that is lost is an error: without it nobody knows whose the rest is.
func TestSpaceDamage(t *testing.T) {
	s := newSpaceWorld(t, 2)
	snap := s.snapshot(s.random(2, 10), 0, time.Now())
	snap.Root = append(slices.Clone(snap.Root), tree.Chunk{Hash: tree.Hash{1}, Size: 10})
	d := &Destination{Repo: s.r, Snapshots: []*tree.Snapshot{snap}}
	if _, err := d.Space(t.Context()); !isDamage(err) {
		t.Error(err)
	}
}

func TestGrowth(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	history := func(added ...int64) *Space {
		s := &Space{Groups: []GroupSpace{{}}}
		for i, a := range added {
			if a >= 0 {
				g := &s.Groups[0]
				g.Snapshots = append(g.Snapshots, SnapshotSpace{Time: start.AddDate(0, 0, i), Added: a, First: len(g.Snapshots) == 0})
			}
		}
		return s
	}
	free := int64(1000)
	for name, c := range map[string]struct {
		added  []int64 // -1: no snapshot
		days   int
		rate   int64 // -1: none
		fullIn float64
	}{
		"steady":            {[]int64{5000, 10, 10, 10, 10, 10, 10, 10}, 30, 10, 100},
		"an import":         {[]int64{5000, 10, 10, 10, 9000, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10}, 30, 10, 100},
		"every other day":   {[]int64{5000, 20, -1, 20, -1, 20, -1, 20, -1, 20, -1, 20, -1, 20}, 30, 10, 100},
		"nothing new":       {[]int64{5000, 0, 0, 0, 0, 0, 0, 0}, 30, 0, 0},
		"too few days":      {[]int64{5000, 10, 10, 10, 10, 10}, 30, -1, 0},
		"the last days":     {[]int64{5000, 99, 99, 99, 99, 99, 99, 99, 99, 20, 20, 20, 20, 20, 20, 20, 20, 20}, 8, 20, 50},
		"too few are asked": {[]int64{5000, 10, 10, 10, 10, 10, 10, 10}, 3, -1, 0},
	} {
		g := history(c.added...).Growth(c.days, &free)
		switch {
		case c.rate < 0 && g.Rate != nil, c.rate >= 0 && (g.Rate == nil || *g.Rate != c.rate):
			t.Errorf("%s: rate %v, want %d", name, g.Rate, c.rate)
		case c.fullIn == 0 && g.FullIn != nil, c.fullIn > 0 && (g.FullIn == nil || *g.FullIn != c.fullIn):
			t.Errorf("%s: full in %v, want %v", name, g.FullIn, c.fullIn)
		case len(g.PerDay) != g.Days || g.Days > c.days:
			t.Errorf("%s: %d days", name, g.Days)
		}
	}
	if g := history(5000, 10, 10, 10, 10, 10, 10, 10).Growth(30, nil); g.Rate == nil || g.FullIn != nil {
		t.Error("a forecast without knowing what is free")
	}
}

// BenchmarkSpace: 50 snapshots of 20,000 files in 1,000 directories, of which each run
// changes 20.
func BenchmarkSpace(b *testing.B) {
	s := newSpaceWorld(b, 3)
	top := &spaceDir{dirs: map[string]*spaceDir{}}
	for i := range 1000 {
		d := &spaceDir{files: map[string][]int{}}
		for k := range 20 {
			d.files[fmt.Sprintf("file%d", k)] = []int{s.rnd.IntN(20_000)}
		}
		top.dirs[fmt.Sprintf("dir%04d", i)] = d
	}
	d := &Destination{Repo: s.r}
	for i := range 50 {
		d.Snapshots = append(d.Snapshots, s.snapshot(top, 0, time.Unix(int64(i)*86400, 0)))
		next := &spaceDir{dirs: maps.Clone(top.dirs)}
		for range 20 {
			name := fmt.Sprintf("dir%04d", s.rnd.IntN(1000))
			n := &spaceDir{files: maps.Clone(next.dirs[name].files)}
			n.files[fmt.Sprintf("file%d", s.rnd.IntN(20))] = []int{s.rnd.IntN(20_000)}
			next.dirs[name] = n
		}
		top = next
	}
	for b.Loop() {
		if _, err := d.Space(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
