package repo

import (
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
)

// packInfo is what this process knows of a pack.
type packInfo struct {
	id   ID
	size int64
	// there: listed with the size that the index gives. Set before use, by
	// loading, or when this process has committed the pack.
	there     bool
	condemned bool
	indexed   bool        // mentioned by an index object that opened
	relied    atomic.Bool // this process stored it, or left a chunk out that is in it
}

// usable says whether chunks of the pack may be read, or (rely) taken as stored.
func (p *packInfo) usable(rely bool) bool { return p.there && !(rely && p.condemned) }

// IndexReport says what loading the index found wrong. None of it prevents
// reading what is there, or a backup: what is missing is stored again.
type IndexReport struct {
	Packs         int      `json:"packs"` // listed and usable
	Bytes         int64    `json:"bytes"` // of these
	IndexObjects  int      `json:"index_objects"`
	MissingPacks  []ID     `json:"missing_packs,omitempty"`  // mentioned by an index object, not listed
	ResizedPacks  []ID     `json:"resized_packs,omitempty"`  // listed with another size than the index gives
	DamagedIndex  []ID     `json:"damaged_index,omitempty"`  // index objects that do not open
	DamagedPacks  []ID     `json:"damaged_packs,omitempty"`  // without index, and their table does not open
	Adopted       int      `json:"adopted"`                  // packs without index whose tables were read
	CondemnedList []ID     `json:"condemned_list,omitempty"` // condemned lists that do not open
	Unknown       []string `json:"unknown,omitempty"`        // objects whose names mean nothing in this version
}

// OK says whether nothing is wrong.
func (r *IndexReport) OK() bool {
	return len(r.MissingPacks)+len(r.ResizedPacks)+len(r.DamagedIndex)+len(r.DamagedPacks)+len(r.CondemnedList) == 0
}

// index maps chunk IDs to places. Look-ups may run while segments are added.
type index struct {
	repo  *Repository
	segs  atomic.Pointer[[]*segment]
	bad   atomic.Pointer[map[place]struct{}] // blocks that could not be read; nil: none
	cache *cacheDir                          // nil: none

	mu    sync.Mutex // guards what follows, and serialises changes of segs
	packs map[ID]*packInfo
	// condemned are the packs that were on a list when the index was loaded: a
	// prune that is going on, or was interrupted, may have deleted them.
	condemned map[ID]struct{}
	// adopted are tables read from packs without an index: the next writer
	// publishes them.
	adopted []packTable
	retired []*segment // no longer searched; their files stay mapped until close
	report  IndexReport
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
		segs := *x.segs.Load()
		damaged := false
		for _, s := range segs {
			ok, err := s.find(id, rely, bad, loc)
			if ok {
				return true
			}
			if err != nil {
				damaged = true
				x.heal(s)
				break
			}
		}
		if !damaged {
			return false
		}
	}
}

// distrust takes a block that could not be read for bad: its chunks no longer count
// as stored, so that this process stores them again, and another copy is read in
// its place.
func (x *index) distrust(b *Block) {
	x.mu.Lock()
	defer x.mu.Unlock()
	bad := make(map[place]struct{})
	if p := x.bad.Load(); p != nil {
		if len(*p) >= maxBad {
			return
		}
		maps.Copy(bad, *p)
	}
	bad[place{b.Pack, b.Offset}] = struct{}{}
	x.bad.Store(&bad)
}

// A place identifies a block.
type place struct {
	pack   ID
	offset uint32
}

// maxBad bounds how many damaged blocks are remembered; copying the set for each
// stays cheap.
const maxBad = 10_000

// heal replaces a segment whose cache file is damaged by what the repository
// has. It cannot fail in a way that is silent: index objects that cannot be read
// now leave their chunks absent, which costs space, not data.
func (x *index) heal(bad *segment) {
	x.mu.Lock()
	defer x.mu.Unlock()
	segs := slices.Clone(*x.segs.Load())
	i := slices.Index(segs, bad)
	if i < 0 {
		return // another goroutine was faster
	}
	if x.cache != nil {
		x.cache.discard(bad)
		x.cache = nil
	}
	segs = slices.Delete(segs, i, i+1)
	x.retire(bad)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	packs, opened, _ := x.fetch(ctx, bad.covers)
	if s, err := x.segmentOf(packs); err == nil {
		s.covers = opened
		segs = append(segs, s)
	}
	x.segs.Store(&segs)
}

// fetch reads index objects, and says which did open. Those that are damaged are
// added to the report.
func (x *index) fetch(ctx context.Context, ids []ID) (packs []packTable, opened []ID, err error) {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, id := range ids {
		g.Go(func() error {
			obj, err := x.repo.readIndex(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				packs, opened = append(packs, obj.packs...), append(opened, id)
			case errors.Is(err, ErrCorrupt):
				x.report.DamagedIndex = append(x.report.DamagedIndex, id)
			case errors.Is(err, fs.ErrNotExist): // replaced meanwhile
			default:
				return fmt.Errorf("read index %s: %w", id.Short(), err)
			}
			return nil
		})
	}
	err = g.Wait()
	return packs, opened, err
}

