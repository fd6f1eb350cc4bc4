package repo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

// cachedBlocks bounds the plaintext that Load keeps: directory records lie close
// together, and a tree is read in the order in which it was written.
const cachedBlocks = 16 << 20

// Locate returns where a chunk is stored; false where no pack that is there has
// it.
func (r *Repository) Locate(hash Hash) (Location, bool) {
	id := r.ChunkID(hash)
	var loc Location
	ok := r.index.find(&id, false, &loc)
	return loc, ok
}

// locateSound is Locate, but without blocks that were found damaged.
func (r *Repository) locateSound(hash Hash) (loc Location, ok bool) {
	id := r.ChunkID(hash)
	var bad map[place]struct{}
	if p := r.index.bad.Load(); p != nil {
		bad = *p
	}
	ok = r.index.findBut(&id, false, bad, &loc)
	return loc, ok
}

// Sound says whether a chunk is in a pack that is there, in a block that this
// process has not found damaged: after CheckData of everything, whether it can be
// read. size is that of the chunk in bytes.
func (r *Repository) Sound(hash Hash) (size uint32, ok bool) {
	loc, ok := r.locateSound(hash)
	return loc.Size, ok
}

// Distrusts says whether this process has found something damaged in packs that are
// there.
func (r *Repository) Distrusts() bool { return r.index.bad.Load() != nil }

// sealedBuffers holds buffers for sealed blocks.
var sealedBuffers = sync.Pool{New: func() any { return new([]byte) }}

// sealedBuffer returns n bytes, to be put back into sealedBuffers.
func sealedBuffer(n uint32) *[]byte {
	buf := sealedBuffers.Get().(*[]byte)
	*buf = slices.Grow((*buf)[:0], int(n))[:n]
	return buf
}

// roomIn returns n bytes, in buf if it is large enough. What is made instead is a quarter longer
// than buf at least: a buffer that is used for one block after the other soon fits all of them.
func roomIn(buf []byte, n uint32) []byte {
	if cap(buf) < int(n) {
		buf = make([]byte, n, max(int(n), cap(buf)+cap(buf)/4))
	}
	return buf[:n]
}

// ReadBlock returns a block's plaintext, in buf if it is large enough. A block
// that is not what the index says is ErrCorrupt, one whose pack is gone
// ErrMissing: its chunks then no longer count as stored. Neither do those of a block
// that repair data gives back, which is no error: see Mended. Safe for concurrent use.
func (r *Repository) ReadBlock(ctx context.Context, b *Block, buf []byte) ([]byte, error) {
	plain, err := r.readSound(ctx, b, buf)
	if errors.Is(err, ErrCorrupt) {
		if mended, ok := r.mendBlock(ctx, b, buf); ok {
			return mended, nil
		}
	}
	return plain, err
}

// readSound is ReadBlock without repair data.
func (r *Repository) readSound(ctx context.Context, b *Block, buf []byte) ([]byte, error) {
	plain, err := r.readBlock(ctx, b, buf)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrMissing) {
		r.index.distrust(b)
	}
	return plain, err
}

// ReadBlocks is ReadBlock for blocks of one pack in the order of their offsets.
// Those that follow each other are read with one request. next is called for each in
// order, with its plaintext or the error, and returns the buffer for the one after,
// which may be nil. When ctx has ended, the rest is left out. Safe for concurrent
// use.
func (r *Repository) ReadBlocks(ctx context.Context, blocks []*Block, buf []byte, next func(plain []byte, err error) []byte) {
	for len(blocks) > 0 && ctx.Err() == nil {
		n := 1
		for n < len(blocks) && blocks[n].Offset == blocks[n-1].Offset+blocks[n-1].Stored {
			n++
		}
		read := 0
		if n > 1 {
			read, buf = r.readRun(ctx, blocks[:n], buf, next)
		}
		if read < n && ctx.Err() == nil { // alone, or whatever was wrong: its own request tells
			buf = next(r.ReadBlock(ctx, blocks[read], buf))
			read++
		}
		blocks = blocks[read:]
	}
}

