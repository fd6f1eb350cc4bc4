package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

// copiers is how many packs are read at a time by Copy; CopyBatches is how many
// batches that takes.
const (
	copiers     = 4
	CopyBatches = copiers + 1
)

// Copy stores the chunks with the given hashes that this repository does not have,
// taking them from src. Between siblings whole blocks move as they are: neither
// compressed nor encrypted again, but each is authenticated on the way, so that
// damage does not spread. Otherwise chunks are decoded and added.
//
// A block that is damaged in src counts as absent there from then on; where src has
// its chunks once more, those are taken. What src does not have whole is an error:
// ErrCorrupt or ErrMissing.
//
// hashes is gone through again after damage. Memory grows with the number of blocks
// to be copied, some 16 bytes each. The Writer needs CopyBatches as its
// WriterOptions.Readers.
func (w *Writer) Copy(ctx context.Context, src *Repository, hashes iter.Seq2[Hash, error]) error {
	return w.copy(ctx, src, hashes, func(err error) error { return err })
}

// Salvage is Copy for what there is: chunks that src does not have whole either are
// left out.
func (w *Writer) Salvage(ctx context.Context, src *Repository, hashes iter.Seq2[Hash, error]) error {
	return w.copy(ctx, src, hashes, func(error) error { return nil })
}

// copy calls lost for chunks that src does not have.
func (w *Writer) copy(ctx context.Context, src *Repository, hashes iter.Seq2[Hash, error], lost func(error) error) error {
	var damage error // the first
	for range copyPasses {
		blocks := make(map[ID]map[uint32]struct{}) // pack → offsets
		for hash, err := range hashes {
			if err != nil {
				return err
			}
			if w.Has(hash) {
				continue
			}
			loc, ok := src.locateSound(hash)
			if !ok {
				if err := lost(cmp.Or(damage, fmt.Errorf("chunk %x: %w", hash[:4], ErrMissing))); err != nil {
					return err
				}
				continue
			}
			set := blocks[loc.Block.Pack]
			if set == nil {
				set = make(map[uint32]struct{})
				blocks[loc.Block.Pack] = set
			}
			set[loc.Block.Offset] = struct{}{}
		}
		found, err := w.copyBlocks(ctx, src, blocks, nil)
		if err != nil || found == nil {
			return err
		}
		damage = cmp.Or(damage, found)
	}
	return lost(damage)
}

// copyPasses bounds how often Copy looks for other copies of what is damaged. Each
// pass goes on where the one before found damage.
const copyPasses = 4

