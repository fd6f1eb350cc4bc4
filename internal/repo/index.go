package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

const (
	// maxSegments bounds how many segments in memory a look-up searches, and how
	// many files of the cache; beyond it they are merged.
	maxSegments = 8
	// fetchers is how many index objects, tables or snapshots are read at a
	// time: enough to hide the latency of a remote store.
	fetchers = 16
	// batchBytes is how many stored bytes of index objects become one segment: it
	// bounds the memory that their tables take before, some 40 MiB.
	batchBytes = 8 << 20
	// runEntries makes a batch a file at once: smaller ones are merged first.
	runEntries = 64 << 10
	// A damaged segment is rebuilt within healWithin and healPerObject for each of
	// its index objects; those not read by then leave their chunks absent.
	healWithin    = 10 * time.Minute
	healPerObject = 50 * time.Millisecond
	// catchUpEvery is how often new index objects are looked for because a pack is
	// gone.
	catchUpEvery = time.Minute
)

// A listedObject is one object of a listing.
type listedObject struct {
	id   ID
	size int64 // bytes
}

func compareListed(a, b listedObject) int { return bytes.Compare(a.id[:], b.id[:]) }

// findNext is findListed for IDs that come in the order of the list: *at is where the
// last one was, and becomes where this one is.
func findNext(sorted []listedObject, id *ID, at *int) bool {
	if next := *at + 1; next < len(sorted) && sorted[next].id == *id {
		*at = next
		return true
	}
	i, ok := findListed(sorted, id)
	if ok {
		*at = i
	}
	return ok
}

func findListed(sorted []listedObject, id *ID) (int, bool) {
	return slices.BinarySearchFunc(sorted, id, func(o listedObject, id *ID) int { return bytes.Compare(o.id[:], id[:]) })
}

// IndexReport says what loading the index found wrong. None of it prevents
// reading what is there, or a backup: what is missing is stored again.
type IndexReport struct {
	Packs         int   `json:"packs"` // listed and usable
	Bytes         int64 `json:"bytes"` // of these
	IndexObjects  int   `json:"index_objects"`
	MissingPacks  []ID  `json:"missing_packs,omitempty"`  // mentioned by an index object, not listed
	ResizedPacks  []ID  `json:"resized_packs,omitempty"`  // listed with another size than the index gives
	DamagedIndex  []ID  `json:"damaged_index,omitempty"`  // index objects that do not open
	DamagedPacks  []ID  `json:"damaged_packs,omitempty"`  // without index, and their table does not open
	Adopted       int   `json:"adopted"`                  // packs without index whose tables were read
	CondemnedList []ID  `json:"condemned_list,omitempty"` // condemned lists that do not open
	// Condemned packs wait for a prune to delete them; they are among Packs.
	Condemned      int   `json:"condemned_packs,omitempty"`
	CondemnedBytes int64 `json:"condemned_bytes,omitempty"`

	Unknown []string `json:"unknown,omitempty"` // objects whose names mean nothing in this version
}

// OK says whether nothing is wrong.
func (r *IndexReport) OK() bool {
	return len(r.MissingPacks)+len(r.ResizedPacks)+len(r.DamagedIndex)+len(r.DamagedPacks)+len(r.CondemnedList) == 0
}

// index maps chunk IDs to places. Look-ups may run while segments are added; they
// take no lock.
type index struct {
	repo *Repository
	segs atomic.Pointer[[]*segment]
	bad  atomic.Pointer[map[place]struct{}] // blocks that could not be read; nil: none

	healing sync.Mutex // held while a damaged segment is rebuilt; taken before mu

	catching sync.Mutex // guards caught; held while new index objects are read; taken before mu
	caught   time.Time  // when that was last done

	mu    sync.Mutex // guards what follows, and serialises changes of segs
	cache *cacheDir  // nil: none
	// healed: a segment of the cache was found damaged while it was in use, and
	// rebuilt. After the second time the cache is not used any more.
	healed bool
	// others are the packs that are listed and in no segment, by ascending ID:
	// condemned ones, and those whose table does not open.
	others []listedObject
	// condemned are the packs that were on a list when the index was loaded: a
	// prune that is going on, or was interrupted, may have deleted them.
	condemned map[ID]struct{}
	lists     []packList // that they are on
	// adopted are tables read from packs without an index: the next writer
	// publishes them.
	adopted []packTable
	retired []*segment // no longer searched; their files stay mapped until close
	// forgotten: which packs this process relies on is no longer known.
	forgotten bool
	report    IndexReport
}

