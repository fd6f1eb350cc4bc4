package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"github.com/SP1R4/BackupHandler/v3/internal/verify"
)

// RepairOptions describe a repair.
type RepairOptions struct {
	DryRun  bool
	Write   repo.WriterOptions
	Workers int // as in verify.Options
	// Host is this one: what its snapshots have lost is looked for in the files that it
	// was read from. "": nowhere.
	Host string
	// Progress, if set, is as in verify.Options, for the two verifications.
	Progress func(stage string, done, total int64)
}

// RepairResult is what a repair found and did, or, dry, would do.
type RepairResult struct {
	Before *verify.Report
	// After is nil in a dry run, and where nothing had to be done.
	After *verify.Report
	// Chunks that were stored again, and their bytes, uncompressed. Between siblings
	// whole blocks move, which may bring some that nothing needs.
	Chunks, Bytes int64
	// BySource is Chunks by where they came from: "repair data", the other repository's
	// name, "files of this host". Dry, it is nil.
	BySource map[string]int64
	// Objects have the bytes again that they had, from their repair data; Exchanged are
	// snapshots whose damaged objects were replaced by those of the other repository.
	Objects   []repo.DamagedObject
	Exchanged []repo.ID
	// Failed are damaged snapshots that could not be replaced.
	Failed []FailedSnapshot
	// Protected is how many objects got the repair data that they did not have.
	Protected int
	// Lost is what is lost all the same: at most verify.MaxLost of LostCount. Dry, it
	// is what nobody has, as far as the index of the other repository tells.
	Lost      []verify.LostFile
	LostCount int64
}

// Whole says whether every snapshot is whole now, or, dry, would be.
func (r *RepairResult) Whole() bool {
	if r.After != nil {
		return r.After.Whole() && len(r.Failed) == 0
	}
	snapshots := r.Before.Snapshots + int64(len(r.Exchanged))
	for _, x := range r.Objects {
		if strings.HasPrefix(x.Name, "snapshots/") {
			snapshots++
		}
	}
	return snapshots > 0 && r.LostCount == 0 && len(r.Failed) == 0
}

// Healed counts the files that were lost before and are not now.
func (r *RepairResult) Healed() (n int64) {
	type file struct {
		snapshot repo.ID
		path     tree.Path
	}
	lost := make(map[file]bool)
	for _, l := range r.Lost {
		lost[file{l.Snapshot, l.Path}] = true
	}
	for _, l := range r.Before.Lost {
		if !lost[file{l.Snapshot, l.Path}] {
			n++
		}
	}
	if r.LostCount == 0 {
		n = r.Before.LostCount
	}
	return n
}

// Names of what a repair takes chunks from.
const (
	fromRepairData = "repair data"
	fromFiles      = "files of this host"
)

// A repairer is one Repair.
type repairer struct {
	d, from *Destination // from may be nil
	o       *RepairOptions
	res     *RepairResult
	// mending is a view of d that has what repair data rebuilds; nil: there is none.
	mending *repo.Repository
	probed  map[repo.Block]bool // blocks of mending: whether they can be read
	// bodies are those of snapshots whose objects are damaged, from the other side.
	bodies map[repo.ID][]byte
	// snaps are all snapshots that d has, or will have.
	snaps []*tree.Snapshot
}

