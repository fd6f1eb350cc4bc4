package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// A verifier is the state of one Run. All of it is used by one goroutine.
type verifier struct {
	ctx   context.Context
	r     *repo.Repository
	rep   *Report
	snaps []*tree.Snapshot // newest first

	// damaged are chunks that CheckData could not read at one place at least.
	damaged map[repo.ID]struct{}
	// whole are the pages that are whole, and all below them: by the names of
	// their chunks, which take half the room of their SHA-256. (Entries that a
	// page repeats from the one before it are noticed the first time only.)
	whole map[repo.ID]struct{}
	// failed says why chunks could not be read: nobody waits for them twice.
	failed map[repo.ID]error

	snap     *tree.Snapshot // being walked
	lostIn   map[repo.ID]int64
	badSlots []repo.ID // key slots that do not decode
	// protected: there is repair data.
	protected bool

	readErrors int   // in a row, other than damage
	stop       error // why the run ends, if not for its context
}

// stopped returns why the run cannot go on.
func (v *verifier) stopped() error {
	if v.stop != nil {
		return v.stop
	}
	return v.ctx.Err()
}

var errStopped = errors.New("stopped")

func (v *verifier) lost(path string, format string, args ...any) {
	if v.stopped() != nil {
		return // what failed last did so for that reason
	}
	if v.lostIn == nil {
		v.lostIn = make(map[repo.ID]int64)
	}
	v.lostIn[v.snap.ID]++
	if v.rep.LostCount++; len(v.rep.Lost) < MaxLost {
		v.rep.Lost = append(v.rep.Lost, LostFile{Snapshot: v.snap.ID, Path: tree.Path(path), Reason: fmt.Sprintf(format, args...)})
	}
}

// dir checks a directory with the given pages and all below it, and says whether it
// is whole.
func (v *verifier) dir(path string, pages []tree.Chunk) bool {
	if len(pages) == 0 || slices.ContainsFunc(pages, func(c tree.Chunk) bool { _, ok := v.whole[v.r.ChunkID(c.Hash)]; return !ok }) {
		v.rep.Dirs++
	}
	whole, last := true, ""
	for _, c := range pages {
		ok := v.page(path, c, &last)
		whole = whole && ok
		if v.stopped() != nil {
			return false
		}
	}
	return whole
}

// page checks one page. last is the name before it, "" if that is not known.
func (v *verifier) page(path string, c tree.Chunk, last *string) bool {
	id := v.r.ChunkID(c.Hash)
	if _, ok := v.whole[id]; ok && v.chunk(c) == nil {
		*last = ""
		return true
	}
	v.rep.Chunks++
	whole := true
	page, err := v.Load(v.ctx, c.Hash, c.Size, nil)
	if err == nil {
		_, err = tree.DecodePage(page, *last, func(n *tree.Node) error {
			*last = n.Name
			ok := v.node(tree.Join(path, n.Name), n)
			whole = whole && ok
			if v.stopped() != nil {
				return errStopped
			}
			return nil
		})
	}
	if err != nil {
		v.lost(path, "part of its list of entries: %v", err)
		return false
	}
	if whole {
		v.whole[id] = struct{}{}
	}
	return whole
}

func (v *verifier) node(path string, n *tree.Node) bool {
	switch n.Type {
	case tree.Dir:
		return v.dir(path, n.Content)
	case tree.File:
		v.rep.Files++
		err := checkFile(v.ctx, v, n, func(c tree.Chunk) error {
			v.rep.Chunks++
			return v.chunk(c)
		})
		if err != nil {
			v.lost(path, "%v", err)
		}
		return err == nil
	}
	return true
}

// checkFile checks the chunks of a file, all of them, and that they make up its
// size.
func checkFile(ctx context.Context, l tree.Loader, n *tree.Node, chunk func(tree.Chunk) error) error {
	var sum, bad int64
	var first error
	err := tree.EachChunk(ctx, l, n, func(c tree.Chunk) error {
		sum += int64(c.Size)
		if err := chunk(c); err != nil {
			bad += int64(c.Size)
			if first == nil {
				first = err
			}
		}
		return ctx.Err()
	})
	want := n.Size
	if n.Extents != nil {
		want = 0
		for _, e := range n.Extents {
			want += e.Length
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("the list of its chunks: %w", err)
	case first != nil:
		return fmt.Errorf("%d of %d bytes: %w", bad, want, first)
	case sum != want:
		return fmt.Errorf("%w: its chunks have %d bytes, not %d", tree.ErrCorrupt, sum, want)
	}
	return nil
}

// chunk returns why a chunk cannot be read, as far as that is known without reading
// it. Chunks found damaged are read: there may be another copy, and then nothing
// is lost.
func (v *verifier) chunk(c tree.Chunk) error {
	id := v.r.ChunkID(c.Hash)
	if err, ok := v.failed[id]; ok {
		return err
	}
	if _, ok := v.damaged[id]; ok {
		_, err := v.Load(v.ctx, c.Hash, c.Size, nil)
		if err == nil {
			delete(v.damaged, id)
		}
		return err
	}
	return located(v.r, c)
}

// located returns an error unless a chunk is where the index says, as far as the
// listing of packs tells.
func located(r Source, c tree.Chunk) error {
	loc, ok := r.Locate(c.Hash)
	if !ok {
		return fmt.Errorf("chunk %x: %w", c.Hash[:4], repo.ErrMissing)
	}
	if loc.Size != c.Size {
		return fmt.Errorf("chunk %x: %w: %d bytes, not %d", c.Hash[:4], repo.ErrCorrupt, loc.Size, c.Size)
	}
	return nil
}

// Load reads a chunk, but none that failed before. Where reading fails again and
// again, and not for damage, it stops the run: a store that is gone is not a
// repository of which all is lost.
func (v *verifier) Load(ctx context.Context, hash tree.Hash, size uint32, buf []byte) ([]byte, error) {
	if err := v.stopped(); err != nil {
		return nil, err
	}
	id := v.r.ChunkID(hash)
	if err, ok := v.failed[id]; ok {
		return nil, err
	}
	data, err := v.r.Load(ctx, hash, size, buf)
	if err == nil {
		v.readErrors = 0
		return data, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if !isDamage(err) {
		if v.readErrors++; v.readErrors >= maxReadErrors {
			v.stop = fmt.Errorf("read the repository: %w", err)
		}
	}
	// A wrong size is the fault of who refers to the chunk, not the chunk's own.
	if loc, ok := v.r.Locate(hash); !ok || loc.Size == size {
		v.failed[id] = err
	}
	return nil, err
}