// copyBlocks copies blocks, pack → offsets, and returns the first damage that it met
// apart from errors that end the copy. wanted says which of their chunks are; nil: all.
func (w *Writer) copyBlocks(ctx context.Context, src *Repository, blocks map[ID]map[uint32]struct{}, wanted func(*ID) (bool, error)) (damage, err error) {
	packs := make([]ID, 0, len(blocks))
	for id := range blocks {
		packs = append(packs, id)
	}
	slices.SortFunc(packs, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	var mu sync.Mutex
	bad := make(map[place]struct{})
	damaged := func(b place, err error) {
		mu.Lock()
		defer mu.Unlock()
		bad[b] = struct{}{}
		damage = cmp.Or(damage, fmt.Errorf("copy from %s: %w", src.backend, err))
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(copiers)
	for _, id := range packs {
		g.Go(func() error {
			if err := w.err(); err != nil {
				return err
			}
			if err := w.copyPack(gctx, src, id, blocks[id], wanted, damaged); err != nil {
				return fmt.Errorf("copy from %s: %w", src.backend, err)
			}
			return nil
		})
	}
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		err = cmp.Or(w.err(), err) // what has ended the Writer
	}
	src.index.distrustAll(bad)
	return damage, err
}

// copyPack copies some blocks of one pack, and tells which of them are damaged or
// gone.
func (w *Writer) copyPack(ctx context.Context, src *Repository, id ID, offsets map[uint32]struct{}, wanted func(*ID) (bool, error), damaged func(place, error)) (err error) {
	size := src.index.packSize(id)
	t, err := src.readTable(ctx, id, size)
	if errors.Is(err, ErrCorrupt) {
		t, err = src.indexedTable(ctx, id, size, err)
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
		for at := range offsets {
			damaged(place{id, at}, src.blockError(&Block{Pack: id, Offset: at}, err))
		}
		return nil
	}
	if err != nil {
		return err
	}
	src.knowSession(t)
	batch := w.Batch(t.kind) // of what does not move as it is
	// Also after an error: what is in it may be what others rely on.
	defer func() { err = errors.Join(err, batch.Flush()) }()
	sibling := w.r.Sibling(src)
	left := maps.Clone(offsets)
	var blocks []*Block
	var refs []*blockRef
	offset := uint32(len(packMagic))
	for i := range t.blocks {
		ref := &t.blocks[i]
		if _, ok := offsets[offset]; ok {
			delete(left, offset)
			refs = append(refs, ref)
			blocks = append(blocks, &Block{Pack: id, Offset: offset, Stored: ref.stored, Raw: ref.raw, Nonce: ref.nonce, Compressed: ref.compressed, Session: t.key != dataKey})
		}
		offset += ref.stored
	}
	run := sealedRun{r: src, blocks: blocks}
	defer run.close()
	for i, b := range blocks {
		some, err := choose(refs[i], wanted)
		var sealed []byte
		if err == nil {
			sealed, err = run.next(ctx)
		}
		moved := false
		if err == nil && sibling && some == nil && !b.Session {
			moved, err = w.copyBlock(ctx, src, t.kind, b, refs[i], sealed, wanted != nil)
		}
		if err == nil && !moved {
			err = w.addBlock(ctx, src, batch, b, refs[i], sealed, some)
		}
		if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrMissing) {
			damaged(place{id, b.Offset}, err)
			continue
		}
		if err != nil {
			return err
		}
	}
	for at := range left { // its own table says something else than the index
		damaged(place{id, at}, src.blockError(&Block{Pack: id, Offset: at}, ErrCorrupt))
	}
	return nil
}

// choose returns the chunks of a block that are wanted; nil: all.
func choose(ref *blockRef, wanted func(*ID) (bool, error)) (map[ID]struct{}, error) {
	if wanted == nil {
		return nil, nil
	}
	some := make(map[ID]struct{}, len(ref.chunks))
	all := true
	for i := range ref.chunks {
		id := &ref.chunks[i].id
		ok, err := wanted(id)
		if err != nil {
			return nil, err
		}
		if ok {
			some[*id] = struct{}{}
		}
		all = all && ok
	}
	if all {
		return nil, nil
	}
	return some, nil
}

// indexedTable finds the table of a pack whose own one is damaged in the index
// objects; it returns damage if none has it. It reads them one by one.
func (r *Repository) indexedTable(ctx context.Context, pack ID, size int64, damage error) (*packTable, error) {
	var ids []ID
	if err := r.list(ctx, "index", nil, func(id ID, _ int64) { ids = append(ids, id) }); err != nil {
		return nil, err
	}
	for _, id := range ids {
		obj, err := r.readIndex(ctx, id)
		if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read index %s: %w", id.Short(), err)
		}
		for i := range obj.packs {
			if t := &obj.packs[i]; t.id == pack && t.size == size {
				return t, nil
			}
		}
	}
	return nil, damage
}

// A sealedRun reads blocks of a pack as they are stored, one after the other, those that
// follow each other with one request.
type sealedRun struct {
	r      *Repository
	blocks []*Block      // in the order of their offsets; those that are not read yet
	rc     io.ReadCloser // at the first of them; nil: no request is open
}