// find looks a chunk up.
func (x *index) find(id *ID, rely bool, loc *Location) bool {
	var bad map[place]struct{}
	if p := x.bad.Load(); p != nil {
		bad = *p
	}
	found := x.findBut(id, rely, bad, loc)
	if !found && !rely && bad != nil {
		found = x.findBut(id, rely, nil, loc) // better damaged than missing: the reader says which
	}
	return found
}

func (x *index) findBut(id *ID, rely bool, bad map[place]struct{}, loc *Location) bool {
	for {
		segs := x.segs.Load()
		found, damaged := findIn(*segs, id, rely, bad, loc)
		switch {
		case damaged != nil:
			x.heal(damaged)
		case found && rely && x.segs.Load() != segs:
			// The mark may have come too late to be carried over to the segment that
			// replaced this one: x.replace.
		default:
			return found
		}
	}
}

func findIn(segs []*segment, id *ID, rely bool, bad map[place]struct{}, loc *Location) (found bool, damaged *segment) {
	for _, s := range segs {
		ok, err := s.find(id, rely, bad, loc)
		if err != nil {
			return false, s
		}
		if ok {
			return true, nil
		}
	}
	return false, nil
}

// distrust takes a block that could not be read for bad: its chunks no longer count
// as stored, so that this process stores them again, and another copy is read in
// its place.
func (x *index) distrust(b *Block) {
	if p := x.bad.Load(); p == nil || len(*p) < maxBad {
		x.distrustAll(map[place]struct{}{{b.Pack, b.Offset}: {}})
	}
}

// distrustAll is distrust for many blocks at a time, without its bound: who has
// found them holds as much.
func (x *index) distrustAll(places map[place]struct{}) {
	if len(places) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	bad := maps.Clone(places)
	if p := x.bad.Load(); p != nil {
		maps.Copy(bad, *p)
	}
	x.bad.Store(&bad)
}

// A place identifies a block.
type place struct {
	pack   ID
	offset uint32
}

// maxBad bounds how many damaged blocks are remembered one by one; copying the set
// for each stays cheap.
const maxBad = 10_000

// heal replaces a segment whose cache file is damaged by what the repository
// has. It cannot fail in a way that is silent: index objects that cannot be read
// now leave their chunks absent, which costs space, not data. Meanwhile what is not
// damaged is found, and segments are added.
func (x *index) heal(bad *segment) {
	x.healing.Lock()
	defer x.healing.Unlock()
	if !slices.Contains(*x.segs.Load(), bad) {
		return // another goroutine was faster
	}
	ctx, cancel := context.WithTimeout(context.Background(), healWithin+time.Duration(len(bad.covers))*healPerObject)
	defer cancel()
	x.mu.Lock()
	l := newLoader(x)
	l.condemned, l.report = x.condemned, new(IndexReport)
	if x.cache != nil {
		x.cache.discard(bad)
		if !x.healed {
			l.cache = x.cache
		}
		x.cache, x.healed = nil, true
	}
	x.mu.Unlock()

	// What was there stays, if the segment still says what it was.
	err := bad.eachPack(nil, func(i int, id ID, size int64) {
		if bad.there.get(i) {
			l.packs = append(l.packs, listedObject{id, size})
		}
	})
	if err != nil {
		l.packs = nil
		x.repo.list(ctx, "packs", nil, func(id ID, size int64) { l.packs = append(l.packs, listedObject{id, size}) })
	}
	l.sortPacks()
	objects := make([]listedObject, len(bad.covers))
	for i, id := range bad.covers {
		objects[i] = listedObject{id, batchBytes / 64} // their sizes are not known: most are smaller
	}
	l.read(ctx, objects)

	x.mu.Lock()
	defer x.mu.Unlock()
	x.cache = l.cache
	if next := slices.Clone(*x.segs.Load()); slices.Contains(next, bad) {
		next = slices.DeleteFunc(next, func(s *segment) bool { return s == bad })
		next = append(next, l.segs...)
		x.segs.Store(&next)
		x.retire(bad)
		for i := range bad.packs.n {
			if bad.reliesOn(i) && !relyAgain(bad, i, l.segs) {
				x.forgotten = true
			}
		}
	} else { // it was merged after all
		x.retire(l.segs...)
	}
	if x.cache != nil {
		x.cache.publish(*x.segs.Load()) // else the next process reads the repository
	}
	x.compact(false)
}

