package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// DefaultGrace is how long a pack stays after it was condemned. MinGrace has to be
	// more than commitWithin: docs/format.md §9.
	DefaultGrace = 24 * time.Hour
	MinGrace     = 2 * commitWithin

	// A prune writes index objects of at most mergedBytes, tables before compression,
	// and merges those smaller than smallIndex if there are more than maxSmallIndex.
	mergedBytes   = 4 << 20
	smallIndex    = 256 << 10
	maxSmallIndex = 64
	// checkPasses bounds how often a prune goes on after it has found damage.
	checkPasses = 8
	// pruneAttempts bounds how often a prune begins anew because another one has
	// deleted what it was just reading.
	pruneAttempts = 4
)

// Sightings remember when this host first saw condemned lists and announcements of
// runs, by their IDs: clocks of other hosts are not trusted with what is deleted.
type Sightings map[ID]time.Time

// PruneOptions configure a Prune.
type PruneOptions struct {
	// Snapshots lists the snapshots, and returns what goes through them: it calls use for
	// every chunk that one of them needs. first is false where that was said before: a
	// record that another snapshot has, too, need not be read again. An error of either
	// ends the prune before anything is deleted. use may be called concurrently.
	Snapshots func(ctx context.Context) (needed Needed, err error)
	// Grace is how long ago a pack must have been condemned to be deleted; at
	// least MinGrace.
	Grace time.Duration
	// Alone says that nobody else uses the repository: what goes is deleted at once.
	Alone bool
	// MaxUnused is how much of the packs that stay may be unneeded, as a part of what
	// is needed; MaxUnusedBytes, where it is not 0, in bytes. MaxRepack is how many
	// bytes are moved at most to get there; 0: none, negative: any number.
	MaxUnused      float64
	MaxUnusedBytes int64
	MaxRepack      int64
	DryRun         bool

	Host      string
	Sightings Sightings // changed by Prune
	Write     WriterOptions
	Workers   int              // as in CheckOptions
	Now       func() time.Time // nil: time.Now
	// Progress, if set, is told how far a stage is, in stored bytes: "check" of what
	// stands for that which goes, "delete". Watch, if set, receives each Writer that
	// moves what is needed. Both are called from several goroutines.
	Progress func(stage string, done, total int64)
	Watch    func(*Writer)
}

// Needed calls use for every chunk that is needed.
type Needed func(ctx context.Context, use func(Hash) (first bool, err error)) error

// PruneReport is what a prune found and did. Sizes are stored bytes.
type PruneReport struct {
	Packs  int   `json:"packs"` // before
	Bytes  int64 `json:"bytes"`
	Needed int64 `json:"needed_bytes"` // of the blocks' parts that snapshots need
	Unused int64 `json:"unused_bytes"` // the rest of packs that stay
	// Lost chunks are needed and nowhere.
	Lost int64 `json:"lost_chunks"`

	// Condemned in this run: of Repacked packs something is needed, which is Moved.
	Condemned      int   `json:"condemned_packs"`
	CondemnedBytes int64 `json:"condemned_bytes"`
	Repacked       int   `json:"repacked_packs"`
	// Moved is what is needed of condemned packs and was, or will be, stored anew.
	Moved int64 `json:"moved_bytes"`
	// Deleted in this run.
	Deleted      int   `json:"deleted_packs"`
	DeletedBytes int64 `json:"deleted_bytes"`
	// Waiting are condemned packs whose grace period has not passed, all of them
	// after Until.
	Waiting      int       `json:"waiting_packs"`
	WaitingBytes int64     `json:"waiting_bytes"`
	Until        time.Time `json:"waiting_until,omitzero"`
	// Announced packs belong to runs that have not ended.
	Announced      int   `json:"announced_packs,omitempty"`
	AnnouncedBytes int64 `json:"announced_bytes,omitempty"`
	// Kept are condemned packs that stay because what is needed of them could not be
	// read, or because it is not known what is in them.
	Kept         []ID     `json:"kept_packs,omitempty"`
	DamagedLists []ID     `json:"damaged_lists,omitempty"`
	Faults       []string `json:"faults,omitempty"` // blocks that do not open
	IndexObjects int      `json:"index_objects_written"`
}

func compareIDs(a, b ID) int { return bytes.Compare(a[:], b[:]) }

