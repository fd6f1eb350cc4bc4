package repo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"slices"
	"sync/atomic"
)

// A segment is a sorted, immutable part of the index: in memory, or a file of
// the index cache mapped into memory, byte for byte the same. All of it is pages of
// pageBytes, each ending in the CRC-32C of the rest, checked the first time that
// this process looks at the page: a damaged cache is noticed before it can
// say that a chunk is stored which is not.
//
//	page 0    header: magic[8], repository ID[16], u64 entries, u64 blocks, u64 packs
//	pages     entries, by ascending chunk ID: ID[16], u32 block, u32 offset, u32 size
//	pages     blocks: u32 pack, u32 offset, u32 stored | compressed<<31, u32 raw, nonce[24]
//	pages     packs: ID[16], u64 size
//
// 28 bytes a chunk, 40 a block, 24 a pack.
type segment struct {
	data    []byte
	entries table
	blocks  table
	packs   table
	// infos holds the state of each pack, by its number in this segment.
	infos []*packInfo
	// covers lists the index objects that the segment was made from.
	covers []ID
	// checked has a bit for each page whose checksum was found right.
	checked []atomic.Uint64
	// file is the name in the cache, "" for a segment in memory.
	file  string
	close func() error
}

const (
	segmentMagic = "BHSEG1\n\x00"
	pageBytes    = 4096
	pageBody     = pageBytes - 4
	entryBytes   = 28
	blockBytes   = 40
	packBytes    = 24
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errBadSegment = errors.New("damaged index cache")

// A table is a run of pages of records of one size.
type table struct {
	page   int // the first one
	size   int // bytes of a record
	n      int // records
	perRow int // records on a page
}

func newTable(page, size, n int) table {
	return table{page, size, n, pageBody / size}
}

func (t table) pages() int { return (t.n + t.perRow - 1) / t.perRow }

// openSegment checks the header of data.
func openSegment(data []byte, repoID ID) (*segment, error) {
	s := &segment{data: data, close: func() error { return nil }}
	if len(data) < pageBytes || len(data)%pageBytes != 0 {
		return nil, errBadSegment
	}
	s.checked = make([]atomic.Uint64, (len(data)/pageBytes+63)/64)
	head, err := s.pageAt(0)
	if err != nil || string(head[:8]) != segmentMagic || ID(head[8:24]) != repoID {
		return nil, errBadSegment
	}
	var n [3]int
	for i := range n {
		v := binary.LittleEndian.Uint64(head[24+8*i:])
		if v > uint64(len(data)) {
			return nil, errBadSegment
		}
		n[i] = int(v)
	}
	s.entries = newTable(1, entryBytes, n[0])
	s.blocks = newTable(s.entries.page+s.entries.pages(), blockBytes, n[1])
	s.packs = newTable(s.blocks.page+s.blocks.pages(), packBytes, n[2])
	if (s.packs.page+s.packs.pages())*pageBytes != len(data) {
		return nil, errBadSegment
	}
	return s, nil
}

func (s *segment) pageAt(i int) ([]byte, error) {
	p := s.data[i*pageBytes : (i+1)*pageBytes : (i+1)*pageBytes]
	word, bit := &s.checked[i/64], uint64(1)<<(i%64)
	if word.Load()&bit == 0 {
		if crc32.Checksum(p[:pageBody], castagnoli) != binary.LittleEndian.Uint32(p[pageBody:]) {
			return nil, errBadSegment
		}
		word.Or(bit)
	}
	return p[:pageBody], nil
}

// record returns record i of t.
func (s *segment) record(t table, i int) ([]byte, error) {
	if i >= t.n {
		return nil, errBadSegment
	}
	p, err := s.pageAt(t.page + i/t.perRow)
	if err != nil {
		return nil, err
	}
	o := i % t.perRow * t.size
	return p[o : o+t.size], nil
}

// search returns the number of the first entry that is not below id.
//
// IDs are uniform, so it guesses the page by interpolation: for 100 million
// entries some three pages are touched, where a binary search touches twenty.
func (s *segment) search(id *ID) (int, error) {
	key := binary.BigEndian.Uint64(id[:8])
	lo, hi := 0, s.entries.pages() // the answer is on a page of [lo, hi), or at the start of page hi
	loKey, hiKey := uint64(0), ^uint64(0)
	for step := 0; lo < hi; step++ {
		mid := lo + (hi-lo)/2
		if step < 8 && hiKey > loKey {
			h, l := bits.Mul64(key-loKey, uint64(hi-lo))
			q := h // the quotient by 2^64, where the span is all there is
			if span := hiKey - loKey + 1; span != 0 {
				q, _ = bits.Div64(h, l, span)
			}
			mid = min(lo+int(q), hi-1)
		}
		p, err := s.pageAt(s.entries.page + mid)
		if err != nil {
			return 0, err
		}
		n := min(s.entries.perRow, s.entries.n-mid*s.entries.perRow)
		first, last := p[:16], p[(n-1)*entryBytes:][:16]
		switch {
		case bytes.Compare(id[:], first) <= 0:
			hi, hiKey = mid, binary.BigEndian.Uint64(first)
		case bytes.Compare(id[:], last) > 0:
			lo, loKey = mid+1, binary.BigEndian.Uint64(last)
		default:
			i, j := 0, n-1 // first < id <= last
			for i < j {
				m := (i + j) / 2
				if bytes.Compare(p[m*entryBytes:][:16], id[:]) < 0 {
					i = m + 1
				} else {
					j = m
				}
			}
			return mid*s.entries.perRow + i, nil
		}
		if hiKey < loKey || key < loKey || key > hiKey {
			loKey, hiKey = 0, 0 // IDs share their first 64 bits: go on by halves
		}
	}
	return min(lo*s.entries.perRow, s.entries.n), nil
}

// find looks for a chunk in a pack that is usable, and marks that pack as
// relied upon where rely is set. Blocks in bad are passed over.
func (s *segment) find(id *ID, rely bool, bad map[place]struct{}, loc *Location) (bool, error) {
	i, err := s.search(id)
	if err != nil {
		return false, err
	}
	for ; i < s.entries.n; i++ {
		e, err := s.record(s.entries, i)
		if err != nil {
			return false, err
		}
		if ID(e[:16]) != *id {
			return false, nil
		}
		b, err := s.record(s.blocks, int(binary.LittleEndian.Uint32(e[16:])))
		if err != nil {
			return false, err
		}
		number := binary.LittleEndian.Uint32(b)
		if int(number) >= len(s.infos) {
			return false, errBadSegment
		}
		info := s.infos[number]
		if !info.usable(rely) {
			continue
		}
		if _, damaged := bad[place{info.id, binary.LittleEndian.Uint32(b[4:])}]; damaged {
			continue
		}
		if rely {
			info.relied.Store(true)
		}
		if loc != nil {
			stored := binary.LittleEndian.Uint32(b[8:])
			*loc = Location{
				Block: Block{
					Pack:       info.id,
					Offset:     binary.LittleEndian.Uint32(b[4:]),
					Stored:     stored &^ (1 << 31),
					Raw:        binary.LittleEndian.Uint32(b[12:]),
					Nonce:      [nonceBytes]byte(b[16:40]),
					Compressed: stored>>31 != 0,
				},
				Offset: binary.LittleEndian.Uint32(e[20:]),
				Size:   binary.LittleEndian.Uint32(e[24:]),
			}
		}
		return true, nil
	}
	return false, nil
}

// packAt returns the ID and size of a pack of the segment.
func (s *segment) packAt(i int) (ID, int64, error) {
	p, err := s.record(s.packs, i)
	if err != nil {
		return ID{}, 0, err
	}
	return ID(p), int64(binary.LittleEndian.Uint64(p[16:])), nil
}

// A pageWriter writes records into checksummed pages.
type pageWriter struct {
	w    io.Writer
	page [pageBytes]byte
	n    int
	err  error
}

func (w *pageWriter) record(size int) []byte {
	if w.n+size > pageBody {
		w.flush()
	}
	w.n += size
	return w.page[w.n-size : w.n]
}

// flush ends the page; the next record begins another one.
func (w *pageWriter) flush() {
	if w.n == 0 {
		return
	}
	clear(w.page[w.n:])
	binary.LittleEndian.PutUint32(w.page[pageBody:], crc32.Checksum(w.page[:pageBody], castagnoli))
	if w.err == nil {
		_, w.err = w.w.Write(w.page[:])
	}
	w.n = 0
}

func (w *pageWriter) header(repoID ID, entries, blocks, packs int) {
	h := w.record(48)
	copy(h, segmentMagic)
	copy(h[8:], repoID[:])
	binary.LittleEndian.PutUint64(h[24:], uint64(entries))
	binary.LittleEndian.PutUint64(h[32:], uint64(blocks))
	binary.LittleEndian.PutUint64(h[40:], uint64(packs))
	w.flush()
}

// segmentOf builds a segment in memory from packs' tables.
func segmentOf(repoID ID, packs []packTable) (*segment, error) {
	entries, blocks := 0, 0
	for i := range packs {
		blocks += len(packs[i].blocks)
		for j := range packs[i].blocks {
			entries += len(packs[i].blocks[j].chunks)
		}
	}
	type row [entryBytes]byte
	rows := make([]row, 0, entries)
	var blockRows bytes.Buffer
	bw := pageWriter{w: &blockRows}
	number := uint32(0)
	for i := range packs {
		offset := uint32(len(packMagic))
		for j := range packs[i].blocks {
			bl := &packs[i].blocks[j]
			b := bw.record(blockBytes)
			binary.LittleEndian.PutUint32(b, uint32(i))
			binary.LittleEndian.PutUint32(b[4:], offset)
			stored := bl.stored
			if bl.compressed {
				stored |= 1 << 31
			}
			binary.LittleEndian.PutUint32(b[8:], stored)
			binary.LittleEndian.PutUint32(b[12:], bl.raw)
			copy(b[16:], bl.nonce[:])
			at := uint32(0)
			for _, c := range bl.chunks {
				var r row
				copy(r[:], c.id[:])
				binary.LittleEndian.PutUint32(r[16:], number)
				binary.LittleEndian.PutUint32(r[20:], at)
				binary.LittleEndian.PutUint32(r[24:], c.size)
				rows = append(rows, r)
				at += c.size
			}
			offset += bl.stored
			number++
		}
	}
	bw.flush()
	slices.SortFunc(rows, func(a, b row) int { return bytes.Compare(a[:16], b[:16]) })
	var out bytes.Buffer
	w := pageWriter{w: &out}
	w.header(repoID, entries, blocks, len(packs))
	for i := range rows {
		copy(w.record(entryBytes), rows[i][:])
	}
	w.flush()
	out.Write(blockRows.Bytes())
	for i := range packs {
		p := w.record(packBytes)
		copy(p, packs[i].id[:])
		binary.LittleEndian.PutUint64(p[16:], uint64(packs[i].size))
	}
	w.flush()
	return openSegment(out.Bytes(), repoID)
}

// mergeSegments writes one segment with the entries of all of them. Memory use
// does not depend on their size.
func mergeSegments(w io.Writer, repoID ID, segs []*segment) error {
	pw := pageWriter{w: w}
	entries, blocks, packs := 0, 0, 0
	blockBase := make([]uint32, len(segs))
	packBase := make([]uint32, len(segs))
	for i, s := range segs {
		blockBase[i], packBase[i] = uint32(blocks), uint32(packs)
		entries, blocks, packs = entries+s.entries.n, blocks+s.blocks.n, packs+s.packs.n
	}
	if uint64(blocks) > 1<<32-1 {
		return fmt.Errorf("merge index: %d blocks", blocks)
	}
	pw.header(repoID, entries, blocks, packs)

	next := make([]int, len(segs))
	heads := make([][]byte, len(segs))
	advance := func(i int) (err error) {
		heads[i] = nil
		if next[i] < segs[i].entries.n {
			heads[i], err = segs[i].record(segs[i].entries, next[i])
			next[i]++
		}
		return err
	}
	for i := range segs {
		if err := advance(i); err != nil {
			return err
		}
	}
	for range entries {
		least := -1 // there are at most maxSegments of them: a scan beats a heap
		for i, h := range heads {
			if h != nil && (least < 0 || bytes.Compare(h[:16], heads[least][:16]) < 0) {
				least = i
			}
		}
		r := pw.record(entryBytes)
		copy(r, heads[least])
		binary.LittleEndian.PutUint32(r[16:], binary.LittleEndian.Uint32(r[16:])+blockBase[least])
		if err := advance(least); err != nil {
			return err
		}
	}
	pw.flush()
	for i, s := range segs {
		for j := range s.blocks.n {
			b, err := s.record(s.blocks, j)
			if err != nil {
				return err
			}
			r := pw.record(blockBytes)
			copy(r, b)
			binary.LittleEndian.PutUint32(r, binary.LittleEndian.Uint32(r)+packBase[i])
		}
	}
	pw.flush()
	for _, s := range segs {
		for j := range s.packs.n {
			p, err := s.record(s.packs, j)
			if err != nil {
				return err
			}
			copy(pw.record(packBytes), p)
		}
	}
	pw.flush()
	return pw.err
}
