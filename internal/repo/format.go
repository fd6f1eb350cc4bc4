package repo

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/zstd"
)

// Layout of packs and bounds of their tables: docs/format.md §5 and §6.
const (
	packMagic    = "BHPACK1\n"
	nonceBytes   = 24
	tagBytes     = 16
	footerBytes  = nonceBytes + 8 + tagBytes
	maxBlocks    = 1 << 20
	maxBlockSize = 1 << 26
	maxSealKeys  = 255
	// maxTable bounds the plaintext of a table or index object in memory. An
	// index object of indexGroup packs of maxPackChunks tiny chunks stays below.
	maxTable = 256 << 20
)

// A chunkRef is a chunk's entry in its block's table.
type chunkRef struct {
	id   ID
	size uint32
}

// A blockRef is a block's entry in its pack's table.
type blockRef struct {
	nonce      [nonceBytes]byte
	stored     uint32
	raw        uint32
	compressed bool
	chunks     []chunkRef
}

// A packTable says what is in a pack.
type packTable struct {
	id     ID
	size   int64 // of the whole object, in bytes
	kind   Kind
	key    ID // under which its blocks are sealed: dataKey, or a session's
	blocks []blockRef
}

// dataKey is the sealing key that a repository's own data key is listed as. Packs of
// write-only hosts list their sessions.
var dataKey ID

func appendTable(b []byte, t *packTable) []byte {
	b = append(b, byte(t.kind))
	b = binary.AppendUvarint(b, 1)
	b = append(b, t.key[:]...)
	b = binary.AppendUvarint(b, uint64(len(t.blocks)))
	for i := range t.blocks {
		bl := &t.blocks[i]
		b = append(b, bl.nonce[:]...)
		b = append(b, 0) // position of the sealing key
		comp := byte(0)
		if bl.compressed {
			comp = 1
		}
		b = append(b, comp)
		b = binary.AppendUvarint(b, uint64(bl.stored))
		b = binary.AppendUvarint(b, uint64(bl.raw))
		b = binary.AppendUvarint(b, uint64(len(bl.chunks)))
		for _, c := range bl.chunks {
			b = append(b, c.id[:]...)
			b = binary.AppendUvarint(b, uint64(c.size))
		}
	}
	return b
}

// tableReader decodes tables and index objects from the front of b.
type tableReader struct {
	b   []byte
	err error
}

func (r *tableReader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: table: %s", ErrCorrupt, what)
	}
	r.b = nil
}

func (r *tableReader) take(dst []byte, what string) {
	if len(r.b) < len(dst) {
		r.fail(what)
		return
	}
	copy(dst, r.b)
	r.b = r.b[len(dst):]
}

func (r *tableReader) byte(what string) byte {
	var b [1]byte
	r.take(b[:], what)
	return b[0]
}

func (r *tableReader) uvarint(limit uint64, what string) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit || n > 1 && r.b[n-1] == 0 {
		r.fail(what)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *tableReader) table(t *packTable) {
	t.kind = Kind(r.byte("kind"))
	if r.err == nil && t.kind != Data && t.kind != Metadata {
		r.fail("kind")
	}
	if n := r.uvarint(maxSealKeys, "sealing keys"); r.err == nil && n != 1 {
		r.fail("several sealing keys: written by a newer version?")
	}
	r.take(t.key[:], "sealing keys")
	n := r.uvarint(maxBlocks, "blocks")
	if n > uint64(len(r.b))/(nonceBytes+5) {
		r.fail("blocks")
	}
	if r.err != nil {
		return
	}
	t.blocks = make([]blockRef, n)
	for i := range t.blocks {
		bl := &t.blocks[i]
		r.take(bl.nonce[:], "nonce")
		if k := int(r.byte("sealing key")); r.err == nil && k != 0 {
			r.fail("unknown sealing key: written by a newer version?")
		}
		comp := r.byte("compression")
		if comp > 1 {
			r.fail("unknown compression")
		}
		bl.compressed = comp == 1
		bl.stored = uint32(r.uvarint(maxBlockSize, "stored length"))
		bl.raw = uint32(r.uvarint(maxBlockSize, "length"))
		chunks := r.uvarint(maxBlockSize, "chunks")
		if chunks == 0 || chunks > uint64(len(r.b))/(uint64(len(ID{}))+1) {
			r.fail("chunks")
		}
		if r.err != nil {
			return
		}
		bl.chunks = make([]chunkRef, chunks)
		sum := uint64(0)
		for j := range bl.chunks {
			c := &bl.chunks[j]
			r.take(c.id[:], "chunk ID")
			c.size = uint32(r.uvarint(maxBlockSize, "chunk length"))
			if c.size == 0 {
				r.fail("chunk length")
			}
			sum += uint64(c.size)
		}
		if r.err == nil && (sum != uint64(bl.raw) || bl.stored < tagBytes || !bl.compressed && bl.stored != bl.raw+tagBytes) {
			r.fail("lengths")
		}
	}
}

// decodeTable decodes the table of one pack.
func decodeTable(b []byte, t *packTable) error {
	r := tableReader{b: b}
	r.table(t)
	if r.err == nil && len(r.b) != 0 {
		r.fail("trailing bytes")
	}
	return r.err
}

// An indexObject holds the tables of some packs.
type indexObject struct {
	replaces []ID
	packs    []packTable
}

func appendIndex(b []byte, x *indexObject) []byte {
	b = binary.AppendUvarint(b, uint64(len(x.replaces)))
	for _, id := range x.replaces {
		b = append(b, id[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(x.packs)))
	for i := range x.packs {
		b = append(b, x.packs[i].id[:]...)
		b = binary.AppendUvarint(b, uint64(x.packs[i].size))
		b = appendTable(b, &x.packs[i])
	}
	return b
}

func decodeIndex(b []byte) (*indexObject, error) {
	r := tableReader{b: b}
	x := new(indexObject)
	n := r.uvarint(uint64(len(b)/len(ID{})), "replaced objects")
	for ; n > 0 && r.err == nil; n-- {
		var id ID
		r.take(id[:], "replaced objects")
		x.replaces = append(x.replaces, id)
	}
	n = r.uvarint(uint64(len(b)/len(ID{})), "packs")
	for ; n > 0 && r.err == nil; n-- {
		var t packTable
		r.take(t.id[:], "pack ID")
		t.size = int64(r.uvarint(1<<40, "pack size"))
		r.table(&t)
		x.packs = append(x.packs, t)
	}
	if r.err == nil && len(r.b) != 0 {
		r.fail("trailing bytes")
	}
	return x, r.err
}

// paddedSize is the size that a pack of n bytes is padded to: docs/format.md §5.
func paddedSize(n int64) int64 {
	unit := int64(1) << min(max(12, bits.Len64(uint64(n))-1-9), 14)
	return (n + unit - 1) / unit * unit
}

// squeeze returns body behind a byte that says whether it is compressed.
func squeeze(enc *zstd.Encoder, body []byte) []byte {
	out := enc.EncodeAll(body, append(make([]byte, 0, len(body)/2+64), 1))
	if len(out) > len(body) {
		return append([]byte{0}, body...)
	}
	return out
}

// unsqueeze undoes squeeze.
func unsqueeze(dec *zstd.Decoder, b []byte) ([]byte, error) {
	if len(b) == 0 || b[0] > 1 {
		return nil, fmt.Errorf("%w: unknown compression", ErrCorrupt)
	}
	if b[0] == 0 {
		return b[1:], nil
	}
	out, err := dec.DecodeAll(b[1:], nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return out, nil
}
