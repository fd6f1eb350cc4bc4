package repo

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Sizes at which a pack is closed. A pack is one object: large enough that a
// store of terabytes has tens of thousands of them, small enough that an
// interrupted run loses little and a remote upload can be repeated.
const (
	dataPackBytes     = 32 << 20
	metadataPackBytes = 16 << 20
)

func packTarget(k Kind) int64 {
	if k == Metadata {
		return metadataPackBytes
	}
	return dataPackBytes
}

// An openPack is a pack being written: docs/format.md §5. Blocks are sealed by
// several goroutines at a time and appended in any order.
type openPack struct {
	table  packTable
	prefix [nonceBytes - 4]byte

	// Guarded by Writer.packMu: blocks reserved, bytes that they take, chunks in
	// them.
	reserved uint32
	planned  int64
	chunks   int
	pending  int  // reserved, not yet appended
	closing  bool // takes no more reservations

	mu sync.Mutex // guards what follows and table.blocks
	w  storage.Writer
	at int64 // bytes written
	// err is the first error of a write. What of it is in the object is unknown,
	// and so is where the next block would be: the pack is not stored.
	err error
}

func newPack(ctx context.Context, b storage.Backend, kind Kind, key ID) (*openPack, error) {
	p := &openPack{table: packTable{kind: kind, key: key}}
	rand.Read(p.table.id[:])
	rand.Read(p.prefix[:])
	w, err := b.Create(ctx, packName(p.table.id))
	if err != nil {
		return nil, fmt.Errorf("create pack: %w", err)
	}
	if _, err := w.Write([]byte(packMagic)); err != nil {
		w.Abort()
		return nil, fmt.Errorf("write pack: %w", err)
	}
	p.w, p.at, p.planned = w, int64(len(packMagic)), int64(len(packMagic))
	return p, nil
}

// nonce returns the identity of the n-th block sealed for this pack.
func (p *openPack) nonce(n uint32) (nonce seal.Nonce) {
	copy(nonce[:], p.prefix[:])
	binary.LittleEndian.PutUint32(nonce[len(p.prefix):], n)
	return nonce
}

// append writes a sealed block behind the others, and returns its offset.
func (p *openPack) append(sealed []byte, ref blockRef) (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, p.err
	}
	if _, err := p.w.Write(sealed); err != nil {
		p.err = fmt.Errorf("write pack: %w", err)
		return 0, p.err
	}
	at := uint32(p.at)
	p.at += int64(len(sealed))
	p.table.blocks = append(p.table.blocks, ref)
	return at, nil
}

// finish writes padding, table and footer, and commits the object.
func (p *openPack) finish(keys *seal.Keys, enc *zstd.Encoder) (*packTable, error) {
	if p.err != nil {
		p.w.Abort()
		return nil, p.err
	}
	table := sealTable(keys, p.table.id, squeeze(enc, appendTable(nil, &p.table)))
	body := p.at + int64(len(table)) + footerBytes
	p.table.size = paddedSize(body)
	tail := make([]byte, p.table.size-body, p.table.size-p.at)
	rand.Read(tail)
	tail = append(tail, table...)
	tail = append(tail, sealFooter(keys, p.table.id, int64(len(table)))...)
	if _, err := p.w.Write(tail); err != nil {
		p.w.Abort()
		return nil, fmt.Errorf("write pack: %w", err)
	}
	if err := p.w.Commit(); err != nil {
		return nil, fmt.Errorf("store pack %s: %w", p.table.id.Short(), err)
	}
	return &p.table, nil
}

func packAAD(part byte, id ID) []byte {
	return append(append([]byte(packMagic), part), id[:]...)
}

func sealTable(keys *seal.Keys, id ID, body []byte) []byte {
	var nonce seal.Nonce
	rand.Read(nonce[:])
	return keys.Index.Seal(nonce[:], nonce, body, packAAD('T', id))
}

func openTable(keys *seal.Keys, id ID, sealed []byte) ([]byte, error) {
	return keys.Index.Open(nil, seal.Nonce(sealed), sealed[nonceBytes:], packAAD('T', id))
}

func sealFooter(keys *seal.Keys, id ID, tableBytes int64) []byte {
	var nonce seal.Nonce
	rand.Read(nonce[:])
	var body [8]byte
	binary.LittleEndian.PutUint32(body[:], uint32(tableBytes))
	return keys.Index.Seal(nonce[:], nonce, body[:], packAAD('F', id))
}

func openFooter(keys *seal.Keys, id ID, sealed []byte) (tableBytes int64, err error) {
	body, err := keys.Index.Open(nil, seal.Nonce(sealed), sealed[nonceBytes:], packAAD('F', id))
	if err != nil {
		return 0, err
	}
	return int64(binary.LittleEndian.Uint32(body)), nil
}