// readRun reads neighbouring blocks, up to the first that cannot be read. It returns
// their number.
func (r *Repository) readRun(ctx context.Context, blocks []*Block, buf []byte, next func([]byte, error) []byte) (int, []byte) {
	first, last := blocks[0], blocks[len(blocks)-1]
	rc, err := r.backend.Get(ctx, packName(first.Pack), int64(first.Offset), int64(last.Offset)+int64(last.Stored)-int64(first.Offset))
	if err != nil {
		return 0, buf
	}
	defer rc.Close()
	for i, b := range blocks {
		plain, err := r.receive(ctx, b, buf, func(sealed []byte) error {
			_, err := io.ReadFull(rc, sealed)
			return err
		})
		if err != nil {
			return i, buf
		}
		buf = next(plain, nil)
	}
	return len(blocks), buf
}

func (r *Repository) readBlock(ctx context.Context, b *Block, buf []byte) ([]byte, error) {
	return r.receive(ctx, b, buf, func(sealed []byte) error { return r.fetchBlock(ctx, b, sealed) })
}

// receive opens a block that read gets, in buf if it is large enough: one that is not
// compressed is read there, too, and all goes on in the same megabytes of memory.
func (r *Repository) receive(ctx context.Context, b *Block, buf []byte, read func(sealed []byte) error) ([]byte, error) {
	if !b.Compressed {
		sealed := roomIn(buf, b.Stored)
		if err := read(sealed); err != nil {
			return nil, err
		}
		return r.openBlock(ctx, b, sealed, nil)
	}
	sealed := sealedBuffer(b.Stored)
	defer sealedBuffers.Put(sealed)
	if err := read(*sealed); err != nil {
		return nil, err
	}
	return r.openBlock(ctx, b, *sealed, buf)
}

// fetchBlock reads a sealed block.
func (r *Repository) fetchBlock(ctx context.Context, b *Block, sealed []byte) error {
	rc, err := r.backend.Get(ctx, packName(b.Pack), int64(b.Offset), int64(b.Stored))
	if err != nil {
		return r.blockError(b, err)
	}
	defer rc.Close()
	if _, err := io.ReadFull(rc, sealed); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
			err = ErrCorrupt
		}
		return r.blockError(b, err)
	}
	return nil
}

var errNoScratch = errors.New("not in the scratch directory")

// readMetadata is ReadBlock for a block of metadata, which may be kept on this
// machine.
func (r *Repository) readMetadata(ctx context.Context, b *Block) ([]byte, error) {
	if r.scratch != nil {
		plain, err := r.receive(ctx, b, nil, func(sealed []byte) error {
			if !r.scratch.block(ctx, r, b, sealed) {
				return errNoScratch
			}
			return nil
		})
		if err == nil {
			return plain, nil
		}
	}
	if r.kept == nil {
		return r.ReadBlock(ctx, b, nil)
	}
	name := keptBlock(b.Pack, b.Offset)
	if sealed := r.kept.get(name); len(sealed) == int(b.Stored) {
		if plain, err := r.openBlock(ctx, b, sealed, nil); err == nil {
			return plain, nil
		}
		r.kept.drop(name)
	}
	sealed := make([]byte, b.Stored)
	err := r.fetchBlock(ctx, b, sealed)
	var plain []byte
	if err == nil {
		r.kept.put(name, sealed) // before it is opened, which destroys it
		if plain, err = r.openBlock(ctx, b, sealed, nil); err != nil {
			r.kept.drop(name)
		}
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrMissing) {
		r.index.distrust(b)
	}
	if errors.Is(err, ErrCorrupt) {
		if mended, ok := r.mendBlock(ctx, b, nil); ok {
			return mended, nil
		}
	}
	return plain, err
}

