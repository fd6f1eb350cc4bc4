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
	// Workers is how many packs are read (or Options.Transfers, if that is more),
	// and how many blocks are opened, at a time; at least 1. Memory is that of three
	// blocks for each.
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
// that the check could not be done. Blocks found damaged count as absent from then
// on, as with ReadBlock.
//
// Packs are read by some goroutines, their blocks opened by others, so that neither
// waits for the other, and all processors are busy to the last block.
func (r *Repository) CheckData(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	c := check{
		r: r, o: &o, rep: &CheckReport{Damaged: make(map[ID]struct{})},
		bad: make(map[place]struct{}), blocks: make(chan sealedBlock),
	}
	ids, err := r.listParity(ctx)
	if err != nil {
		return nil, err
	}
	c.protected = make(map[ID]struct{}, len(ids))
	for _, id := range ids {
		c.protected[id] = struct{}{}
	}
	var openers sync.WaitGroup
	for range max(o.Workers, 1) {
		openers.Go(func() { c.open(ctx) })
	}
	err = c.read(ctx)
	close(c.blocks)
	openers.Wait()
	if err != nil {
		return nil, err
	}
	r.index.distrustAll(c.bad)
	return c.rep, nil
}

// check is one CheckData.
type check struct {
	r      *Repository
	o      *CheckOptions
	blocks chan sealedBlock // from those who read packs to those who open blocks

	mu  sync.Mutex
	rep *CheckReport
	bad map[place]struct{}
	// protected packs have repair data.
	protected map[ID]struct{}
}

// A sealedBlock is a block of a pack as it was read.
type sealedBlock struct {
	Block
	chunks []chunkRef
	sealed *[]byte // of sealedBuffers
}

// fault reports what is wrong with a pack, and the chunks of the block at a place that
// are damaged by it. At the place 0 there is none.
func (c *check) fault(err error, at place, chunks []chunkRef) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rep.Faults = append(c.rep.Faults, err.Error())
	if at != (place{}) {
		c.bad[at] = struct{}{}
	}
	for _, chunk := range chunks {
		c.rep.Damaged[chunk.id] = struct{}{}
	}
}

// faultyBlock reports a block that does not open; its chunks are not damaged if repair
// data gives it back.
func (c *check) faultyBlock(ctx context.Context, err error, b *Block, chunks []chunkRef) {
	if _, ok := c.protected[b.Pack]; ok {
		if _, ok := c.r.mendBlock(ctx, b, nil); ok {
			err, chunks = fmt.Errorf("%w: its repair data gives it back", err), nil
		}
	}
	c.fault(err, place{b.Pack, b.Offset}, chunks)
}

// read reads the chosen packs.
func (c *check) read(ctx context.Context) error {
	r, o := c.r, c.o
	left := make(map[ID]int64) // packs to be checked, and their sizes
	r.index.mu.Lock()
	err := r.index.eachPack(func(id ID, size int64) {
		if o.Select == nil || o.Select(id) {
			left[id] = size
		}
	})
	r.index.mu.Unlock()
	if err != nil {
		return err
	}
	var ids []ID
	if err := r.list(ctx, "index", nil, func(id ID, _ int64) { ids = append(ids, id) }); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(o.Workers, r.transfers, 1))
	for _, id := range ids {
		obj, err := r.readIndex(gctx, id)
		switch {
		case errors.Is(err, fs.ErrNotExist): // replaced meanwhile
		case errors.Is(err, ErrCorrupt):
			c.fault(fmt.Errorf("index %s: %w", id.Short(), err), place{}, nil)
		case err != nil:
			return cmp.Or(g.Wait(), fmt.Errorf("read index %s: %w", id.Short(), err))
		default:
			for i := range obj.packs {
				t := &obj.packs[i]
				if size, ok := left[t.id]; ok && size == t.size {
					delete(left, t.id)
					g.Go(func() error { return c.readPack(gctx, t) })
				}
			}
		}
	}
	for id, size := range left {
		g.Go(func() error {
			t, err := r.readTable(gctx, id, size)
			if err == nil {
				return c.readPack(gctx, t)
			}
			if gctx.Err() != nil {
				return gctx.Err()
			}
			c.fault(err, place{}, nil)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.rep.Packs++
			return nil
		})
	}
	return g.Wait()
}