// A pruner is one Prune.
type pruner struct {
	r     *Repository
	o     *PruneOptions
	rep   *PruneReport
	look  time.Time
	lists []packList
	runs  []packList // announcements
	usage *usage
	packs map[ID]*packUse
	// counts are the packs on lists that count.
	counts map[ID]struct{}
	// tidy: the index names packs that are gone, or consists of many objects.
	tidy bool
	// protected are the packs that had repair data before packs were listed.
	protected []ID
	// damagedIndex are index objects that do not open, where others have the tables of
	// all packs.
	damagedIndex []ID
}

// CondemnDamaged condemns the packs in which this process has found damaged blocks, and
// returns their number: nobody relies on them any more, and the next prunes store what
// can be read of them elsewhere and delete them. With unknown, so it does packs of which
// it is not known what is in them, truncated ones say: for who has seen that every
// snapshot is whole without them. No look-up may go on meanwhile.
func (r *Repository) CondemnDamaged(ctx context.Context, unknown bool) (int, error) {
	set := make(map[ID]struct{})
	if bad := r.index.bad.Load(); bad != nil {
		for at := range *bad {
			if r.index.packSize(at.pack) > 0 {
				set[at.pack] = struct{}{}
			}
		}
	}
	if unknown {
		r.index.mu.Lock()
		for _, p := range r.index.others {
			set[p.id] = struct{}{}
		}
		r.index.mu.Unlock()
	}
	maps.DeleteFunc(set, func(id ID, _ struct{}) bool { return r.index.isCondemned(id) })
	if len(set) == 0 {
		return 0, nil
	}
	host, _ := os.Hostname() // without a name it is nobody's
	list := packList{Time: time.Now().Round(0), Host: host, Packs: slices.SortedFunc(maps.Keys(set), compareIDs)}
	if err := r.createList(ctx, kindCondemned, &list); err != nil {
		return 0, fmt.Errorf("store condemned list: %w", err)
	}
	return len(set), r.index.condemn(set)
}

// A packUse says what is in a pack that is there.
type packUse struct {
	size      int64
	needed    int64 // of chunks for which this pack stands
	spare     int64 // of chunks that are needed, and stand elsewhere
	unneeded  int64
	known     bool // its table is
	stuck     bool // it should have something that cannot be read
	condemned bool
	announced bool
}

// Prune removes what no snapshot needs: docs/format.md §9. It may be interrupted
// anywhere, and run beside anything else; the error is ErrRaced if another prune has
// overtaken it again and again. Whoever uses the Repository after it loads the index
// again.
func (r *Repository) Prune(ctx context.Context, o PruneOptions) (*PruneReport, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	if o.Sightings == nil {
		o.Sightings = make(Sightings)
	}
	if o.Grace < MinGrace {
		return nil, fmt.Errorf("a grace period of %s is less than %s", o.Grace, MinGrace)
	}
	for attempt := 1; ; attempt++ {
		rep, err := r.prune(ctx, &o)
		bad := errors.Is(err, errBadSegment)
		if attempt == pruneAttempts || !bad && !errors.Is(err, ErrRaced) {
			return rep, err
		}
		if bad { // the next one reads the repository
			r.index.dropCache()
		}
	}
}

func (r *Repository) prune(ctx context.Context, o *PruneOptions) (*PruneReport, error) {
	p := &pruner{r: r, o: o, rep: new(PruneReport), look: o.Now().Round(0), counts: make(map[ID]struct{})}
	if err := p.see(ctx); err != nil {
		return p.rep, err
	}
	if err := p.classify(); err != nil {
		return p.rep, err
	}
	going := p.choose()
	p.account(going)
	if o.DryRun {
		return p.rep, nil
	}
	if err := p.condemn(ctx, going); err != nil {
		return p.rep, err
	}
	if err := p.move(ctx); err != nil {
		return p.rep, err
	}
	if err := p.delete(ctx); err != nil {
		return p.rep, err
	}
	if err := p.dropIndex(ctx); err != nil {
		return p.rep, err
	}
	if err := p.r.sweepParity(ctx, p.protected); err != nil {
		return p.rep, err
	}
	return p.rep, p.forgetRuns(ctx)
}