// relyAgain marks a pack of bad as relied upon in the segments that replace it.
func relyAgain(bad *segment, i int, segs []*segment) (ok bool) {
	id, _, err := bad.guardedPackAt(i)
	if err != nil {
		return false
	}
	for _, s := range segs {
		err := s.eachPack(&id, func(j int, _ ID, _ int64) {
			s.rely(j)
			ok = true
		})
		if err != nil {
			return false
		}
	}
	return ok
}

// A loader makes segments of index objects.
type loader struct {
	x     *index
	cache *cacheDir // where large segments go; nil: to memory
	// publish makes each file count at once, so that a load that was interrupted
	// goes on where it was.
	publish    bool
	batchBytes int64 // as the constant
	runEntries int   // as the constant
	// packs are the packs that are listed, but for those in the first segments;
	// by ascending ID. indexed says which of them a segment has.
	packs     []listedObject
	indexed   bitmap
	condemned map[ID]struct{}
	segs      []*segment
	report    *IndexReport
}

func newLoader(x *index) *loader {
	return &loader{x: x, batchBytes: batchBytes, runEntries: runEntries}
}

func (l *loader) sortPacks() {
	slices.SortFunc(l.packs, compareListed)
	l.indexed = newBitmap(len(l.packs))
}

// read appends segments of what the index objects say. Those that do not open are
// in the report, and in no segment's covers: they are read, and reported, each
// time.
func (l *loader) read(ctx context.Context, objects []listedObject) error {
	for len(objects) > 0 {
		n, sum := 1, objects[0].size
		for n < len(objects) && sum+objects[n].size <= l.batchBytes {
			sum += objects[n].size
			n++
		}
		packs, opened, err := l.fetch(ctx, objects[:n])
		if err != nil {
			return err
		}
		objects = objects[n:]
		if len(opened) == 0 {
			continue
		}
		s, err := l.segment(packs, opened)
		if err != nil {
			return err
		}
		if err := l.bind(s); err != nil {
			l.x.retire(s)
			return err
		}
		l.segs = append(l.segs, s)
		if l.publish && s.file != "" {
			l.cache.publish(l.segs) // else it is read again next time
		}
	}
	return nil
}

// segment makes a segment, in a file if it is large.
func (l *loader) segment(packs []packTable, covers []ID) (*segment, error) {
	repoID := l.x.repo.id
	if l.cache != nil && tableLayout(packs, covers).entries >= l.runEntries {
		s, err := l.cache.create(repoID, func(w io.Writer) error { return writeSegment(w, repoID, packs, covers) })
		if err == nil {
			return s, nil
		}
		l.cache = nil // full, perhaps
	}
	return segmentOf(repoID, packs, covers)
}

// fetch reads index objects, and says which did open. Those that are damaged are
// added to the report.
func (l *loader) fetch(ctx context.Context, objects []listedObject) (packs []packTable, opened []ID, err error) {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, o := range objects {
		g.Go(func() error {
			obj, err := l.x.repo.readIndex(ctx, o.id)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				packs, opened = append(packs, obj.packs...), append(opened, o.id)
			case errors.Is(err, ErrCorrupt):
				l.report.DamagedIndex = append(l.report.DamagedIndex, o.id)
			case errors.Is(err, fs.ErrNotExist): // replaced meanwhile
			default:
				return fmt.Errorf("read index %s: %w", o.id.Short(), err)
			}
			return nil
		})
	}
	err = g.Wait()
	return packs, opened, err
}

