package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// neededBy lists what the snapshots of a repository need.
func neededBy(r *Repository) func(context.Context) (Needed, error) {
	return func(ctx context.Context) (Needed, error) {
		snapshots, err := r.Snapshots(ctx)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, use func(Hash) (bool, error)) error {
			for _, s := range snapshots {
				if s.Err != nil {
					return s.Err
				}
				var items []item
				if err := json.Unmarshal(s.Body, &items); err != nil {
					return err
				}
				for _, it := range items {
					if _, err := use(it.Hash); err != nil {
						return err
					}
				}
			}
			return nil
		}, nil
	}
}

// A testPruner prunes as one host, whose clock says what it is told.
type testPruner struct {
	host      string
	now       time.Time
	sightings Sightings
}

func newPruner(host string) *testPruner {
	return &testPruner{host, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Sightings{}}
}

func (p *testPruner) prune(ctx context.Context, b storage.Backend, change func(*PruneOptions)) (*PruneReport, error) {
	r, _, err := tryOpen(ctx, b, "")
	if err != nil {
		return nil, err
	}
	defer r.Close()
	o := PruneOptions{
		Snapshots: neededBy(r), Grace: DefaultGrace, MaxRepack: -1, Host: p.host, Sightings: p.sightings,
		Now: func() time.Time { return p.now }, Workers: 2,
	}
	if change != nil {
		change(&o)
	}
	return r.Prune(ctx, o)
}