// see takes the look: lists, packs, snapshots, in this order.
func (p *pruner) see(ctx context.Context) (err error) {
	x := &p.r.index
	if p.protected, err = p.r.listParity(ctx); err != nil {
		return err
	}
	index, err := x.loadAll(ctx)
	if err != nil {
		return err
	}
	p.lists, p.rep.DamagedLists = x.lists, index.CondemnedList
	if index.Adopted == 0 && len(index.DamagedPacks) == 0 {
		p.damagedIndex = index.DamagedIndex
	}
	p.tidy = len(index.MissingPacks) > 0 || index.IndexObjects > maxSmallIndex
	if p.runs, _, err = p.r.lists(ctx, kindRun); err != nil {
		return err
	}
	p.remember()
	for _, l := range p.lists {
		if p.o.Alone || p.age(&l) >= p.o.Grace {
			for _, id := range l.Packs {
				p.counts[id] = struct{}{}
			}
		}
	}
	needed, err := p.o.Snapshots(ctx)
	if err != nil {
		return err
	}
	// What a snapshot needs that was committed since the index was loaded.
	if _, err := x.readNew(ctx); err != nil {
		return err
	}
	p.usage = x.newUsage()
	err = needed(ctx, func(h Hash) (bool, error) {
		id := p.r.ChunkID(h)
		first, err := p.usage.use(&id)
		return first, err
	})
	p.rep.Lost = p.usage.lost.Load()
	return err
}

// remember notes which lists and announcements this host sees for the first time, and
// forgets those that are gone. A host that remembers nothing believes the time in those
// that bear its name; one that does has published none that it does not remember.
func (p *pruner) remember() {
	old := maps.Clone(p.o.Sightings)
	clear(p.o.Sightings)
	for _, l := range slices.Concat(p.lists, p.runs) {
		seen, ok := old[l.id]
		if !ok && len(old) == 0 && l.Host == p.o.Host && l.Host != "" {
			seen, ok = l.Time, true
		}
		if !ok || seen.After(p.look) {
			seen = p.look
		}
		p.o.Sightings[l.id] = seen
	}
}

// age is how long ago a list was published, as far as this host knows.
func (p *pruner) age(l *packList) time.Duration { return p.look.Sub(p.o.Sightings[l.id]) }

// classify finds out how much of each pack is needed.
func (p *pruner) classify() error {
	x := &p.r.index
	p.packs = make(map[ID]*packUse)
	x.mu.Lock()
	err := x.eachPack(func(id ID, size int64) {
		if p.packs[id] == nil {
			_, condemned := x.condemned[id]
			p.packs[id] = &packUse{size: size, condemned: condemned}
		}
	})
	x.mu.Unlock()
	if err != nil {
		return err
	}
	for _, run := range p.runs {
		if p.o.Alone || p.age(&run) >= p.o.Grace {
			continue
		}
		for _, id := range run.Packs {
			if u := p.packs[id]; u != nil {
				u.announced = true
			}
		}
	}
	return p.usage.each(func(id ID, loc *Location, needed bool) error {
		u := p.packs[loc.Block.Pack]
		if u == nil {
			return errBadSegment
		}
		u.known = true
		share := int64(float64(loc.Size) * float64(loc.Block.Stored) / float64(loc.Block.Raw))
		if !needed {
			u.unneeded += share
			return nil
		}
		stands, ok, err := x.standing(&id)
		if err == nil && !ok {
			stands, ok, err = x.sound(&id) // all are condemned: it will be moved
		}
		switch {
		case err != nil:
			return err
		case !ok: // each copy was found damaged: salvage may get something out of it
			u.stuck = true
			u.needed += share
		case samePlace(&stands, loc):
			u.needed += share
		default:
			u.spare += share
		}
		return nil
	})
}

func samePlace(a, b *Location) bool {
	return a.Block.Pack == b.Block.Pack && a.Block.Offset == b.Block.Offset && a.Offset == b.Offset
}

// choose returns the packs that are to go: those of which nothing is needed, and, of
// those that are needed in part, the ones with the most waste, until what is wasted is
// no more than it may be.
func (p *pruner) choose() (going []ID) {
	var partly []ID
	var needed, waste int64
	for id, u := range p.packs {
		if u.condemned {
			continue
		}
		needed += u.needed
		switch {
		case u.announced || !u.known || u.stuck:
		case u.needed == 0:
			going = append(going, id)
		case u.spare+u.unneeded > 0:
			partly = append(partly, id)
			waste += u.spare + u.unneeded
		}
	}
	allowed := int64(p.o.MaxUnused * float64(needed))
	if p.o.MaxUnusedBytes != 0 {
		allowed = p.o.MaxUnusedBytes
	}
	slices.SortFunc(partly, func(a, b ID) int {
		return cmp.Or(cmp.Compare(p.packs[b].wasted(), p.packs[a].wasted()), compareIDs(a, b))
	})
	budget := p.o.MaxRepack
	if budget < 0 {
		budget = math.MaxInt64
	}
	for _, id := range partly {
		u := p.packs[id]
		if waste <= allowed {
			break
		}
		if u.needed > budget {
			continue
		}
		budget -= u.needed
		waste -= u.spare + u.unneeded
		going = append(going, id)
		p.rep.Repacked++
	}
	slices.SortFunc(going, compareIDs)
	return going
}