// openBlock opens a sealed block, destroying sealed: into buf if that is large enough and the
// block compressed, otherwise into sealed itself.
func (r *Repository) openBlock(ctx context.Context, b *Block, sealed, buf []byte) ([]byte, error) {
	key, err := r.blockKey(ctx, b)
	if err != nil {
		return nil, r.blockError(b, err)
	}
	plain, err := key.Open(sealed[:0], seal.Nonce(b.Nonce), sealed, nil)
	if err == nil && b.Compressed {
		plain, err = r.dec.DecodeAll(plain, roomIn(buf, b.Raw)[:0])
	}
	if err != nil || len(plain) != int(b.Raw) {
		return nil, r.blockError(b, ErrCorrupt)
	}
	return plain, nil
}

func (r *Repository) blockError(b *Block, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrMissing
	}
	return fmt.Errorf("pack %s, block at %d: %w", b.Pack.Short(), b.Offset, err)
}

// CheckChunk returns ErrCorrupt unless data is the chunk with that hash.
func CheckChunk(hash Hash, data []byte) error {
	if Hash(sha256.Sum256(data)) != hash {
		return fmt.Errorf("chunk %x: %w: its content has another SHA-256", hash[:4], ErrCorrupt)
	}
	return nil
}

// Load returns the plaintext of a chunk of metadata, checked; in buf if it is large
// enough. Blocks read last are remembered, and kept on this machine if Options say
// so. Safe for concurrent use.
func (r *Repository) Load(ctx context.Context, hash Hash, size uint32, buf []byte) ([]byte, error) {
	for attempt := 1; ; attempt++ {
		loc, ok := r.Locate(hash)
		if !ok {
			return nil, fmt.Errorf("chunk %x: %w", hash[:4], ErrMissing)
		}
		if loc.Size != size {
			return nil, fmt.Errorf("chunk %x: %w: %d bytes, not %d", hash[:4], ErrCorrupt, loc.Size, size)
		}
		out, err := r.loadFrom(ctx, &loc, hash, buf)
		if attempt == maxCopies || !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrMissing) {
			return out, err
		}
		r.index.distrust(&loc.Block)
		if other, _ := r.Locate(hash); other == loc && !(errors.Is(err, ErrMissing) && r.index.catchUp(ctx)) {
			return nil, err // there is no other copy
		}
	}
}

// maxCopies bounds how many copies of a chunk Load tries.
const maxCopies = 8

func (r *Repository) loadFrom(ctx context.Context, loc *Location, hash Hash, buf []byte) ([]byte, error) {
	plain, err := r.recent.get(ctx, r, &loc.Block)
	if err != nil {
		return nil, err
	}
	if uint64(loc.Offset)+uint64(loc.Size) > uint64(len(plain)) {
		return nil, r.blockError(&loc.Block, ErrCorrupt)
	}
	buf = append(buf[:0], plain[loc.Offset:loc.Offset+loc.Size]...)
	return buf, CheckChunk(hash, buf)
}

// blockCache remembers the plaintext of blocks read last.
type blockCache struct {
	mu     sync.Mutex
	bytes  int
	blocks []cachedBlock // least recently used first
}

type cachedBlock struct {
	pack   ID
	offset uint32
	plain  []byte // never written to
}

func (c *blockCache) get(ctx context.Context, r *Repository, b *Block) ([]byte, error) {
	c.mu.Lock()
	for i := len(c.blocks) - 1; i >= 0; i-- {
		if e := c.blocks[i]; e.offset == b.Offset && e.pack == b.Pack {
			copy(c.blocks[i:], c.blocks[i+1:])
			c.blocks[len(c.blocks)-1] = e
			c.mu.Unlock()
			return e.plain, nil
		}
	}
	c.mu.Unlock()
	plain, err := r.readMetadata(ctx, b)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blocks = append(c.blocks, cachedBlock{b.Pack, b.Offset, plain})
	c.bytes += len(plain)
	for c.bytes > cachedBlocks && len(c.blocks) > 1 {
		c.bytes -= len(c.blocks[0].plain)
		c.blocks[0].plain = nil
		c.blocks = c.blocks[1:]
	}
	return plain, nil
}