// Repair heals a repository: everything is read; chunks that a snapshot needs and that
// cannot be read are stored again, from its repair data, from another repository, which
// is loaded (from, nil for none), and from the files that they were read from;
// config, key slots, write sessions and snapshots are put right; everything is read
// again. Damaged packs are condemned; nothing else is deleted or changed.
//
// Neither may keep metadata on this machine (repo.Options.CacheBytes): what is read
// has to come from where it is. The error is a *Failure; ExitPartial if something
// could not be stored: then a second run goes on.
func Repair(ctx context.Context, d, from *Destination, o RepairOptions) (*RepairResult, error) {
	p := repairer{
		d: d, from: from, o: &o, bodies: make(map[repo.ID][]byte), probed: make(map[repo.Block]bool),
		res: &RepairResult{BySource: make(map[string]int64)},
	}
	if from != nil && d.Repo.ID() == from.Repo.ID() {
		return nil, Fail(ExitUsage, fmt.Errorf("%s is the damaged repository itself", from.Place), "--from takes another one that has the same data")
	}
	check := verify.Options{ReadData: true, Workers: o.Workers, Progress: o.Progress}
	var err error
	if p.res.Before, err = verify.Run(ctx, d.Repo, check); err != nil {
		return nil, Fail(ExitUsage, fmt.Errorf("%s: %w", d.Location, err), hint(err))
	}
	if err := d.LoadSnapshots(ctx); err != nil {
		return nil, Fail(ExitUsage, fmt.Errorf("%s: %w", d.Location, err), hint(err))
	}
	p.snaps = slices.Clone(d.Snapshots)
	if err := p.healObjects(ctx); err != nil {
		return p.res, err
	}
	if err := p.fetchSnapshots(ctx); err != nil {
		return nil, Fail(ExitUsage, fmt.Errorf("%s: %w", from.Location, err), hint(err))
	}
	if p.res.Before.Whole() && !d.Repo.Distrusts() && (o.DryRun || p.res.Before.Index.Adopted == 0) {
		if o.DryRun {
			return p.res, nil
		}
		if err := p.condemn(ctx, p.res.Whole()); err != nil {
			return p.res, err
		}
		return p.res, p.protect(ctx)
	}
	if p.mending, err = d.Repo.Mending(ctx, p.res.Before.Index.ResizedPacks); err != nil {
		return p.res, Fail(ExitUsage, fmt.Errorf("%s: %w", d.Location, err), hint(err))
	}
	if p.mending != nil {
		defer p.mending.Close()
	}
	if o.DryRun {
		return p.res, p.predict(ctx)
	}
	if err := p.store(ctx); err != nil {
		return p.res, Fail(ExitPartial, fmt.Errorf("%s: %w", d.Location, err), hint(err))
	}
	if err := p.exchange(ctx); err != nil {
		return p.res, err
	}
	if err := p.condemn(ctx, false); err != nil {
		return p.res, err
	}
	if err := p.protect(ctx); err != nil {
		return p.res, err
	}
	if p.res.After, err = verify.Run(ctx, d.Repo, check); err != nil {
		return p.res, Fail(ExitUsage, fmt.Errorf("%s: verify again: %w", d.Location, err), hint(err))
	}
	p.res.Lost, p.res.LostCount = p.res.After.Lost, p.res.After.LostCount
	if !p.res.Whole() {
		return p.res, nil // somebody may get something out of what is damaged
	}
	return p.res, p.condemn(ctx, true)
}

// healObjects puts config, key slots and snapshots right that have repair data.
func (p *repairer) healObjects(ctx context.Context) error {
	for _, x := range p.res.Before.Mendable {
		if !p.o.DryRun {
			if err := p.d.Repo.HealObject(ctx, x.Name); err != nil {
				return Fail(ExitPartial, named(p.d.Location, err), "run it again")
			}
		}
		p.res.Objects = append(p.res.Objects, x)
	}
	if len(p.res.Objects) == 0 || p.o.DryRun {
		return nil
	}
	// Among them may be snapshots that were not listed.
	if err := p.d.LoadSnapshots(ctx); err != nil {
		return Fail(ExitUsage, fmt.Errorf("%s: %w", p.d.Location, err), hint(err))
	}
	p.snaps = slices.Clone(p.d.Snapshots)
	return nil
}

// protect makes the repair data that is missing, where the configuration asks for it.
func (p *repairer) protect(ctx context.Context) error {
	n, err := p.d.Repo.Protect(ctx)
	p.res.Protected = n
	return Fail(ExitPartial, named(p.d.Location, err), "run it again")
}

// condemn sees to it that no backup relies on what is damaged, needed or not, and that
// the next prunes delete it; with unknown, also packs of which nobody knows what is in
// them.
func (p *repairer) condemn(ctx context.Context, unknown bool) error {
	_, err := p.d.Repo.CondemnDamaged(ctx, unknown)
	return Fail(ExitPartial, named(p.d.Location, err), "what was stored again stays; run it again")
}