// wasted is the part of a pack that is not needed.
func (u *packUse) wasted() float64 {
	return float64(u.spare+u.unneeded) / float64(u.spare+u.unneeded+u.needed)
}

// account fills the report with what was found and is going to happen.
func (p *pruner) account(going []ID) {
	r := p.rep
	for _, id := range going {
		u := p.packs[id]
		r.Condemned++
		r.CondemnedBytes += u.size
		r.Moved += u.needed
	}
	for id, u := range p.packs {
		r.Packs++
		r.Bytes += u.size
		r.Needed += u.needed
		_, counts := p.counts[id]
		switch {
		case u.announced && !u.condemned:
			r.Announced++
			r.AnnouncedBytes += u.size
		case !u.condemned:
			if _, goes := slices.BinarySearchFunc(going, id, compareIDs); !goes {
				r.Unused += u.spare + u.unneeded
			}
		default:
			r.Moved += u.needed
			if !counts {
				r.Waiting++
				r.WaitingBytes += u.size
			}
		}
	}
	if p.o.DryRun {
		deleted := slices.Collect(maps.Keys(p.counts))
		if p.o.Alone {
			deleted = append(deleted, going...)
		}
		for _, id := range deleted {
			if u := p.packs[id]; u != nil {
				r.Deleted++
				r.DeletedBytes += u.size
			}
		}
	}
	for i := range p.lists {
		if l := &p.lists[i]; len(l.Packs) > 0 && p.age(l) < p.o.Grace {
			p.until(p.look.Add(p.o.Grace - p.age(l)))
		}
	}
	if len(going) > 0 && !p.o.Alone {
		p.until(p.look.Add(p.o.Grace))
	}
	if p.o.Alone {
		r.Until = time.Time{}
	}
}

func (p *pruner) until(t time.Time) {
	if t.After(p.rep.Until) {
		p.rep.Until = t
	}
}

// condemn publishes the list of the packs that are to go.
func (p *pruner) condemn(ctx context.Context, going []ID) error {
	if len(going) == 0 {
		return nil
	}
	list := packList{Time: p.o.Now().Round(0), Host: p.o.Host, Packs: going}
	if err := p.r.createList(ctx, kindCondemned, &list); err != nil {
		return fmt.Errorf("store condemned list: %w", err)
	}
	p.lists = append(p.lists, list)
	p.o.Sightings[list.id] = list.Time
	set := make(map[ID]struct{}, len(going))
	for _, id := range going {
		set[id] = struct{}{}
		p.packs[id].condemned = true
		if p.o.Alone {
			p.counts[id] = struct{}{}
		}
	}
	return p.r.index.condemn(set)
}

// move stores what is needed and in no pack that stays in new packs, and then reads
// whatever stands for something in a pack that is to be deleted now. What does not
// open counts as absent, and it begins again.
func (p *pruner) move(ctx context.Context) error {
	for range checkPasses {
		homeless, err := p.homeless()
		if err != nil {
			return err
		}
		if len(homeless) > 0 {
			damage, err := p.store(ctx, homeless)
			if err != nil {
				return fmt.Errorf("move what is needed of condemned packs: %w", err)
			}
			if errors.Is(damage, ErrMissing) {
				return fmt.Errorf("%w: %w", ErrRaced, damage)
			}
			if damage != nil {
				p.rep.Faults = append(p.rep.Faults, damage.Error())
				continue // another condemned pack may have it, too
			}
		}
		sound, err := p.check(ctx)
		if err != nil || sound {
			return err
		}
		if err := p.condemn(ctx, p.damaged()); err != nil {
			return err
		}
	}
	return errors.New("too many damaged blocks: run 'backup-handler repair' first; nothing was deleted")
}