// next reads the next block; nil: there is no such thing, it may be in the repair data.
// The error is ErrMissing, or whatever keeps the storage from being read.
func (s *sealedRun) next(ctx context.Context) ([]byte, error) {
	b := s.blocks[0]
	if s.rc == nil {
		end := b.Offset + b.Stored
		for _, next := range s.blocks[1:] {
			if next.Offset != end {
				break
			}
			end += next.Stored
		}
		rc, err := s.r.backend.Get(ctx, packName(b.Pack), int64(b.Offset), int64(end-b.Offset))
		if err != nil {
			s.blocks = s.blocks[1:]
			return nil, s.r.blockError(b, err)
		}
		s.rc = rc
	}
	sealed := make([]byte, b.Stored)
	_, err := io.ReadFull(s.rc, sealed)
	s.blocks = s.blocks[1:]
	if err != nil || len(s.blocks) == 0 || s.blocks[0].Offset != b.Offset+b.Stored {
		s.close()
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
		return nil, nil
	}
	if err != nil {
		return nil, s.r.blockError(b, err)
	}
	return sealed, nil
}

func (s *sealedRun) close() {
	if s.rc != nil {
		s.rc.Close()
		s.rc = nil
	}
}

// copyBlock moves a sealed block as it is. With whole, it is left alone, and false
// returned, if one of its chunks is stored already: it would be stored twice.
func (w *Writer) copyBlock(ctx context.Context, src *Repository, kind Kind, b *Block, ref *blockRef, sealed []byte, whole bool) (bool, error) {
	_, err := src.keys.Data.Open(nil, seal.Nonce(b.Nonce), sealed, nil)
	if errors.Is(err, seal.ErrCorrupt) {
		err = ErrCorrupt
		if mended, ok := src.mendSealed(ctx, b); ok {
			if _, merr := src.keys.Data.Open(nil, seal.Nonce(b.Nonce), mended, nil); merr == nil {
				sealed, err = mended, nil
				src.noteMended(packName(b.Pack))
			}
		}
	}
	if err != nil {
		return false, src.blockError(b, err)
	}
	if err := w.enter(); err != nil {
		return false, err
	}
	defer w.gate.RUnlock()
	if whole {
		if !w.claimAll(ref.chunks) {
			return false, nil
		}
	} else {
		some := false
		for _, c := range ref.chunks {
			some = w.claim(c.id, int(c.size)) || some
		}
		if !some {
			return true, nil // another block brought them
		}
	}
	p, _, err := w.reserve(kind, ref)
	if err == nil {
		err = w.store(p, sealed, *ref)
	}
	w.fail(err) // the chunks are claimed: without them the run cannot go on
	return true, err
}

// addBlock adds some chunks, nil: all, of a block of a repository with other keys, or
// of which not all are wanted.
func (w *Writer) addBlock(ctx context.Context, src *Repository, batch *Batch, b *Block, ref *blockRef, sealed []byte, some map[ID]struct{}) error {
	plain, err := src.openBlock(ctx, b, sealed, nil)
	if errors.Is(err, ErrCorrupt) {
		plain, err = src.ReadBlock(ctx, b, nil) // which has repair data
	}
	if err != nil {
		return err
	}
	for _, c := range ref.chunks {
		data := plain[:c.size]
		plain = plain[c.size:]
		if _, ok := some[c.id]; !ok && some != nil {
			continue
		}
		hash := Hash(sha256.Sum256(data))
		if src.ChunkID(hash) != c.id {
			return src.blockError(b, ErrCorrupt)
		}
		if err := w.addCopy(batch, data, hash); err != nil {
			return err
		}
	}
	return nil
}

// addCopy adds a chunk that is somewhere in memory.
func (w *Writer) addCopy(batch *Batch, data []byte, hash Hash) error {
	tail, err := batch.Tail()
	if err != nil {
		return err
	}
	if len(data) > len(tail) { // not behind others
		if err := batch.Flush(); err != nil {
			return err
		}
		if tail, err = batch.Tail(); err != nil {
			return err
		}
	}
	if len(data) > len(tail) { // cut by other parameters, or a large record
		if err := batch.Flush(); err != nil {
			return err
		}
		batch.b = &block{kind: batch.kind, buf: make([]byte, len(data)), trend: &batch.trend}
		tail = batch.b.buf
	}
	copy(tail, data)
	_, err = batch.Add(len(data), 0, hash)
	return err
}