// segmentOf makes a segment and binds it to the packs' states. x.mu is held.
func (x *index) segmentOf(packs []packTable) (*segment, error) {
	s, err := segmentOf(x.repo.id, packs)
	if err != nil {
		return nil, err
	}
	return s, x.bind(s)
}

// bind looks up the states of a segment's packs. x.mu is held.
func (x *index) bind(s *segment) error {
	s.infos = make([]*packInfo, s.packs.n)
	for i := range s.infos {
		id, size, err := s.packAt(i)
		if err != nil {
			return err
		}
		info := x.packs[id]
		switch {
		case info == nil:
			info = &packInfo{id: id, size: size}
			x.packs[id] = info
			if _, pruned := x.condemned[id]; !pruned {
				x.report.MissingPacks = append(x.report.MissingPacks, id)
			}
		case info.size != size && info.there:
			// Two claims about one pack: the listing decides.
			x.report.ResizedPacks = append(x.report.ResizedPacks, id)
			info = &packInfo{id: id, size: size}
		}
		info.indexed = true
		s.infos[i] = info
	}
	return nil
}

// load lists the repository and reads what the cache does not have.
func (x *index) load(ctx context.Context) (report IndexReport, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	err = x.loadLocked(ctx)
	return x.report, err
}

func (x *index) loadLocked(ctx context.Context) error {
	x.packs = make(map[ID]*packInfo)
	x.report = IndexReport{}
	x.adopted = nil
	if old := x.segs.Load(); old != nil {
		x.retire(*old...)
		x.segs.Store(new([]*segment))
	}
	var objects []ID
	// The index is listed before the packs: a pack that is listed later than
	// its index object is there, the other way round it would seem lost.
	err := x.repo.list(ctx, "index", &x.report.Unknown, func(id ID, _ int64) { objects = append(objects, id) })
	if err != nil {
		return err
	}
	err = x.repo.list(ctx, "packs", &x.report.Unknown, func(id ID, size int64) {
		x.packs[id] = &packInfo{id: id, size: size, there: true}
		x.report.Packs++
		x.report.Bytes += size
	})
	if err != nil {
		return err
	}
	x.report.IndexObjects = len(objects)
	condemned, damaged, err := x.repo.condemned(ctx)
	if err != nil {
		return err
	}
	x.condemned, x.report.CondemnedList = condemned, damaged
	for id := range condemned {
		if info := x.packs[id]; info != nil {
			info.condemned = true
		}
	}

	var segs []*segment
	listed := make(map[ID]bool, len(objects))
	for _, id := range objects {
		listed[id] = true
	}
	if x.cache != nil {
		segs = x.cache.open(x.repo.id, listed)
		for _, s := range segs {
			if err := x.bind(s); err != nil {
				x.cache.discard(s)
				x.retire(segs...)
				return x.loadUncached(ctx, objects)
			}
			for _, id := range s.covers {
				delete(listed, id)
			}
		}
	}
	return x.finishLoad(ctx, segs, objects, listed)
}

// loadUncached is the way on after a damaged cache. x.mu is held.
func (x *index) loadUncached(ctx context.Context, objects []ID) error {
	x.cache = nil
	listed := make(map[ID]bool)
	for _, id := range objects {
		listed[id] = true
	}
	return x.finishLoad(ctx, nil, objects, listed)
}

// finishLoad reads the index objects in missing, then the tables of packs that
// no index object mentions.
func (x *index) finishLoad(ctx context.Context, segs []*segment, objects []ID, missing map[ID]bool) (err error) {
	defer func() {
		if err != nil {
			x.retire(segs...)
		}
	}()
	// Groups bound the memory that tables take before they become a segment.
	const group = 64
	var ids []ID
	for _, id := range objects {
		if missing[id] {
			ids = append(ids, id)
		}
	}
	for chunk := range slices.Chunk(ids, group) {
		packs, opened, err := x.fetch(ctx, chunk)
		if err != nil {
			return err
		}
		if len(opened) == 0 {
			continue
		}
		s, err := x.segmentOf(packs)
		if err != nil {
			return err
		}
		s.covers = opened // a damaged one is read, and reported, each time
		segs = append(segs, s)
	}
	var orphans []*packInfo
	for _, p := range x.packs {
		if p.there && !p.indexed && !p.condemned {
			orphans = append(orphans, p)
		}
	}
	if len(orphans) > 0 {
		if err := x.adopt(ctx, orphans); err != nil {
			return err
		}
		s, err := x.segmentOf(x.adopted)
		if err != nil {
			return err
		}
		segs = append(segs, s) // covers nothing: never cached
	}
	x.segs.Store(&segs)
	x.compact(true)
	return nil
}