// bind finds out which packs of a segment are there.
func (l *loader) bind(s *segment) error {
	var fault error
	err := s.eachPack(nil, func(i int, id ID, size int64) {
		j, listed := findListed(l.packs, &id)
		there := listed && l.packs[j].size == size
		if there {
			l.indexed.set(j)
		} else if !listed { // another index object may have had its table
			for _, o := range l.segs {
				err := o.eachPack(&id, func(k int, _ ID, osize int64) { there = there || osize == size && o.there.get(k) })
				fault = errors.Join(fault, err)
			}
		}
		if there {
			s.set(i, l.condemned)
		}
	})
	return errors.Join(err, fault)
}

// set notes that a pack is there. Look-ups must not have begun.
func (s *segment) set(i int, condemned map[ID]struct{}) error {
	s.there.set(i)
	if len(condemned) > 0 {
		id, _, err := s.packAt(i)
		if err != nil {
			return err
		}
		if _, ok := condemned[id]; ok {
			return nil
		}
	}
	s.fresh.set(i)
	return nil
}

// load lists the repository and reads what the cache does not have.
func (x *index) load(ctx context.Context) (report IndexReport, err error) {
	return x.loadWith(ctx, false)
}

// loadAll is load for a pruner, which has to know what is in condemned packs, too, that
// no index object mentions.
func (x *index) loadAll(ctx context.Context) (report IndexReport, err error) {
	return x.loadWith(ctx, true)
}

func (x *index) loadWith(ctx context.Context, condemned bool) (report IndexReport, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	err = x.loadLocked(ctx, condemned)
	if errors.Is(err, errBadSegment) && x.cache != nil {
		// A file was damaged since it was opened.
		x.dropCacheLocked()
		err = x.loadLocked(ctx, condemned)
	}
	return x.report, err
}

// dropCache gives a damaged cache up.
func (x *index) dropCache() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dropCacheLocked()
}

func (x *index) dropCacheLocked() {
	if x.cache != nil {
		x.cache.forget()
		x.cache = nil
	}
}

func (x *index) loadLocked(ctx context.Context, condemned bool) (err error) {
	x.report = IndexReport{}
	x.adopted, x.others, x.forgotten = nil, nil, false
	if old := x.segs.Load(); old != nil {
		x.retire(*old...)
	}
	x.segs.Store(new([]*segment))
	l := newLoader(x)
	l.cache, l.publish, l.report = x.cache, true, &x.report
	defer func() {
		if err != nil {
			x.retire(l.segs...)
		}
	}()

	var objects []listedObject
	// The index is listed before the packs: a pack that is listed later than
	// its index object is there, the other way round it would seem lost.
	// The condemned lists are read before the packs, too, so that what is pruned after
	// their listing is known; index and lists need not wait for each other.
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		x.lists, x.report.CondemnedList, err = x.repo.lists(gctx, kindCondemned)
		x.condemned = listedPacks(x.lists)
		return err
	})
	g.Go(func() error {
		return x.repo.list(gctx, "index", &x.report.Unknown, func(id ID, size int64) {
			objects = append(objects, listedObject{id, size})
		})
	})
	if err := g.Wait(); err != nil {
		return err
	}
	l.condemned = x.condemned
	slices.SortFunc(objects, compareListed)
	x.report.IndexObjects = len(objects)
	cached := newBitmap(len(objects))
	if x.cache != nil {
		at := -1
		l.segs = x.cache.open(x.repo.id, func(id ID) bool { return findNext(objects, &id, &at) })
		for _, s := range l.segs {
			for i := range s.covers {
				findNext(objects, &s.covers[i], &at)
				cached.set(at)
			}
		}
	}

	if err := l.listPacks(ctx); err != nil {
		return err
	}
	var missing []listedObject
	for i, o := range objects {
		if !cached.get(i) {
			missing = append(missing, o)
		}
	}
	if err := l.read(ctx, missing); err != nil {
		return err
	}
	if err := l.reportLost(); err != nil {
		return err
	}
	if err := x.adoptOrphans(ctx, l, condemned); err != nil {
		return err
	}
	x.segs.Store(&l.segs)
	x.compact(true)
	return nil
}