// fetchSnapshots reads what is damaged here from the other repository.
func (p *repairer) fetchSnapshots(ctx context.Context) error {
	for _, s := range p.d.Unreadable {
		if !errors.Is(s.Err, repo.ErrCorrupt) {
			p.fail(s.ID, s.Err) // of a newer version, or it could not be asked for
			continue
		}
		if p.from == nil {
			p.fail(s.ID, s.Err)
			continue
		}
		body, err := p.from.Repo.SnapshotBody(ctx, s.ID)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var snap *tree.Snapshot
		if err == nil {
			snap, err = tree.DecodeSnapshot(s.ID, body)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.New("the other repository does not have it")
		}
		if err != nil {
			p.fail(s.ID, fmt.Errorf("%w, and there: %w", s.Err, err))
			continue
		}
		p.bodies[s.ID] = body
		p.snaps = append(p.snaps, snap)
		p.res.Exchanged = append(p.res.Exchanged, s.ID)
	}
	return nil
}

func (p *repairer) fail(id repo.ID, err error) {
	p.res.Failed = append(p.res.Failed, FailedSnapshot{id, err})
}

// store stores again what is lost here and one of the others has.
func (p *repairer) store(ctx context.Context) error {
	o := p.o.Write
	o.Readers = max(o.Readers, repo.CopyBatches)
	w, err := p.d.Repo.NewWriter(ctx, o)
	if err != nil {
		return err
	}
	defer w.Abort()
	took := func(name string, err error) error {
		if n := w.Stats.ChunksAdded.Load() - p.res.Chunks; n > 0 {
			p.res.BySource[name] += n
		}
		p.res.Chunks, p.res.Bytes = w.Stats.ChunksAdded.Load(), w.Stats.BytesAdded.Load()
		return err
	}
	if p.mending != nil {
		if err := took(fromRepairData, w.Salvage(ctx, p.mending, p.lost(ctx))); err != nil {
			return err
		}
	}
	if p.from != nil {
		if err := took(p.from.Place, w.Salvage(ctx, p.from.Repo, p.lost(ctx))); err != nil {
			return err
		}
	}
	if p.o.Host != "" {
		if err := took(fromFiles, p.salvageFiles(ctx, w)); err != nil {
			return err
		}
	}
	return w.Flush()
}

// salvageFiles stores what is lost, and is still where the snapshots of this host have
// read it.
func (p *repairer) salvageFiles(ctx context.Context, w *repo.Writer) error {
	batch := w.Batch(repo.Data)
	k := walk{ctx: ctx, p: p, done: make(map[repo.ID]struct{}), lost: func(repo.Hash) bool { return true }}
	k.file = func(path string, n *tree.Node) error {
		f := original{path: path}
		defer f.close()
		offset := int64(0)
		return tree.EachChunk(ctx, either{p}, n, func(c tree.Chunk) error {
			at := offset
			offset += int64(c.Size)
			if w.Has(c.Hash) {
				return nil
			}
			if data, ok := f.read(n, at, c); ok {
				return batch.Copy(data, c.Hash)
			}
			return nil
		})
	}
	for _, s := range p.snaps {
		if s.Host != p.o.Host || s.Kind != tree.KindFiles {
			continue
		}
		if _, err := k.dir("/", s.Root); err != nil {
			return err
		}
	}
	return batch.Flush()
}

// exchange replaces damaged snapshots: docs/format.md §11. What they need was stored
// before, so that no crash leaves a snapshot without its chunks.
func (p *repairer) exchange(ctx context.Context) error {
	all := p.res.Exchanged
	p.res.Exchanged = nil
	for _, id := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := p.d.Repo.ReplaceSnapshot(ctx, id, p.bodies[id])
		switch {
		case err == nil:
			p.res.Exchanged = append(p.res.Exchanged, id)
		case errors.Is(err, fs.ErrNotExist): // forgotten meanwhile
		case errors.Is(err, repo.ErrReplacing):
			return Fail(ExitPartial, fmt.Errorf("%s: %w", p.d.Location, err),
				"it is whole in the other repository: 'backup-handler copy "+id.Short()+" --from "+p.from.Location+" --to "+p.d.Location+"' brings it back")
		default:
			p.fail(id, err)
		}
	}
	return nil
}

