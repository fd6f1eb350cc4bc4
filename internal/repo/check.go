package repo

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"golang.org/x/sync/errgroup"
)

// CheckOptions say what CheckData reads.
type CheckOptions struct {
	// Select says whether a pack is read; nil: every one.
	Select func(id ID) bool
	// Workers is how many packs are read at a time; at least 1.
	Workers int
	// Progress, if set, is called with the number of bytes just checked, from
	// several goroutines.
	Progress func(n int64)
}

// CheckReport is what CheckData found.
type CheckReport struct {
	Packs  int
	Blocks int64
	Chunks int64
	Bytes  int64 // stored bytes read
	// Damaged names the chunks that cannot be read from where the index says.
	Damaged map[ID]struct{}
	// Faults say what is wrong, one line each.
	Faults []string
}

// CheckData reads packs and compares every block, every chunk and the table with
// what the index says; a pack of which no index object that opens has the table,
// with its own. The index must be loaded. Damage is in the report; the error says
// that the check could not be done.
func (r *Repository) CheckData(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	rep := &CheckReport{Damaged: make(map[ID]struct{})}
	var mu sync.Mutex
	left := make(map[ID]int64) // packs to be checked, and their sizes
	r.index.mu.Lock()
	for id, info := range r.index.packs {
		if info.there && (o.Select == nil || o.Select(id)) {
			left[id] = info.size
		}
	}
	r.index.mu.Unlock()
	var ids []ID
	if err := r.list(ctx, "index", nil, func(id ID, _ int64) { ids = append(ids, id) }); err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(o.Workers, 1))
	for _, id := range ids {
		obj, err := r.readIndex(gctx, id)
		switch {
		case errors.Is(err, fs.ErrNotExist): // replaced meanwhile
		case errors.Is(err, ErrCorrupt):
			mu.Lock()
			rep.Faults = append(rep.Faults, fmt.Sprintf("index %s: %v", id.Short(), err))
			mu.Unlock()
		case err != nil:
			return nil, cmp.Or(g.Wait(), fmt.Errorf("read index %s: %w", id.Short(), err))
		default:
			for i := range obj.packs {
				t := &obj.packs[i]
				if size, ok := left[t.id]; ok && size == t.size {
					delete(left, t.id)
					g.Go(func() error { return r.checkPack(gctx, t, &o, rep, &mu) })
				}
			}
		}
	}
	for id, size := range left {
		g.Go(func() error {
			t, err := r.readTable(gctx, id, size)
			if err == nil {
				return r.checkPack(gctx, t, &o, rep, &mu)
			}
			if gctx.Err() != nil {
				return gctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			rep.Packs++
			rep.Faults = append(rep.Faults, err.Error())
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return rep, nil
}

func (r *Repository) checkPack(ctx context.Context, t *packTable, o *CheckOptions, rep *CheckReport, mu *sync.Mutex) error {
	fault := func(err error, chunks []chunkRef) {
		mu.Lock()
		defer mu.Unlock()
		rep.Faults = append(rep.Faults, err.Error())
		for _, c := range chunks {
			rep.Damaged[c.id] = struct{}{}
		}
	}
	rc, err := r.backend.Get(ctx, packName(t.id), 0, -1)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for i := range t.blocks {
			fault(fmt.Errorf("pack %s: %w", t.id.Short(), err), t.blocks[i].chunks)
		}
		return nil
	}
	defer rc.Close()
	in := bufio.NewReaderSize(rc, 256<<10)
	magic := make([]byte, len(packMagic))
	io.ReadFull(in, magic)
	if string(magic) != packMagic {
		fault(fmt.Errorf("pack %s: %w: magic number", t.id.Short(), ErrCorrupt), nil)
	}
	var sealed, plain []byte
	offset := uint32(len(packMagic))
	chunks := int64(0)
	for i := range t.blocks {
		ref := &t.blocks[i]
		b := &Block{Pack: t.id, Offset: offset, Stored: ref.stored, Raw: ref.raw, Nonce: ref.nonce, Compressed: ref.compressed}
		offset += ref.stored
		if cap(sealed) < int(ref.stored) {
			sealed = make([]byte, ref.stored)
		}
		if _, err := io.ReadFull(in, sealed[:ref.stored]); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fault(r.blockError(b, fmt.Errorf("%w: %w", ErrCorrupt, err)), ref.chunks)
			continue
		}
		out, err := r.openBlock(b, sealed[:ref.stored], plain)
		if err != nil {
			fault(err, ref.chunks)
			continue
		}
		plain = out[:0]
		for _, c := range ref.chunks {
			if r.ChunkID(sha256.Sum256(out[:c.size])) != c.id {
				fault(r.blockError(b, fmt.Errorf("%w: chunk %s has other content", ErrCorrupt, c.id.Short())), []chunkRef{c})
			}
			out = out[c.size:]
			chunks++
		}
		if o.Progress != nil {
			o.Progress(int64(ref.stored))
		}
	}
	r.checkTable(ctx, t, fault)
	mu.Lock()
	defer mu.Unlock()
	rep.Packs++
	rep.Blocks += int64(len(t.blocks))
	rep.Chunks += chunks
	rep.Bytes += t.size
	return ctx.Err()
}

// checkTable compares the pack's own table with the index's.
func (r *Repository) checkTable(ctx context.Context, t *packTable, fault func(error, []chunkRef)) {
	own, err := r.readTable(ctx, t.id, t.size)
	if err == nil && !bytes.Equal(appendTable(nil, own), appendTable(nil, t)) {
		err = fmt.Errorf("pack %s: %w: its table differs from the index", t.id.Short(), ErrCorrupt)
	}
	if err != nil && ctx.Err() == nil {
		fault(err, nil)
	}
}