// packBatch is how many packs are looked for at a time: the guard against faults of a
// mapped file costs as much as a look-up.
const packBatch = 4096

// listPacks lists the packs: those that the cache's segments have are marked in
// them, so that nothing of them is in the heap, and the others gathered.
func (l *loader) listPacks(ctx context.Context) error {
	var fault error
	found := newBitmap(packBatch)
	mark := func(batch []listedObject) {
		clear(found)
		for _, s := range l.segs {
			err := s.eachListed(batch, func(j, i int, size int64) {
				if size == batch[j].size {
					found.set(j)
					fault = cmp.Or(fault, s.set(i, l.condemned))
				}
			})
			fault = cmp.Or(fault, err)
		}
		for j, p := range batch {
			if !found.get(j) {
				l.packs = append(l.packs, p)
			}
		}
	}
	// One batch is looked for while the next one is listed.
	batches, free := make(chan []listedObject, 1), make(chan []listedObject, 3)
	for range cap(free) {
		free <- make([]listedObject, 0, packBatch)
	}
	var marking sync.WaitGroup
	marking.Go(func() {
		for batch := range batches {
			mark(batch)
			free <- batch[:0]
		}
	})
	batch := <-free
	err := l.x.repo.list(ctx, "packs", &l.report.Unknown, func(id ID, size int64) {
		l.report.Packs++
		l.report.Bytes += size
		if _, condemned := l.condemned[id]; condemned {
			l.report.Condemned++
			l.report.CondemnedBytes += size
		}
		if batch = append(batch, listedObject{id, size}); len(batch) == packBatch {
			batches <- batch
			batch = <-free
		}
	})
	batches <- batch
	close(batches)
	marking.Wait()
	l.sortPacks()
	return cmp.Or(err, fault)
}

// reportLost finds packs that index objects mention, and that are not there.
func (l *loader) reportLost() error {
	for _, s := range l.segs {
		var fault error
		err := s.eachPack(nil, func(i int, id ID, size int64) {
			if s.there.get(i) {
				return
			}
			_, resized := findListed(l.packs, &id)
			for _, o := range l.segs {
				err := o.eachPack(&id, func(j int, _ ID, _ int64) { resized = resized || o.there.get(j) })
				fault = cmp.Or(fault, err)
			}
			if _, pruned := l.condemned[id]; resized {
				l.report.ResizedPacks = append(l.report.ResizedPacks, id)
			} else if !pruned {
				l.report.MissingPacks = append(l.report.MissingPacks, id)
			}
		})
		if err := cmp.Or(err, fault); err != nil {
			return err
		}
	}
	for _, ids := range []*[]ID{&l.report.ResizedPacks, &l.report.MissingPacks} {
		slices.SortFunc(*ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
		*ids = slices.Compact(*ids)
	}
	return nil
}

// adoptOrphans makes a segment of the tables of packs that no index object
// mentions, and keeps what is left over in x.others: condemned ones, unless they are
// asked for, and those whose table does not open. x.mu is held.
func (x *index) adoptOrphans(ctx context.Context, l *loader, condemned bool) error {
	var orphans []listedObject
	for i, p := range l.packs {
		if l.indexed.get(i) {
			continue
		}
		if _, ok := l.condemned[p.id]; ok && !condemned {
			x.others = append(x.others, p)
		} else {
			orphans = append(orphans, p)
		}
	}
	if len(orphans) == 0 {
		return nil
	}
	if err := x.adopt(ctx, orphans); err != nil {
		return err
	}
	s, err := segmentOf(x.repo.id, x.adopted, nil)
	if err != nil {
		return err
	}
	if err := l.bind(s); err != nil {
		return err
	}
	l.segs = append(l.segs, s) // covers nothing: never cached
	x.adopted = slices.DeleteFunc(x.adopted, func(t packTable) bool { _, ok := l.condemned[t.id]; return ok })
	return nil
}

// adopt reads the tables of packs that no index object mentions: what an
// interrupted run left, or what a lost index object described.
func (x *index) adopt(ctx context.Context, orphans []listedObject) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, p := range orphans {
		g.Go(func() error {
			t, err := x.repo.readTable(ctx, p.id, p.size)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				x.adopted = append(x.adopted, *t)
				x.report.Adopted++
			case errors.Is(err, ErrCorrupt):
				x.report.DamagedPacks = append(x.report.DamagedPacks, p.id)
				x.others = append(x.others, p)
			case errors.Is(err, fs.ErrNotExist): // pruned meanwhile
			default:
				return err
			}
			return nil
		})
	}
	err := g.Wait()
	slices.SortFunc(x.others, compareListed)
	return err
}