// predict finds what a repair would store, and what would be lost all the same.
func (p *repairer) predict(ctx context.Context) error {
	counted := make(map[repo.ID]struct{})
	w := walk{ctx: ctx, p: p, done: make(map[repo.ID]struct{})}
	w.lost = func(hash repo.Hash) bool {
		id := p.d.Repo.ChunkID(hash)
		if _, ok := counted[id]; ok {
			return true
		}
		counted[id] = struct{}{}
		if size, ok := p.elsewhere(ctx, hash); ok {
			p.res.Chunks++
			p.res.Bytes += int64(size)
		}
		return true
	}
	for _, s := range p.snaps {
		w.host = s.Host
		w.nowhere = func(path, reason string) {
			if p.res.LostCount++; len(p.res.Lost) < verify.MaxLost {
				p.res.Lost = append(p.res.Lost, verify.LostFile{Snapshot: s.ID, Path: tree.Path(path), Reason: reason})
			}
		}
		if _, err := w.dir("/", s.Root); err != nil {
			return Fail(ExitUsage, err, hint(err))
		}
	}
	return nil
}

// lost yields the chunks that a snapshot needs and that cannot be read, as far as the
// two repositories together tell; parents before what they name, some more than once.
func (p *repairer) lost(ctx context.Context) iter.Seq2[repo.Hash, error] {
	return func(yield func(repo.Hash, error) bool) {
		w := walk{ctx: ctx, p: p, done: make(map[repo.ID]struct{})}
		w.lost = func(hash repo.Hash) bool { return yield(hash, nil) }
		for _, s := range p.snaps {
			if _, err := w.dir("/", s.Root); err != nil {
				if !errors.Is(err, errStop) {
					yield(repo.Hash{}, err)
				}
				return
			}
		}
	}
}

var errStop = errors.New("stop")

// elsewhere says whether repair data or the other repository has a chunk.
func (p *repairer) elsewhere(ctx context.Context, hash repo.Hash) (size uint32, ok bool) {
	if p.mending != nil {
		if loc, ok := p.mending.Locate(hash); ok {
			readable, known := p.probed[loc.Block]
			if !known {
				_, err := p.mending.ReadBlock(ctx, &loc.Block, nil)
				readable = err == nil
				p.probed[loc.Block] = readable
			}
			if readable {
				return loc.Size, true
			}
		}
	}
	if p.from == nil {
		return 0, false
	}
	return p.from.Repo.Sound(hash)
}

// A walk goes through trees, with what the repositories together have of them. It
// takes some 40 bytes of memory for each page of each directory.
type walk struct {
	ctx context.Context
	p   *repairer
	// lost is told of each chunk that cannot be read here; false ends the walk.
	lost func(repo.Hash) bool
	// nowhere, if set, is told of what is lost everywhere, in each snapshot; host is
	// the one that the snapshot is of.
	nowhere func(path, reason string)
	host    string
	// file, if set, is told of each file.
	file func(path string, n *tree.Node) error
	done map[repo.ID]struct{} // pages that need not be gone through again
}

// chunk says whether a chunk is somewhere, where that is asked for (nowhere).
func (w *walk) chunk(c tree.Chunk) (bool, error) {
	if _, ok := w.p.d.Repo.Sound(c.Hash); ok {
		return true, nil
	}
	if !w.lost(c.Hash) {
		return false, errStop
	}
	if w.nowhere == nil {
		return true, nil
	}
	_, ok := w.p.elsewhere(w.ctx, c.Hash)
	return ok, nil
}

// dir goes through the pages of a directory and all below it, and says whether all of
// it is somewhere.
func (w *walk) dir(path string, pages []tree.Chunk) (bool, error) {
	whole := true
	for _, c := range pages {
		ok, err := w.page(path, c)
		if err != nil {
			return false, err
		}
		whole = whole && ok
	}
	return whole, nil
}