// store stores what is needed of some blocks anew. damage is that of a block that could not be read.
func (p *pruner) store(ctx context.Context, blocks map[ID]map[uint32]struct{}) (damage, err error) {
	o := p.o.Write
	o.Readers = max(o.Readers, CopyBatches)
	w, err := p.r.NewWriter(ctx, o)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	if p.o.Watch != nil {
		p.o.Watch(w)
	}
	if damage, err = w.copyBlocks(ctx, p.r, blocks, p.isHomeless); err != nil {
		return damage, err
	}
	err = w.Flush()
	p.rep.IndexObjects += int(w.Stats.IndexObjects.Load())
	return damage, err
}

// isHomeless says whether a chunk is needed, and in no pack that stays.
func (p *pruner) isHomeless(id *ID) (bool, error) {
	if needed, err := p.usage.needs(id); !needed || err != nil {
		return false, err
	}
	_, stands, err := p.r.index.standing(id)
	return !stands, err
}

// homeless returns the blocks with chunks that are needed, and in no pack that stays:
// pack → offsets.
func (p *pruner) homeless() (map[ID]map[uint32]struct{}, error) {
	x := &p.r.index
	blocks := make(map[ID]map[uint32]struct{})
	err := p.usage.each(func(id ID, loc *Location, needed bool) error {
		u := p.packs[loc.Block.Pack]
		if !needed || !u.condemned {
			return nil
		}
		if _, ok, err := x.standing(&id); ok || err != nil {
			return err
		}
		from, ok, err := x.sound(&id)
		if err != nil {
			return err
		}
		if !ok {
			u.stuck = true
			return nil
		}
		if samePlace(&from, loc) {
			set := blocks[loc.Block.Pack]
			if set == nil {
				set = make(map[uint32]struct{})
				blocks[loc.Block.Pack] = set
			}
			set[loc.Block.Offset] = struct{}{}
		}
		return nil
	})
	return blocks, err
}

// A standIn is a block that stands for chunks in packs that are to be deleted.
type standIn struct {
	Block
	chunks []standInChunk
}

type standInChunk struct {
	id           ID
	offset, size uint32 // in the block's plaintext
}

// is says whether the block holds the chunks that it stands for, and not others under
// their IDs, which whoever may write can store (docs/format.md §14).
func (b *standIn) is(r *Repository, plain []byte) bool {
	for _, c := range b.chunks {
		end := uint64(c.offset) + uint64(c.size)
		if end > uint64(len(plain)) || r.ChunkID(sha256.Sum256(plain[c.offset:end])) != c.id {
			return false
		}
	}
	return true
}

// check reads the blocks that stand for those in packs that are to be deleted now.
// sound is false if one of them is damaged, or holds something else: then it counts as
// absent from now on.
func (p *pruner) check(ctx context.Context) (sound bool, err error) {
	x := &p.r.index
	blocks := make(map[place]*standIn)
	total := int64(0)
	stand := func(pack, id ID) error {
		stands, ok, err := x.standing(&id)
		if err != nil {
			return err
		}
		if !ok { // it is damaged wherever it is
			p.packs[pack].stuck = true
			return nil
		}
		at := place{stands.Block.Pack, stands.Block.Offset}
		b := blocks[at]
		if b == nil {
			b = &standIn{Block: stands.Block}
			blocks[at] = b
			total += int64(stands.Block.Stored)
		}
		b.chunks = append(b.chunks, standInChunk{id, stands.Offset, stands.Size})
		return nil
	}
	err = p.usage.each(func(id ID, loc *Location, needed bool) error {
		if _, counts := p.counts[loc.Block.Pack]; !counts || !needed {
			return nil
		}
		return stand(loc.Block.Pack, id)
	})
	if err == nil {
		err = p.ownTables(ctx, stand)
	}
	if err != nil || len(blocks) == 0 {
		return true, err
	}
	order := slices.SortedFunc(maps.Values(blocks), func(a, b *standIn) int {
		return cmp.Or(compareIDs(a.Pack, b.Pack), cmp.Compare(a.Offset, b.Offset))
	})
	var mu sync.Mutex
	var done int64
	sound = true
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(p.o.Workers, p.r.transfers, 1))
	for _, b := range order {
		g.Go(func() error {
			plain, err := p.r.readSound(gctx, &b.Block, nil)
			if err == nil && !b.is(p.r, plain) {
				p.r.index.distrust(&b.Block)
				err = p.r.blockError(&b.Block, fmt.Errorf("%w: it holds other chunks than it says", ErrCorrupt))
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, ErrMissing):
				return fmt.Errorf("%w: %w", ErrRaced, err)
			case errors.Is(err, ErrCorrupt):
				sound = false
				p.rep.Faults = append(p.rep.Faults, err.Error())
			case err != nil:
				return err
			}
			done += int64(b.Stored)
			p.o.Progress("check", done, total)
			return nil
		})
	}
	err = g.Wait()
	return sound, err
}