// add makes the chunks of newly committed packs visible. index is the object
// that holds their tables. It sorts packs.
func (x *index) add(packs []packTable, object ID) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.adopted = slices.DeleteFunc(x.adopted, func(t packTable) bool {
		return slices.ContainsFunc(packs, func(p packTable) bool { return p.id == t.id })
	})
	s, err := segmentOf(x.repo.id, packs, []ID{object})
	if err != nil {
		return err
	}
	err = s.eachPack(nil, func(i int, id ID, size int64) {
		known, there := x.known(id, size)
		if !known {
			// No snapshot needs the pack yet, so a pruner may condemn it, and the
			// run may last longer than the grace period.
			s.rely(i)
		}
		if !known || there {
			s.there.set(i)
		}
		if _, condemned := x.condemned[id]; !condemned && s.there.get(i) {
			s.fresh.set(i)
		}
	})
	if err != nil {
		return err
	}
	x.insert(s)
	return nil
}

// catchUp reads index objects that are new since the index was loaded: what was in a
// pack that is gone may have been moved by a prune. It returns false if nothing can
// have become known.
func (x *index) catchUp(ctx context.Context) bool {
	x.catching.Lock()
	defer x.catching.Unlock()
	if time.Since(x.caught) < catchUpEvery {
		return true // by another goroutine, while this one waited
	}
	n, err := x.readNew(ctx)
	if err == nil {
		x.caught = time.Now()
	}
	return err == nil && n > 0
}

// readNew reads index objects that are not in the index yet, and returns their number.
// Damaged ones are left out.
func (x *index) readNew(ctx context.Context) (n int, err error) {
	known := make(map[ID]struct{})
	x.mu.Lock()
	for _, s := range *x.segs.Load() {
		for _, id := range s.covers {
			known[id] = struct{}{}
		}
	}
	x.mu.Unlock()
	var ids []ID
	err = x.repo.list(ctx, "index", nil, func(id ID, _ int64) {
		if _, ok := known[id]; !ok {
			ids = append(ids, id)
		}
	})
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		obj, err := x.repo.readIndex(ctx, id)
		if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = x.add(obj.packs, id)
		}
		if err != nil {
			return n, fmt.Errorf("read index %s: %w", id.Short(), err)
		}
		n++
	}
	return n, nil
}

// insert lets look-ups search a segment. x.mu is held.
func (x *index) insert(s *segment) {
	segs := append(slices.Clone(*x.segs.Load()), s)
	x.segs.Store(&segs)
	x.compact(false)
}

// known says whether this process knew of a pack before, and whether it is there
// with the size. x.mu is held.
func (x *index) known(id ID, size int64) (known, there bool) {
	if i, ok := findListed(x.others, &id); ok {
		known, there = true, x.others[i].size == size
	}
	for _, s := range *x.segs.Load() {
		// What is damaged in the cache is no pack of this process's.
		s.eachPack(&id, func(i int, _ ID, sz int64) {
			known = true
			there = there || sz == size && s.there.get(i)
		})
	}
	return known, there
}

