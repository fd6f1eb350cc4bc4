package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"github.com/SP1R4/BackupHandler/v3/internal/verify"
)

// RepairOptions describe a repair.
type RepairOptions struct {
	DryRun  bool
	Write   repo.WriterOptions
	Workers int // as in verify.Options
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
	// Exchanged are snapshots whose damaged objects were replaced.
	Exchanged []repo.ID
	// Failed are damaged snapshots that could not be replaced.
	Failed []FailedSnapshot
	// Lost is what is lost all the same: at most verify.MaxLost of LostCount. Dry, it
	// is what the other repository lacks, as far as its index tells.
	Lost      []verify.LostFile
	LostCount int64
}

// Whole says whether every snapshot is whole now, or, dry, would be.
func (r *RepairResult) Whole() bool {
	if r.After != nil {
		return r.After.Whole() && len(r.Failed) == 0
	}
	return r.Before.Snapshots+int64(len(r.Exchanged)) > 0 && r.LostCount == 0 && len(r.Failed) == 0
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

// A repairer is one Repair.
type repairer struct {
	d, from *Destination
	res     *RepairResult
	// bodies are those of snapshots whose objects are damaged, from the other side.
	bodies map[repo.ID][]byte
	// snaps are all snapshots that d has, or will have.
	snaps []*tree.Snapshot
}

// Repair heals a repository from another one, which is loaded: everything is read;
// chunks that a snapshot needs and that cannot be read are stored again; damaged
// snapshots that the other one has are exchanged; everything is read again. Nothing
// else is deleted or changed: damaged packs and index objects stay beside what
// replaces them.
//
// Neither may keep metadata on this machine (repo.Options.CacheBytes): what is read
// has to come from where it is. The error is a *Failure; ExitPartial if something
// could not be stored: then a second run goes on.
func Repair(ctx context.Context, d, from *Destination, o RepairOptions) (*RepairResult, error) {
	p := repairer{d: d, from: from, res: new(RepairResult), bodies: make(map[repo.ID][]byte)}
	if d.Repo.ID() == from.Repo.ID() {
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
	if err := p.fetchSnapshots(ctx); err != nil {
		return nil, Fail(ExitUsage, fmt.Errorf("%s: %w", from.Location, err), hint(err))
	}
	if p.res.Before.Whole() && (o.DryRun || p.res.Before.Index.Adopted == 0) {
		if o.DryRun {
			return p.res, nil
		}
		return p.res, p.condemn(ctx)
	}
	if o.DryRun {
		return p.res, p.predict(ctx)
	}
	if err := p.store(ctx, o.Write); err != nil {
		return p.res, Fail(ExitPartial, fmt.Errorf("%s: %w", d.Location, err), hint(err))
	}
	if err := p.exchange(ctx); err != nil {
		return p.res, err
	}
	if err := p.condemn(ctx); err != nil {
		return p.res, err
	}
	if p.res.After, err = verify.Run(ctx, d.Repo, check); err != nil {
		return p.res, Fail(ExitUsage, fmt.Errorf("%s: verify again: %w", d.Location, err), hint(err))
	}
	p.res.Lost, p.res.LostCount = p.res.After.Lost, p.res.After.LostCount
	return p.res, nil
}

// condemn sees to it that no backup relies on what is damaged, needed or not, and that
// the next prunes delete it.
func (p *repairer) condemn(ctx context.Context) error {
	_, err := p.d.Repo.CondemnDamaged(ctx)
	return Fail(ExitPartial, named(p.d.Location, err), "what was stored again stays; run it again")
}

// fetchSnapshots reads what is damaged here from the other repository.
func (p *repairer) fetchSnapshots(ctx context.Context) error {
	for _, s := range p.d.Unreadable {
		if !errors.Is(s.Err, repo.ErrCorrupt) {
			p.fail(s.ID, s.Err) // of a newer version, or it could not be asked for
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

// store stores again what is lost and the other repository has.
func (p *repairer) store(ctx context.Context, o repo.WriterOptions) error {
	o.Readers = max(o.Readers, repo.CopyBatches)
	w, err := p.d.Repo.NewWriter(ctx, o)
	if err != nil {
		return err
	}
	defer w.Abort()
	err = w.Salvage(ctx, p.from.Repo, p.lost(ctx))
	if err == nil {
		err = w.Flush()
	}
	p.res.Chunks, p.res.Bytes = w.Stats.ChunksAdded.Load(), w.Stats.BytesAdded.Load()
	return err
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
		if size, ok := p.from.Repo.Sound(hash); ok {
			p.res.Chunks++
			p.res.Bytes += int64(size)
		}
		return true
	}
	for _, s := range p.snaps {
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

// A walk goes through trees, with what the two repositories together have of them. It
// takes some 40 bytes of memory for each page of each directory.
type walk struct {
	ctx context.Context
	p   *repairer
	// lost is told of each chunk that cannot be read here; false ends the walk.
	lost func(repo.Hash) bool
	// nowhere, if set, is told of what is lost there too, in each snapshot.
	nowhere func(path, reason string)
	done    map[repo.ID]struct{} // pages that need not be gone through again
}

// chunk says whether one of the two has a chunk.
func (w *walk) chunk(c tree.Chunk) (bool, error) {
	if _, ok := w.p.d.Repo.Sound(c.Hash); ok {
		return true, nil
	}
	if !w.lost(c.Hash) {
		return false, errStop
	}
	_, ok := w.p.from.Repo.Sound(c.Hash)
	return ok, nil
}

// dir goes through the pages of a directory and all below it, and says whether all of
// it is in one of the two.
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
	missing := 0
	look := func(c tree.Chunk) error {
		ok, err := w.chunk(c)
		if !ok {
			missing++
		}
		return err
	}
	for _, c := range n.Content {
		if err := look(c); err != nil {
			return false, err
		}
	}
	if n.Indirect {
		err := tree.EachChunk(w.ctx, either{w.p}, n, look)
		if err != nil && !isDamage(err) {
			return false, err
		}
		if err != nil {
			missing++
		}
	}
	if missing > 0 && w.nowhere != nil {
		w.nowhere(path, fmt.Sprintf("%d of its chunks are in neither repository", missing))
	}
	return missing == 0, nil
}

// either loads metadata from the repository that has it.
type either struct{ p *repairer }

func (e either) Load(ctx context.Context, hash repo.Hash, size uint32, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, ok := e.p.d.Repo.Sound(hash); ok {
		if data, err := e.p.d.Repo.Load(ctx, hash, size, buf); err == nil || !isDamage(err) {
			return data, err
		}
	}
	return e.p.from.Repo.Load(ctx, hash, size, buf)
}