// readPack reads a pack, has its blocks opened, and compares its table.
func (c *check) readPack(ctx context.Context, t *packTable) error {
	r := c.r
	r.knowSession(t)
	rc, err := r.backend.Get(ctx, packName(t.id), 0, -1)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) && c.r.index.isCondemned(t.id) {
			return nil // a prune has deleted it meanwhile
		}
		at := place{t.id, uint32(len(packMagic))}
		for i := range t.blocks {
			c.fault(fmt.Errorf("pack %s: %w", t.id.Short(), err), at, t.blocks[i].chunks)
			at.offset += t.blocks[i].stored
		}
		return nil
	}
	defer rc.Close()
	var scratched *keptFile
	if t.kind == Metadata {
		scratched = r.scratch.pack(t.id)
		defer scratched.drop()
	}
	in := bufio.NewReaderSize(io.TeeReader(rc, scratched), 256<<10)
	magic := make([]byte, len(packMagic))
	io.ReadFull(in, magic)
	if string(magic) != packMagic {
		c.fault(fmt.Errorf("pack %s: %w: magic number", t.id.Short(), ErrCorrupt), place{pack: t.id}, nil)
	}
	offset := uint32(len(packMagic))
	for i := range t.blocks {
		ref := &t.blocks[i]
		b := sealedBlock{
			Block:  Block{Pack: t.id, Offset: offset, Stored: ref.stored, Raw: ref.raw, Nonce: ref.nonce, Compressed: ref.compressed, Session: t.key != dataKey},
			chunks: ref.chunks,
			sealed: sealedBuffer(ref.stored),
		}
		offset += ref.stored
		if _, err := io.ReadFull(in, *b.sealed); err != nil {
			sealedBuffers.Put(b.sealed)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			c.faultyBlock(ctx, r.blockError(&b.Block, fmt.Errorf("%w: %w", ErrCorrupt, err)), &b.Block, ref.chunks)
			continue
		}
		select {
		case c.blocks <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.checkTable(ctx, t, offset, in)
	scratched.keep()
	if _, ok := c.protected[t.id]; ok {
		if err := r.checkParity(ctx, t.id, t.size); err != nil && ctx.Err() == nil {
			c.fault(err, place{}, nil)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rep.Packs++
	c.rep.Blocks += int64(len(t.blocks))
	c.rep.Bytes += t.size
	return ctx.Err()
}

// open opens blocks and compares their chunks, until there are no more.
func (c *check) open(ctx context.Context) {
	var plain []byte
	for b := range c.blocks {
		out, err := c.r.openBlock(ctx, &b.Block, *b.sealed, plain)
		if err != nil {
			sealedBuffers.Put(b.sealed)
			c.faultyBlock(ctx, err, &b.Block, b.chunks)
			continue
		}
		if b.Compressed {
			plain = out[:0]
		}
		for _, chunk := range b.chunks {
			if c.r.ChunkID(sha256.Sum256(out[:chunk.size])) != chunk.id {
				c.fault(c.r.blockError(&b.Block, fmt.Errorf("%w: chunk %s has other content", ErrCorrupt, chunk.id.Short())), place{b.Pack, b.Offset}, []chunkRef{chunk})
			}
			out = out[chunk.size:]
		}
		sealedBuffers.Put(b.sealed)
		c.mu.Lock()
		c.rep.Chunks += int64(len(b.chunks))
		c.mu.Unlock()
		if c.o.Progress != nil {
			c.o.Progress(int64(b.Stored))
		}
	}
}

// maxTail bounds what is read at once behind the blocks of a pack: padding, table and
// footer, together some thousandths of it.
const maxTail = 4 << 20

// checkTable compares the pack's own table with the index's. in is at the offset where
// the blocks end; what it does not give is asked for.
func (c *check) checkTable(ctx context.Context, t *packTable, offset uint32, in io.Reader) {
	var own *packTable
	err := error(ErrCorrupt)
	if n := t.size - int64(offset); n >= footerBytes && n <= maxTail {
		tail := make([]byte, n)
		if _, rerr := io.ReadFull(in, tail); rerr == nil {
			own, err = c.r.tableIn(t.id, t.size, tail)
		}
	}
	if err != nil {
		own, err = c.r.readTable(ctx, t.id, t.size)
	}
	if err == nil && !bytes.Equal(appendTable(nil, own), appendTable(nil, t)) {
		err = fmt.Errorf("pack %s: %w: its table differs from the index", t.id.Short(), ErrCorrupt)
	}
	if err != nil && ctx.Err() == nil {
		c.fault(err, place{pack: t.id}, nil)
	}
}