// adopt reads the tables of packs that no index object mentions: what an
// interrupted run left, or what a lost index object described.
func (x *index) adopt(ctx context.Context, orphans []*packInfo) error {
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
			case errors.Is(err, fs.ErrNotExist): // pruned meanwhile
				p.there = false
			default:
				return err
			}
			return nil
		})
	}
	return g.Wait()
}

// add makes the chunks of newly committed packs visible. index is the object
// that holds their tables.
func (x *index) add(packs []packTable, object ID) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.adopted = slices.DeleteFunc(x.adopted, func(t packTable) bool {
		return slices.ContainsFunc(packs, func(p packTable) bool { return p.id == t.id })
	})
	for i := range packs {
		if x.packs[packs[i].id] == nil {
			info := &packInfo{id: packs[i].id, size: packs[i].size, there: true}
			// No snapshot needs the pack yet, so a pruner may condemn it, and the
			// run may last longer than the grace period.
			info.relied.Store(true)
			x.packs[packs[i].id] = info
		}
	}
	s, err := x.segmentOf(packs)
	if err != nil {
		return err
	}
	s.covers = []ID{object}
	segs := append(slices.Clone(*x.segs.Load()), s)
	x.segs.Store(&segs)
	x.compact(false)
	return nil
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
	toCache := x.cache != nil && len(loose) > 0 && (flush || entries >= flushEntries)
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
	var merged *segment
	var err error
	if toCache {
		merged, err = x.cache.store(x.repo.id, merge, keep)
	} else {
		merged, err = x.merge(merge)
		keep = append(keep, cached...)
	}
	if err != nil {
		return // the segments go on serving; only look-ups are slower
	}
	next := append(append(adopted, keep...), merged)
	x.segs.Store(&next)
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

// merge makes one segment in memory of some. x.mu is held.
func (x *index) merge(segs []*segment) (*segment, error) {
	var buf sizedBuffer
	if err := mergeSegments(&buf, x.repo.id, segs); err != nil {
		return nil, err
	}
	s, err := openSegment(buf, x.repo.id)
	if err != nil {
		return nil, err
	}
	for _, old := range segs {
		s.covers = append(s.covers, old.covers...)
		s.infos = append(s.infos, old.infos...)
	}
	return s, nil
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

type sizedBuffer []byte

func (b *sizedBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

// reliedUpon returns the packs that this process has stored, and those that
// look-ups with rely found chunks in.
func (x *index) reliedUpon() map[ID]int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	relied := make(map[ID]int64)
	for id, p := range x.packs {
		if p.relied.Load() {
			relied[id] = p.size
		}
	}
	return relied
}

// list calls fn for each object of a directory whose name is right.
func (r *Repository) list(ctx context.Context, dir string, unknown *[]string, fn func(id ID, size int64)) error {
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
	corrupt := func(what string) error { return fmt.Errorf("pack %s: %w: %s", id.Short(), ErrCorrupt, what) }
	if size < int64(len(packMagic)+footerBytes) || size > 1<<40 {
		return nil, corrupt("size")
	}
	// Most tables fit in the first guess, so that one request is enough.
	const guess = 64 << 10
	tail, err := r.get(ctx, packName(id), max(0, size-guess), -1)
	if err != nil {
		return nil, fmt.Errorf("read table of pack %s: %w", id.Short(), err)
	}
	if int64(len(tail)) != min(size, guess) {
		return nil, corrupt("truncated")
	}
	foot := tail[len(tail)-footerBytes:]
	length, err := openFooter(r.keys, id, foot)
	if err != nil {
		return nil, corrupt("footer")
	}
	if length < nonceBytes+tagBytes || length > size-int64(len(packMagic)+footerBytes) {
		return nil, corrupt("length of the table")
	}
	tail = tail[:len(tail)-footerBytes]
	if length > int64(len(tail)) {
		if tail, err = r.get(ctx, packName(id), size-footerBytes-length, length); err != nil {
			return nil, fmt.Errorf("read table of pack %s: %w", id.Short(), err)
		}
		if int64(len(tail)) != length {
			return nil, corrupt("truncated")
		}
	}
	plain, err := openTable(r.keys, id, tail[int64(len(tail))-length:])
	if err != nil {
		return nil, corrupt("table")
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
		return nil, corrupt("blocks overlap the table")
	}
	return t, nil
}

// get reads a range of an object into memory.
func (r *Repository) get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	rc, err := r.backend.Get(ctx, name, off, length)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	if length >= 0 {
		b := make([]byte, length)
		n, err := io.ReadFull(rc, b)
		if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
			err = nil
		}
		return b[:n], err
	}
	return io.ReadAll(io.LimitReader(rc, maxTable))
}