func (w *walk) page(path string, c tree.Chunk) (bool, error) {
	id := w.p.d.Repo.ChunkID(c.Hash)
	if _, ok := w.done[id]; ok {
		return true, nil
	}
	if _, err := w.chunk(c); err != nil {
		return false, err
	}
	whole := true
	page, err := either{w.p}.Load(w.ctx, c.Hash, c.Size, nil)
	if err == nil {
		_, err = tree.DecodePage(page, "", func(n *tree.Node) error {
			ok, err := w.node(tree.Join(path, n.Name), n)
			whole = whole && ok
			return err
		})
	}
	if err != nil && !isDamage(err) {
		return false, err
	}
	if err != nil && w.nowhere != nil {
		w.nowhere(path, "part of its list of entries: "+err.Error())
	}
	whole = whole && err == nil
	if whole || w.nowhere == nil {
		w.done[id] = struct{}{}
	}
	return whole, nil
}

func (w *walk) node(path string, n *tree.Node) (bool, error) {
	if n.Type == tree.Dir {
		return w.dir(path, n.Content)
	}
	if w.file != nil && n.Type == tree.File {
		err := w.file(path, n)
		if isDamage(err) {
			err = nil // its list of chunks
		}
		return true, err
	}
	missing := 0
	if n.Indirect { // the list of its chunks
		for _, c := range n.Content {
			ok, err := w.chunk(c)
			if err != nil {
				return false, err
			}
			if !ok {
				missing++
			}
		}
	}
	f := original{path: path}
	defer f.close()
	offset := int64(0)
	err := tree.EachChunk(w.ctx, either{w.p}, n, func(c tree.Chunk) error {
		at := offset
		offset += int64(c.Size)
		ok, err := w.chunk(c)
		if !ok && err == nil && w.host != "" && w.host == w.p.o.Host {
			_, ok = f.read(n, at, c)
		}
		if !ok {
			missing++
		}
		return err
	})
	if err != nil && !isDamage(err) {
		return false, err
	}
	if err != nil {
		missing++
	}
	if missing > 0 && w.nowhere != nil {
		w.nowhere(path, fmt.Sprintf("%d of its chunks are nowhere", missing))
	}
	return missing == 0, nil
}

// either loads metadata from whoever has it.
type either struct{ p *repairer }

func (e either) Load(ctx context.Context, hash repo.Hash, size uint32, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := e.p.d.Repo.Load(ctx, hash, size, buf)
	for _, r := range e.others() {
		if err == nil || !isDamage(err) {
			break
		}
		data, err = r.Load(ctx, hash, size, buf)
	}
	return data, err
}

func (e either) others() (all []*repo.Repository) {
	if e.p.mending != nil {
		all = append(all, e.p.mending)
	}
	if e.p.from != nil {
		all = append(all, e.p.from.Repo)
	}
	return all
}

// An original is a file that a snapshot was made of, if it is still there.
type original struct {
	path  string
	tried bool
	f     *os.File
	buf   []byte
}

// read reads the bytes that a chunk at an offset of a file's content had, and says
// whether they are still the same. The slice holds until the next read.
func (o *original) read(n *tree.Node, offset int64, c tree.Chunk) ([]byte, bool) {
	if !o.tried {
		o.tried = true
		// A path that is no regular file any more, a link say, has other content.
		if info, err := os.Lstat(o.path); err == nil && info.Mode().IsRegular() {
			o.f, _ = os.Open(o.path)
		}
	}
	if o.f == nil {
		return nil, false
	}
	extents := n.Extents
	if extents == nil {
		extents = []tree.Extent{{Length: n.Size}}
	}
	o.buf = slices.Grow(o.buf[:0], int(c.Size))[:c.Size]
	todo := o.buf
	for _, e := range extents {
		if offset >= e.Length {
			offset -= e.Length
			continue
		}
		k := min(int64(len(todo)), e.Length-offset)
		if _, err := o.f.ReadAt(todo[:k], e.Offset+offset); err != nil && err != io.EOF {
			return nil, false
		}
		todo, offset = todo[k:], 0
		if len(todo) == 0 {
			break
		}
	}
	return o.buf, len(todo) == 0 && repo.CheckChunk(c.Hash, o.buf) == nil
}

func (o *original) close() {
	if o.f != nil {
		o.f.Close()
	}
}