// eachPack calls fn for each pack that is there; for one of which several index
// objects have the table, several times. x.mu is held. The error is that of a
// damaged cache.
func (x *index) eachPack(fn func(id ID, size int64)) error {
	for _, o := range x.others {
		fn(o.id, o.size)
	}
	for _, s := range *x.segs.Load() {
		err := s.eachPack(nil, func(i int, id ID, size int64) {
			if s.there.get(i) {
				fn(id, size)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// packSize returns the size of a pack that is there; 0 if it is not.
func (x *index) packSize(id ID) (size int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if i, ok := findListed(x.others, &id); ok {
		size = x.others[i].size
	}
	for _, s := range *x.segs.Load() {
		s.eachPack(&id, func(i int, _ ID, sz int64) {
			if s.there.get(i) {
				size = sz
			}
		})
	}
	return size
}

// compact keeps the number of segments, and of entries in memory, small. It
// merges new segments with older ones that are not much larger than what is merged
// already, so that each entry is merged a few times in its life and the number
// of segments grows with the logarithm of the index. flush makes it write
// whatever is in memory to the cache. x.mu is held.
func (x *index) compact(flush bool) {
	segs := *x.segs.Load()
	var adopted, loose, cached []*segment
	entries := 0
	for _, s := range segs {
		switch {
		case len(s.covers) == 0:
			adopted = append(adopted, s) // no object to read it from again: stays in memory
		case s.file != "":
			cached = append(cached, s)
		default:
			loose = append(loose, s)
			entries += s.entries.n
		}
	}
	toCache := x.cache != nil &&
		(len(loose) > 0 && (flush || entries >= flushEntries) || len(cached) > maxSegments)
	if !toCache && len(loose) <= maxSegments {
		return
	}
	candidates := loose // to merge in memory; with the cache, files take part
	if toCache {
		candidates = append(loose, cached...)
	}
	slices.SortFunc(candidates, func(a, b *segment) int { return a.entries.n - b.entries.n })
	var merge, keep []*segment
	sum := 0
	for _, s := range candidates {
		if toCache && s.file == "" || s.entries.n <= 2*sum || len(candidates)-len(merge) > maxSegments/2 {
			merge = append(merge, s)
			sum += s.entries.n
		} else {
			keep = append(keep, s)
		}
	}
	if !toCache {
		keep = append(keep, cached...)
	}
	x.merge(merge, append(adopted, keep...), toCache)
}

// merge replaces some segments by one, and leaves keep. Where that fails they go
// on serving: only look-ups are slower. x.mu is held.
func (x *index) merge(merge, keep []*segment, toCache bool) {
	var numbers [][]uint32
	write := func(w io.Writer) (err error) {
		numbers, err = mergeSegments(w, x.repo.id, merge)
		return err
	}
	var merged *segment
	var err error
	if toCache {
		merged, err = x.cache.create(x.repo.id, write)
	} else {
		_, _, _, _, _, pages := mergedLayout(merge).tables()
		buf := make(sizedBuffer, 0, pages*pageBytes)
		if err = write(&buf); err == nil {
			merged, err = openSegment(buf, x.repo.id)
		}
	}
	if err != nil {
		return
	}
	for i, s := range merge {
		for pack, n := range numbers[i] {
			if s.there.get(pack) {
				merged.there.set(int(n))
			}
			if s.fresh.get(pack) {
				merged.fresh.set(int(n))
			}
		}
	}
	next := append(keep, merged)
	if toCache {
		if err := x.cache.publish(next); err != nil {
			x.cache.remove(merged)
			return
		}
	}
	x.segs.Store(&next)
	// Only now: a look-up that marks a pack in an old segment after this loop
	// sees the new ones, and looks again (findBut).
	for i, s := range merge {
		for pack, n := range numbers[i] {
			if s.reliesOn(pack) {
				merged.rely(int(n))
			}
		}
	}
	x.retire(merge...)
}

// retire keeps the mapped files of segments that are no longer searched until
// Close: a look-up may be reading them. x.mu is held.
func (x *index) retire(segs ...*segment) {
	for _, s := range segs {
		if s.file != "" {
			x.retired = append(x.retired, s)
		}
	}
}

// close writes the cache and unmaps its files. No look-up may follow.
func (x *index) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.segs.Load() != nil {
		x.compact(true)
		x.retire(*x.segs.Load()...)
	}
	for _, s := range x.retired {
		s.close()
	}
	x.segs.Store(new([]*segment))
	x.retired = nil
}

// reliedUpon returns the packs that this process has stored, and those that
// look-ups with rely found chunks in. If that is no longer known, there is among
// them one that cannot be: the run has to be repeated.
func (x *index) reliedUpon() map[ID]int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	relied := make(map[ID]int64)
	forgotten := x.forgotten
	for _, s := range *x.segs.Load() {
		for i := range s.packs.n {
			if !s.reliesOn(i) {
				continue
			}
			id, size, err := s.guardedPackAt(i)
			if err != nil {
				forgotten = true
				continue
			}
			relied[id] = size
		}
	}
	if forgotten {
		relied[ID{}] = 1
	}
	return relied
}

// list calls fn for each object of a directory whose name is right.
func (r *Repository) list(ctx context.Context, dir string, unknown *[]string, fn func(id ID, size int64)) error {
	if l := r.ahead.take(ctx, dir); l != nil {
		for _, o := range l.objects {
			fn(o.id, o.size)
		}
		if unknown != nil {
			*unknown = append(*unknown, l.unknown...)
		}
		return nil
	}
	err := r.backend.List(ctx, dir, func(info storage.Info) error {
		id, ok := parseName(dir, info.Name)
		if ok {
			fn(id, info.Size)
		} else if unknown != nil {
			*unknown = append(*unknown, info.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	return nil
}

// readTable reads the table at the end of a pack.
func (r *Repository) readTable(ctx context.Context, id ID, size int64) (*packTable, error) {
	if size < int64(len(packMagic)+footerBytes) || size > 1<<40 {
		return nil, tableError(id, "size")
	}
	// Most tables fit in the first guess, so that one request is enough.
	const guess = 64 << 10
	for want := min(size, guess); ; {
		tail, err := r.get(ctx, packName(id), size-want, -1)
		if err != nil {
			return nil, fmt.Errorf("read table of pack %s: %w", id.Short(), err)
		}
		if int64(len(tail)) != want {
			return nil, tableError(id, "truncated")
		}
		t, err := r.tableIn(id, size, tail)
		more, ok := errors.AsType[shortTail](err)
		if !ok {
			return t, err
		}
		want = int64(more)
	}
}

// tableError is why a pack has no table.
func tableError(id ID, what string) error {
	return fmt.Errorf("pack %s: %w: %s", id.Short(), ErrCorrupt, what)
}

// shortTail says how many bytes of the end of a pack have its table.
type shortTail int64

func (shortTail) Error() string { return "the table begins before what was read" }

// tableIn opens and decodes the table in the end of a pack. The error is a shortTail if
// that does not have all of it.
func (r *Repository) tableIn(id ID, size int64, tail []byte) (*packTable, error) {
	length, err := openFooter(r.keys, id, tail[len(tail)-footerBytes:])
	if err != nil {
		return nil, tableError(id, "footer")
	}
	if length < nonceBytes+tagBytes || length > size-int64(len(packMagic)+footerBytes) {
		return nil, tableError(id, "length of the table")
	}
	if tail = tail[:len(tail)-footerBytes]; length > int64(len(tail)) {
		return nil, shortTail(length + footerBytes)
	}
	plain, err := openTable(r.keys, id, tail[int64(len(tail))-length:])
	if err != nil {
		return nil, tableError(id, "table")
	}
	body, err := unsqueeze(r.dec, plain)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", id.Short(), err)
	}
	t := &packTable{id: id, size: size}
	if err := decodeTable(body, t); err != nil {
		return nil, fmt.Errorf("pack %s: %w", id.Short(), err)
	}
	end := int64(len(packMagic))
	for i := range t.blocks {
		end += int64(t.blocks[i].stored)
	}
	if end > size-footerBytes-length {
		return nil, tableError(id, "blocks overlap the table")
	}
	return t, nil
}

// get reads a range of an object into memory.
func (r *Repository) get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	return get(ctx, r.backend, name, off, length)
}

func get(ctx context.Context, b storage.Backend, name string, off, length int64) ([]byte, error) {
	rc, err := b.Get(ctx, name, off, length)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	if length >= 0 {
		data := make([]byte, length)
		n, err := io.ReadFull(rc, data)
		if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
			err = nil
		}
		return data[:n], err
	}
	return io.ReadAll(io.LimitReader(rc, maxTable))
}