func (p *testPruner) mustPrune(t testing.TB, b storage.Backend, change func(*PruneOptions)) *PruneReport {
	t.Helper()
	rep, err := p.prune(t.Context(), b, change)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func (p *testPruner) wait() { p.now = p.now.Add(DefaultGrace) }

// forget removes a snapshot.
func forget(t testing.TB, b storage.Backend, id ID) {
	t.Helper()
	replace(t, b, objectName(kindSnapshot, id), nil)
}

// grown is s and more.
func (s source) and(o source) source {
	return source{append(slices.Clone(s.data), o.data...), append(slices.Clone(s.meta), o.meta...)}
}

// Two phases: what nobody needs is condemned, and deleted a grace period later. Then
// there is no trace of it.
func TestPrune(t *testing.T) {
	m := newStore(t)
	var ids []ID
	for i := range uint64(3) {
		r, _ := openIn(t, m, "")
		id, _ := mustBackup(t, r, smallSource(i+1))
		ids = append(ids, id)
	}
	before := packIDs(t, m)
	p := newPruner("a")
	if rep := p.mustPrune(t, m, nil); rep.Condemned+rep.Deleted != 0 || rep.Unused != 0 || rep.Packs != len(before) {
		t.Errorf("everything is needed: %+v", rep)
	}
	forget(t, m, ids[1])
	dry := p.mustPrune(t, m, func(o *PruneOptions) { o.DryRun = true })
	first := p.mustPrune(t, m, nil)
	if first.Condemned != 2 || first.Deleted != 0 || first.Repacked != 0 || first.Moved != 0 || !first.Until.Equal(p.now.Add(DefaultGrace)) {
		t.Errorf("%+v", first)
	}
	if dry.Condemned != first.Condemned || dry.CondemnedBytes != first.CondemnedBytes {
		t.Errorf("dry %+v, then %+v", dry, first)
	}
	if got := packIDs(t, m); !slices.Equal(got, before) {
		t.Error("packs are gone before the grace period has passed")
	}
	p.now = p.now.Add(DefaultGrace - time.Second)
	if rep := p.mustPrune(t, m, nil); rep.Condemned+rep.Deleted != 0 || rep.Waiting != 2 {
		t.Errorf("a second before: %+v", rep)
	}
	p.now = p.now.Add(time.Second)
	if rep := p.mustPrune(t, m, nil); rep.Deleted != 2 || rep.DeletedBytes != first.CondemnedBytes || rep.Condemned+rep.Waiting != 0 {
		t.Errorf("%+v", rep)
	}
	if got := len(packIDs(t, m)); got != len(before)-2 {
		t.Errorf("%d packs of %d", got, len(before))
	}
	if left := objects(t, m, "condemned"); len(left) > 0 || len(p.sightings) > 0 {
		t.Errorf("lists %v, sightings %v", left, p.sightings)
	}
	wantReadable(t, m, ids[0], ids[2])
	r, _ := openIn(t, m, "")
	if _, ok := r.Locate(hashOf(smallSource(2).data[0])); ok {
		t.Error("a chunk that is gone is found")
	}
}

// What is needed of a pack that goes moves, without the rest of its blocks.
func TestPruneRepacks(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	small := source{smallSource(1).data[:3], smallSource(1).meta[:1]}
	both, _ := mustBackup(t, r, small.and(smallSource(2)))
	id, _ := mustBackup(t, r, small)
	forget(t, m, both)
	p := newPruner("a")
	if rep := p.mustPrune(t, m, func(o *PruneOptions) { o.MaxRepack = 0 }); rep.Condemned != 0 || rep.Unused == 0 {
		t.Errorf("nothing may move: %+v", rep)
	}
	if rep := p.mustPrune(t, m, func(o *PruneOptions) { o.MaxUnusedBytes = 1 << 30 }); rep.Condemned != 0 {
		t.Errorf("all of it may be wasted: %+v", rep)
	}
	rep := p.mustPrune(t, m, nil)
	if rep.Repacked != 2 || rep.Condemned != 2 || rep.Moved == 0 {
		t.Errorf("%+v", rep)
	}
	wantReadable(t, m, id)
	p.wait()
	if rep := p.mustPrune(t, m, nil); rep.Deleted != 2 || rep.Unused != 0 {
		t.Errorf("%+v", rep)
	}
	wantReadable(t, m, id)
	if n := len(stored(t, m)); n != 4 {
		t.Errorf("%d chunks are left, want 4", n)
	}
	if rep := p.mustPrune(t, m, nil); rep.Condemned+rep.Deleted+rep.IndexObjects != 0 {
		t.Errorf("there was nothing left to do: %+v", rep)
	}
}

func TestPruneAlone(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	small := source{smallSource(1).data[:3], smallSource(1).meta[:1]}
	both, _ := mustBackup(t, r, small.and(smallSource(2)))
	id, _ := mustBackup(t, r, small)
	forget(t, m, both)
	old := packIDs(t, m)
	rep := newPruner("a").mustPrune(t, m, func(o *PruneOptions) { o.Alone = true })
	if rep.Deleted != 2 || !rep.Until.IsZero() {
		t.Errorf("%+v", rep)
	}
	for _, id := range packIDs(t, m) {
		if slices.Contains(old, id) {
			t.Errorf("pack %s is still there", id.Short())
		}
	}
	if left := objects(t, m, "condemned"); len(left) > 0 {
		t.Errorf("lists %v", left)
	}
	wantReadable(t, m, id)
}

// A snapshot that was committed while its packs were condemned loses nothing: that is
// what the second look is for.
func TestPruneMoves(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	id, _ := mustBackup(t, r, smallSource(1))
	other, _ := mustBackup(t, r, smallSource(2))
	old := packIDs(t, m)
	condemn(t, r, old...)
	p := newPruner("a")
	if rep := p.mustPrune(t, m, nil); rep.Deleted != 0 || rep.Waiting != len(old) {
		t.Errorf("a list that this host has not seen for a grace period: %+v", rep)
	}
	wantReadable(t, m, id, other)
	forget(t, m, other)
	p.wait()
	if rep := p.mustPrune(t, m, nil); rep.Deleted != len(old) {
		t.Errorf("%+v", rep)
	}
	wantReadable(t, m, id)
	for _, left := range packIDs(t, m) {
		if slices.Contains(old, left) {
			t.Errorf("pack %s is still there", left.Short())
		}
	}
}

// A restore that takes longer than the grace period finds what has moved meanwhile.
func TestReadWhilePruned(t *testing.T) {
	m := newStore(t)
	writer, _ := openIn(t, m, "")
	small := source{smallSource(1).data[:3], smallSource(1).meta[:1]}
	both, _ := mustBackup(t, writer, small.and(smallSource(2)))
	mustBackup(t, writer, small)
	forget(t, m, both)
	reader, _ := openIn(t, m, "")
	old := packIDs(t, m)
	p := newPruner("a")
	for range 2 {
		p.mustPrune(t, m, nil)
		p.wait()
	}
	for _, id := range packIDs(t, m) {
		if slices.Contains(old, id) {
			t.Fatalf("pack %s is still there", id.Short())
		}
	}
	for _, c := range append(small.data, small.meta...) {
		if got, err := reader.Load(t.Context(), hashOf(c), uint32(len(c)), nil); err != nil || !slices.Equal(got, c) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	gone := smallSource(2).data[0]
	if _, err := reader.Load(t.Context(), hashOf(gone), uint32(len(gone)), nil); !errors.Is(err, ErrMissing) {
		t.Errorf("what nobody needed: %v", err)
	}
}

// A list of another host counts from when it was first seen, whatever time is in it.
func TestPruneClocks(t *testing.T) {
	start := newStore(t)
	r, _ := openIn(t, start, "")
	id, _ := mustBackup(t, r, smallSource(1))
	gone, _ := mustBackup(t, r, smallSource(2))
	forget(t, start, gone)
	a, b := newPruner("a"), newPruner("b")
	a.now = a.now.AddDate(-30, 0, 0)
	a.mustPrune(t, start, nil)
	if rep := b.mustPrune(t, start, nil); rep.Deleted != 0 || rep.Waiting != 2 {
		t.Errorf("b believes the clock of a: %+v", rep)
	}
	b.wait()
	if rep := b.mustPrune(t, start, nil); rep.Deleted != 2 {
		t.Errorf("%+v", rep)
	}
	wantReadable(t, start, id)

	// Nor that of another machine of its name, but where it remembers nothing at all.
	r, _ = openIn(t, start, "")
	old, _ := mustBackup(t, r, smallSource(3))
	forget(t, start, old)
	same, new := newPruner("b"), newPruner("b")
	same.now = same.now.AddDate(-30, 0, 0)
	same.mustPrune(t, start, nil)
	b.sightings[ID{1}] = b.now
	if rep := b.mustPrune(t, start, nil); rep.Deleted != 0 || rep.Waiting != 2 {
		t.Errorf("b believes a machine of its name: %+v", rep)
	}
	if rep := new.mustPrune(t, start, nil); rep.Deleted != 2 {
		t.Errorf("without memory: %+v", rep)
	}

	// One whose own clock was ahead does not wait for years.
	forget(t, start, id)
	b.now = b.now.AddDate(30, 0, 0)
	b.mustPrune(t, start, nil)
	b.now = b.now.AddDate(-30, 0, 0)
	if rep := b.mustPrune(t, start, nil); rep.Deleted != 0 {
		t.Errorf("%+v", rep)
	}
	b.wait()
	if rep := b.mustPrune(t, start, nil); rep.Deleted != 2 {
		t.Errorf("%+v", rep)
	}
}

// What the snapshots need cannot be found out: nothing happens.
func TestPruneUnreadable(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	id, _ := mustBackup(t, r, smallSource(1))
	gone, _ := mustBackup(t, r, smallSource(2))
	forget(t, m, gone)
	name := objectName(kindSnapshot, id)
	data := getObject(t, m, name)
	data[40] ^= 1
	replace(t, m, name, data)
	before := storagetest.Objects(t, m)
	if _, err := newPruner("a").prune(t.Context(), m, func(o *PruneOptions) { o.Alone = true }); !errors.Is(err, ErrCorrupt) {
		t.Errorf("error is %v", err)
	}
	if !maps.EqualFunc(before, storagetest.Objects(t, m), slices.Equal) {
		t.Error("something has changed")
	}
}

// A damaged copy does not stand for a good one, wherever it is.
func TestPruneDamagedCopy(t *testing.T) {
	s := source{data: smallSource(1).data}
	for _, condemned := range []int{0, 1} {
		for _, damaged := range []int{0, 1} {
			t.Run(fmt.Sprintf("%d condemned, %d damaged", condemned, damaged), func(t *testing.T) {
				m := newStore(t)
				// Two runs at the same time store the same.
				var writers []*Writer
				for range 2 {
					r, _ := openIn(t, m, "")
					w, err := r.NewWriter(t.Context(), WriterOptions{})
					if err != nil {
						t.Fatal(err)
					}
					defer w.Abort()
					writers = append(writers, w)
				}
				var ids, packs []ID
				for _, w := range writers {
					if err := s.write(w, 1); err != nil {
						t.Fatal(err)
					}
					id := NewID()
					if err := w.Commit(id, s.body()); err != nil {
						t.Fatal(err)
					}
					ids = append(ids, id)
					for _, id := range packIDs(t, m) {
						if !slices.Contains(packs, id) {
							packs = append(packs, id)
						}
					}
				}
				if len(packs) != 2 {
					t.Fatalf("%d packs", len(packs))
				}
				r, _ := openIn(t, m, "")
				condemn(t, r, packs[condemned])
				p := newPruner("a")
				p.mustPrune(t, m, func(o *PruneOptions) { o.MaxRepack = 0 })
				p.wait()
				flip(t, m, packName(packs[damaged]), len(packMagic)+10)
				rep := p.mustPrune(t, m, nil)
				if rep.Deleted != 1 || len(rep.Kept) != 0 || (len(rep.Faults) == 0) == (damaged != condemned) {
					t.Errorf("%+v", rep)
				}
				// All of it can be read, if not always from where the index says first.
				r, _ = openIn(t, m, "")
				if _, err := r.CheckData(t.Context(), CheckOptions{}); err != nil {
					t.Fatal(err)
				}
				wantSnapshots(t, r, ids...)
			})
		}
	}
}

// Packs whose needed content cannot be read anywhere stay: salvage may get it out.
func TestPruneKeepsDamaged(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	s := source{data: [][]byte{smallSource(1).data[0]}}
	mustBackup(t, r, s)
	pack := packIDs(t, m)[0]
	condemn(t, r, pack)
	flip(t, m, packName(pack), len(packMagic)+10)
	p := newPruner("a")
	p.mustPrune(t, m, nil)
	p.wait()
	rep := p.mustPrune(t, m, nil)
	if !slices.Equal(rep.Kept, []ID{pack}) || rep.Deleted != 0 || len(rep.Faults) == 0 {
		t.Errorf("%+v", rep)
	}
	if got := packIDs(t, m); len(got) != 1 || len(objects(t, m, "condemned")) != 1 {
		t.Errorf("packs %v, lists %v", got, objects(t, m, "condemned"))
	}
}

// The packs of a run that goes on are left alone, until it has been silent for a
// grace period.
func TestPruneAnnounced(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	w, err := r.NewWriter(t.Context(), WriterOptions{Host: "b"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	w.announceAt = time.Time{}
	s := smallSource(1)
	if err := s.write(w, 1); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	p := newPruner("a")
	if rep := p.mustPrune(t, m, nil); rep.Announced != 2 || rep.Condemned != 0 {
		t.Errorf("%+v", rep)
	}
	crashed := m.Clone()
	id := NewID()
	if err := w.Commit(id, s.body()); err != nil {
		t.Fatal(err)
	}
	if left := objects(t, m, "runs"); len(left) > 0 {
		t.Errorf("the run has ended, and %v is there", left)
	}
	wantReadable(t, m, id)

	p.wait()
	if rep := p.mustPrune(t, crashed, nil); rep.Announced != 0 || rep.Condemned != 2 {
		t.Errorf("%+v", rep)
	}
	if left := objects(t, crashed, "runs"); len(left) > 0 {
		t.Errorf("the run has crashed, and %v is there", left)
	}
	p.wait()
	p.mustPrune(t, crashed, nil)
	wantReadable(t, crashed)
	if left := packIDs(t, crashed); len(left) > 0 {
		t.Errorf("packs %v", left)
	}
}

// Many small index objects become few.
func TestPruneMergesIndex(t *testing.T) {
	m := newStore(t)
	var ids []ID
	r, _ := openIn(t, m, "")
	for i := range maxSmallIndex + 2 {
		id, _ := mustBackup(t, r, source{data: [][]byte{text(uint64(i), 2000)}})
		ids = append(ids, id)
	}
	if rep := newPruner("a").mustPrune(t, m, func(o *PruneOptions) { o.MaxUnused = 1 }); rep.IndexObjects != 1 || rep.Condemned != 0 {
		t.Errorf("%+v", rep)
	}
	if got := objects(t, m, "index"); len(got) != 1 {
		t.Errorf("%d index objects", len(got))
	}
	wantReadable(t, m, ids...)
}

// Whatever fails or is cut off in whichever phase, the snapshots are whole, and the
// next prunes finish the work.
func TestPruneFaults(t *testing.T) {
	start := newStore(t)
	r, _ := openIn(t, start, "")
	small := source{smallSource(1).data[:3], smallSource(1).meta[:1]}
	both, _ := mustBackup(t, r, small.and(smallSource(2)))
	third, _ := mustBackup(t, r, smallSource(3))
	id, _ := mustBackup(t, r, small)
	last, _ := mustBackup(t, r, smallSource(4))
	forget(t, start, third)
	begun := newPruner("a")
	begun.mustPrune(t, start, nil) // third is condemned
	forget(t, start, both)
	begun.wait()
	var p *testPruner
	run := func(b storage.Backend) error {
		p = &testPruner{begun.host, begun.now, maps.Clone(begun.sightings)}
		_, err := p.prune(t.Context(), b, nil)
		return err
	}
	eachFault(t, start, run, func(t *testing.T, left *storage.Memory, _ error) {
		r, _, err := tryOpen(t.Context(), left, "")
		if err != nil {
			t.Fatal(err)
		}
		wantSnapshots(t, r, id, last)
		r.Close()
		for range 3 {
			p.wait()
			p.mustPrune(t, left, nil)
		}
		wantReadable(t, left, id, last)
		stored(t, left) // none twice
		if lists := objects(t, left, "condemned"); len(lists) > 0 {
			t.Errorf("lists %v", lists)
		}
	})
}

// Writers, pruners and somebody who forgets, each with a repository of its own and an
// index that is older than what the others do. Time passes between any two things but
// between a writer's check and its commit. Nothing is ever lost.
func TestPruneRandom(t *testing.T) {
	runs := 6
	if testing.Short() {
		runs = 1
	}
	for seed := range uint64(runs) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			pruneRandom(t, seed)
		})
	}
}

func pruneRandom(t *testing.T, seed uint64) {
	const steps = 60
	m := newStore(t)
	var clock sync.RWMutex // read-locked while no time passes
	var hours atomic.Int64
	now := func() time.Time {
		return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(hours.Load()) * time.Hour)
	}
	pass := func(n int) {
		clock.Lock()
		defer clock.Unlock()
		hours.Add(int64(n))
	}
	// The snapshots there are: who forgets one has it to itself.
	var mu sync.Mutex
	kept := map[ID]struct{}{}
	var commits, raced, deleted, moved atomic.Int64
	var wg, others sync.WaitGroup
	ended := make(chan struct{}) // the writers have
	going := func() bool {
		select {
		case <-ended:
			return false
		default:
			return true
		}
	}
	part := func(i int) source { return smallSource(uint64(i)) }
	for writer := range 3 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(writer)))
			var r *Repository
			for range steps {
				if r == nil || random.IntN(3) == 0 {
					var err error
					if r, _, err = tryOpen(t.Context(), m, ""); err != nil {
						t.Error(err)
						return
					}
					defer r.Close()
				}
				s := part(random.IntN(8)).and(part(random.IntN(8)))
				if random.IntN(2) == 0 {
					s.data = s.data[random.IntN(8):]
				}
				w, err := r.NewWriter(t.Context(), WriterOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				err = s.write(w, 1)
				if err == nil && random.IntN(8) == 0 { // a crash
					w.Abort()
					r = nil
					continue
				}
				if err == nil {
					err = w.Flush()
				}
				if random.IntN(2) == 0 {
					pass(random.IntN(30))
				}
				id := NewID()
				if err == nil {
					clock.RLock()
					if err = w.Commit(id, s.body()); err == nil {
						mu.Lock()
						kept[id] = struct{}{}
						mu.Unlock()
					}
					clock.RUnlock()
				}
				w.Abort()
				switch {
				case errors.Is(err, ErrRaced):
					raced.Add(1)
					r = nil
				case err != nil:
					t.Errorf("writer: %v", err)
					return
				default:
					commits.Add(1)
				}
			}
		})
	}
	for pruner := range 2 {
		others.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(100+pruner)))
			p := newPruner(fmt.Sprint("p", pruner))
			for going() {
				pass(random.IntN(20))
				rep, err := p.prune(t.Context(), m, func(o *PruneOptions) {
					o.Now = now
					if random.IntN(3) == 0 {
						o.MaxRepack = 20_000
					}
				})
				if err != nil && !errors.Is(err, ErrRaced) || rep.Lost > 0 {
					t.Errorf("pruner: %+v, %v", rep, err)
					return
				}
				deleted.Add(int64(rep.Deleted))
				moved.Add(rep.Moved)
			}
		})
	}
	others.Go(func() {
		random := rand.New(rand.NewPCG(seed, 200))
		for going() {
			mu.Lock()
			ids := slices.Collect(maps.Keys(kept))
			mu.Unlock()
			if len(ids) > 4 {
				id := ids[random.IntN(len(ids))]
				mu.Lock()
				delete(kept, id)
				mu.Unlock()
				if err := m.Delete(t.Context(), objectName(kindSnapshot, id)); err != nil {
					t.Error(err)
				}
			}
			pass(random.IntN(4))
		}
	})
	wg.Wait()
	close(ended)
	others.Wait()
	if t.Failed() {
		return
	}
	r, _, err := tryOpen(t.Context(), m, "")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	wantSnapshots(t, r, slices.Collect(maps.Keys(kept))...)
	p := newPruner("last")
	p.now = now()
	for range 3 {
		p.wait()
		rep := p.mustPrune(t, m, func(o *PruneOptions) { o.MaxUnused = 0 })
		deleted.Add(int64(rep.Deleted))
	}
	t.Logf("%d commits, %d raced, %d packs deleted, %d bytes moved", commits.Load(), raced.Load(), deleted.Load(), moved.Load())
	if deleted.Load() == 0 || commits.Load() == 0 {
		t.Error("nothing has happened")
	}
	wantReadable(t, m, slices.Collect(maps.Keys(kept))...)
	stored(t, m) // none twice
	if lists := objects(t, m, "condemned"); len(lists) > 0 {
		t.Errorf("lists %v", lists)
	}
}