// ownTables calls stand for what is needed and in a pack that is to be deleted now, by
// the pack's own table: an index object may have been forged by who has the index key,
// and nothing else (docs/format.md §14). A table that does not open says nothing.
func (p *pruner) ownTables(ctx context.Context, stand func(pack, id ID) error) error {
	for id := range p.counts {
		u := p.packs[id]
		if u == nil {
			continue
		}
		t, err := p.r.readTable(ctx, id, u.size)
		if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for i := range t.blocks {
			for j := range t.blocks[i].chunks {
				chunk := t.blocks[i].chunks[j].id
				needed, err := p.usage.needs(&chunk)
				if err == nil && needed {
					err = stand(id, chunk)
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// damaged returns the packs with blocks that were found damaged and are not condemned:
// what is needed of them is somewhere else, or will be, and they would be found again by
// every prune.
func (p *pruner) damaged() (packs []ID) {
	bad := p.r.index.bad.Load()
	if bad == nil {
		return nil
	}
	set := make(map[ID]struct{})
	for at := range *bad {
		if u := p.packs[at.pack]; u != nil && !u.condemned && !u.announced {
			if _, ok := set[at.pack]; !ok {
				set[at.pack] = struct{}{}
				p.rep.Condemned++
				p.rep.CondemnedBytes += u.size
			}
		}
	}
	return slices.SortedFunc(maps.Keys(set), compareIDs)
}

// delete deletes the packs on lists that count, publishes an index without them, and
// deletes the lists that have served.
func (p *pruner) delete(ctx context.Context) error {
	var ids []ID
	gone := make(map[ID]struct{}) // on lists that count, and not there any more
	var total int64
	for id := range p.counts {
		u := p.packs[id]
		switch {
		case u == nil:
			gone[id] = struct{}{}
		case u.stuck || p.rep.Lost > 0: // one of them may be what has it
			p.rep.Kept = append(p.rep.Kept, id)
		default:
			ids = append(ids, id)
			total += u.size
		}
	}
	slices.SortFunc(p.rep.Kept, compareIDs)
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, id := range ids {
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			if err := p.r.backend.Delete(gctx, packName(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("delete pack %s: %w", id.Short(), err)
			}
			mu.Lock()
			defer mu.Unlock()
			gone[id] = struct{}{}
			p.rep.Deleted++
			p.rep.DeletedBytes += p.packs[id].size
			p.o.Progress("delete", p.rep.DeletedBytes, total)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(p.counts) == 0 && !p.tidy {
		return nil
	}
	if err := p.rewriteIndex(ctx, gone); err != nil {
		return err
	}
	for i := range p.lists {
		l := &p.lists[i]
		if slices.ContainsFunc(l.Packs, func(id ID) bool { _, ok := gone[id]; return !ok }) {
			continue
		}
		if err := p.r.remove(ctx, kindCondemned, l.id); err != nil {
			return err
		}
		delete(p.o.Sightings, l.id)
	}
	return nil
}

// remove deletes an object that may be gone already.
func (r *Repository) remove(ctx context.Context, kind byte, id ID) error {
	if err := r.backend.Delete(ctx, objectName(kind, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", objectName(kind, id), err)
	}
	return nil
}

// rewriteIndex publishes index objects in place of those that name packs that are gone,
// and of many small ones, and then deletes these.
func (p *pruner) rewriteIndex(ctx context.Context, gone map[ID]struct{}) error {
	r := p.r
	var objects []listedObject
	if err := r.list(ctx, "index", nil, func(id ID, size int64) { objects = append(objects, listedObject{id, size}) }); err != nil {
		return err
	}
	// What is named and not there, while nothing that is needed is lost, is what a prune
	// that went on beside this one has deleted.
	there := make(map[ID]struct{})
	if err := r.list(ctx, "packs", nil, func(id ID, _ int64) { there[id] = struct{}{} }); err != nil {
		return err
	}
	small := 0
	for _, o := range objects {
		if o.size < smallIndex {
			small++
		}
	}
	out := indexWriter{r: r, rep: p.rep}
	// Those that have replaced others are large, mostly, and come before what a prune
	// that was interrupted has left of these.
	slices.SortFunc(objects, func(a, b listedObject) int { return cmp.Or(cmp.Compare(b.size, a.size), compareListed(a, b)) })
	replaced := make(map[ID]struct{})
	for batch := range slices.Chunk(objects, fetchers) {
		read := make([]*indexObject, len(batch))
		g, gctx := errgroup.WithContext(ctx)
		for i, o := range batch {
			g.Go(func() error {
				obj, err := r.readIndex(gctx, o.id)
				if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
					return nil // damage is reported elsewhere, and stays what it is
				}
				read[i] = obj
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return fmt.Errorf("read index: %w", err)
		}
		for i, obj := range read {
			if obj == nil {
				continue
			}
			if _, ok := replaced[batch[i].id]; ok {
				out.replaced = append(out.replaced, batch[i].id)
				continue
			}
			for _, id := range obj.replaces {
				replaced[id] = struct{}{}
			}
			before := len(obj.packs)
			obj.packs = slices.DeleteFunc(obj.packs, func(t packTable) bool {
				_, deleted := gone[t.id]
				_, listed := there[t.id]
				return deleted || !listed && p.rep.Lost == 0
			})
			if len(obj.packs) == before && (small <= maxSmallIndex || batch[i].size >= smallIndex) {
				continue
			}
			if err := out.add(ctx, batch[i].id, obj); err != nil {
				return err
			}
		}
	}
	return out.flush(ctx)
}

// dropIndex deletes index objects that do not open, read once more, while nothing that is
// needed is lost.
func (p *pruner) dropIndex(ctx context.Context) error {
	if p.rep.Lost > 0 || len(p.rep.Kept) > 0 {
		return nil
	}
	for _, id := range p.damagedIndex {
		if _, err := p.r.readIndex(ctx, id); !errors.Is(err, ErrCorrupt) {
			continue
		}
		if err := p.r.remove(ctx, kindIndex, id); err != nil {
			return err
		}
	}
	return nil
}

// An indexWriter gathers tables into index objects.
type indexWriter struct {
	r        *Repository
	rep      *PruneReport
	tables   indexObject
	have     map[listedObject]struct{}
	bytes    int
	replaced []ID
}

// add takes what is left of an index object over.
func (w *indexWriter) add(ctx context.Context, id ID, obj *indexObject) error {
	if w.have == nil {
		w.have = make(map[listedObject]struct{})
	}
	w.tables.replaces = append(w.tables.replaces, id)
	w.replaced = append(w.replaced, id)
	for i := range obj.packs {
		t := &obj.packs[i]
		key := listedObject{t.id, t.size}
		if _, ok := w.have[key]; ok {
			continue // another object that is replaced has it, too
		}
		w.have[key] = struct{}{}
		w.tables.packs = append(w.tables.packs, *t)
		for j := range t.blocks {
			w.bytes += 40 + 20*len(t.blocks[j].chunks)
		}
	}
	if w.bytes < mergedBytes {
		return nil
	}
	return w.publish(ctx)
}

func (w *indexWriter) publish(ctx context.Context) error {
	if len(w.tables.packs) > 0 {
		body := squeeze(w.r.enc, appendIndex(nil, &w.tables))
		if _, _, err := w.r.createObject(ctx, kindIndex, body); err != nil {
			return fmt.Errorf("store index: %w", err)
		}
		w.rep.IndexObjects++
	}
	w.tables, w.bytes = indexObject{}, 0
	return nil
}

// flush publishes the rest, and deletes what was replaced.
func (w *indexWriter) flush(ctx context.Context) error {
	if err := w.publish(ctx); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, id := range w.replaced {
		g.Go(func() error { return w.r.remove(gctx, kindIndex, id) })
	}
	return g.Wait()
}

// forgetRuns deletes announcements of runs that have crashed.
func (p *pruner) forgetRuns(ctx context.Context) error {
	for i := range p.runs {
		if run := &p.runs[i]; p.o.Alone || p.age(run) >= p.o.Grace {
			if err := p.r.remove(ctx, kindRun, run.id); err != nil {
				return err
			}
			delete(p.o.Sightings, run.id)
		}
	}
	return nil
}
