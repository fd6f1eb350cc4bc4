package repo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/bits"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"unsafe"
)

// A segment is a sorted, immutable part of the index: in memory, or a file of
// the index cache mapped into memory, byte for byte the same. All of it is pages of
// pageBytes, each ending in the CRC-32C of the rest, checked the first time that
// this process looks at the page: a damaged cache is noticed before it can
// say that a chunk is stored which is not.
//
//	page 0    header: magic[8], repository ID[16], u64 entries, u64 blocks, u64 packs, u64 objects
//	pages     entries, by ascending chunk ID: ID[16], u32 pack, u32 block, u32 offset, u32 size
//	pages     keys: of each page of entries, the first 8 bytes of its first ID
//	pages     blocks: u32 offset, u32 stored | compressed<<31, u32 raw | session<<31, nonce[24]
//	pages     packs, by ascending ID: ID[16], u64 size
//	pages     objects: the ID of each index object that the segment was made from
//
// 32 bytes a chunk, 36 a block, 24 a pack. Numbers are little-endian. A look-up
// reads a few neighbouring keys, one page of entries, and, to say where the chunk
// is, one page of blocks. Nothing of this is in the heap: there are only a bit
// for each page and three for each pack.
type segment struct {
	data    []byte
	entries table
	keys    table
	blocks  table
	packs   table
	// covers lists the index objects that the segment was made from.
	covers []ID

	// Of each pack, by its number in this segment. there: listed with the size
	// that the index gives, or committed by this process. fresh: there, and not
	// condemned. Both are set before look-ups begin.
	there, fresh bitmap
	// relied: this process stored it, or left a chunk out that is in it.
	relied []atomic.Uint64

	// checked has a bit for each page whose checksum was found right.
	checked []atomic.Uint64
	// file is the name in the cache, "" for a segment in memory.
	file  string
	close func() error
}

const (
	segmentMagic = "BHSEG3\n\x00"
	pageBytes    = 4096
	pageBody     = pageBytes - 4
	entryBytes   = 32
	keyBytes     = 8
	blockBytes   = 36
	packBytes    = 24
	objectBytes  = 16

	entriesPerPage = pageBody / entryBytes
	keysPerPage    = pageBody / keyBytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errBadSegment = errors.New("damaged index cache")

type bitmap []uint64

func newBitmap(n int) bitmap { return make(bitmap, (n+63)/64) }

func (b bitmap) get(i int) bool { return b[i/64]>>(i%64)&1 != 0 }
func (b bitmap) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitmap) unset(i int)    { b[i/64] &^= 1 << (i % 64) }

// A table is a run of pages of records of one size.
type table struct {
	page    int // the first one
	size    int // bytes of a record
	n       int // records
	perPage int
}

func (t table) pages() int { return (t.n + t.perPage - 1) / t.perPage }

// A layout says how many records of each kind a segment has.
type layout struct {
	entries, blocks, packs, objects int
}

// tables returns where the records are, and the number of pages.
func (l layout) tables() (entries, keys, blocks, packs, objects table, pages int) {
	pages = 1
	next := func(size, n int) table {
		t := table{pages, size, n, pageBody / size}
		pages += t.pages()
		return t
	}
	entries = next(entryBytes, l.entries)
	keys = next(keyBytes, entries.pages())
	blocks = next(blockBytes, l.blocks)
	packs = next(packBytes, l.packs)
	objects = next(objectBytes, l.objects)
	return entries, keys, blocks, packs, objects, pages
}

// openSegment checks the header of data, and reads which index objects it covers.
func openSegment(data []byte, repoID ID) (s *segment, err error) {
	s = &segment{data: data, close: func() error { return nil }}
	if len(data) < pageBytes || len(data)%pageBytes != 0 {
		return nil, errBadSegment
	}
	defer guard(s, debug.SetPanicOnFault(true), &err)
	s.checked = make([]atomic.Uint64, (len(data)/pageBytes+63)/64)
	head, err := s.pageAt(0)
	if err != nil || string(head[:8]) != segmentMagic || ID(head[8:24]) != repoID {
		return nil, errBadSegment
	}
	var n [4]int
	for i := range n {
		v := binary.LittleEndian.Uint64(head[24+8*i:])
		if v > uint64(len(data)) {
			return nil, errBadSegment
		}
		n[i] = int(v)
	}
	var objects table
	var pages int
	s.entries, s.keys, s.blocks, s.packs, objects, pages = layout{n[0], n[1], n[2], n[3]}.tables()
	if pages*pageBytes != len(data) {
		return nil, errBadSegment
	}
	s.there, s.fresh = newBitmap(s.packs.n), newBitmap(s.packs.n)
	s.relied = make([]atomic.Uint64, len(s.there))
	s.covers = make([]ID, objects.n)
	for i := range s.covers {
		o, err := s.record(objects, i)
		if err != nil {
			return nil, err
		}
		s.covers[i] = ID(o)
	}
	return s, nil
}

// guard turns a fault of reading a mapped file, as when another process has
// truncated it or the disk does not read, into errBadSegment. It is deferred, with
// the old setting of SetPanicOnFault; that of this goroutine is true meanwhile.
func guard(s *segment, old bool, err *error) {
	debug.SetPanicOnFault(old)
	if r := recover(); r != nil {
		fault, ok := r.(interface{ Addr() uintptr })
		if !ok || !s.holds(fault.Addr()) {
			panic(r)
		}
		*err = errBadSegment
	}
}

func (s *segment) holds(addr uintptr) bool {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(s.data)))
	return addr >= start && addr-start < uintptr(len(s.data))
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
	p, err := s.pageAt(t.page + i/t.perPage)
	if err != nil {
		return nil, err
	}
	o := i % t.perPage * t.size
	return p[o : o+t.size], nil
}

// lowerBound returns the number of records, of n in ascending order, that are
// below what is looked for. compare tells of record i its key, the first 8 bytes
// of an ID, and whether it is below.
//
// IDs are uniform, so it starts at the place where the record would be if they
// were evenly spread, then at that place corrected by how far off the key there
// is, which is a record or two away from the right one. From there it goes in
// steps that double, so that it ends soon whatever the IDs are.
func lowerBound(n int, key uint64, compare func(i int) (key uint64, below bool, err error)) (int, error) {
	lo, hi := 0, n // record lo-1 is below, record hi is not
	guess, _ := bits.Mul64(key, uint64(n))
	at := int(guess)
	for round := 0; lo < hi; round++ {
		if round > 1 && (at < lo || at >= hi) {
			at = lo + (hi-lo)/2
		}
		at = min(max(at, lo), hi-1)
		k, below, err := compare(at)
		if err != nil {
			return 0, err
		}
		if below {
			lo = at + 1
		} else {
			hi = at
		}
		switch {
		case round == 0:
			at += int(float64(int64(key-k)) / (1 << 64) * float64(n))
		case below:
			at += 1 << min(round-1, 30)
		default:
			at -= 1 << min(round-1, 30)
		}
	}
	return lo, nil
}

// search returns the number of the first entry that is not below id.
func (s *segment) search(id *ID) (int, error) {
	key := binary.BigEndian.Uint64(id[:])
	first := uint64(0) // the key of the last page whose first entry is below id
	pages, err := lowerBound(s.keys.n, key, func(i int) (uint64, bool, error) {
		p, err := s.pageAt(s.keys.page + i/keysPerPage)
		if err != nil {
			return 0, false, err
		}
		k := binary.BigEndian.Uint64(p[i%keysPerPage*keyBytes:])
		below := k < key
		if k == key {
			e, err := s.pageAt(s.entries.page + i)
			if err != nil {
				return 0, false, err
			}
			below = bytes.Compare(e[:16], id[:]) < 0
		}
		if below {
			first = k
		}
		return k, below, nil
	})
	if err != nil || pages == 0 {
		return 0, err
	}
	page := pages - 1 // its first entry is below id, that of the next one is not
	p, err := s.pageAt(s.entries.page + page)
	if err != nil {
		return 0, err
	}
	n := min(entriesPerPage, s.entries.n-page*entriesPerPage)
	below := func(i int) bool {
		e := p[i*entryBytes:][:16]
		k := binary.BigEndian.Uint64(e)
		return k < key || k == key && bytes.Compare(e, id[:]) < 0
	}
	// Again where it would be if they were evenly spread; the right one is next to
	// it, mostly in the same two lines of the processor's cache.
	guess, _ := bits.Mul64(key-first, uint64(s.entries.n))
	i := int(min(guess, uint64(n-1)))
	for i < n && below(i) {
		i++
	}
	for i > 0 && !below(i-1) {
		i--
	}
	return page*entriesPerPage + i, nil
}

// find looks for a chunk in a pack that is usable, and marks that pack as
// relied upon where rely is set. Blocks in bad are passed over.
func (s *segment) find(id *ID, rely bool, bad map[place]struct{}, loc *Location) (found bool, err error) {
	defer guard(s, debug.SetPanicOnFault(true), &err)
	usable := s.there
	if rely {
		usable = s.fresh
	}
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
		pack := int(binary.LittleEndian.Uint32(e[16:]))
		if pack >= s.packs.n {
			return false, errBadSegment
		}
		if !usable.get(pack) {
			continue
		}
		if bad != nil || loc != nil {
			var l Location
			if err := s.locate(e, &l); err != nil {
				return false, err
			}
			if _, damaged := bad[place{l.Block.Pack, l.Block.Offset}]; damaged {
				continue
			}
			if loc != nil {
				*loc = l
			}
		}
		if rely {
			s.rely(pack)
		}
		return true, nil
	}
	return false, nil
}

// locate reads what an entry refers to.
func (s *segment) locate(e []byte, loc *Location) error {
	pack, _, err := s.packAt(int(binary.LittleEndian.Uint32(e[16:])))
	if err != nil {
		return err
	}
	b, err := s.record(s.blocks, int(binary.LittleEndian.Uint32(e[20:])))
	if err != nil {
		return err
	}
	stored, raw := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])
	*loc = Location{
		Block: Block{
			Pack:       pack,
			Offset:     binary.LittleEndian.Uint32(b),
			Stored:     stored &^ (1 << 31),
			Raw:        raw &^ (1 << 31),
			Nonce:      [nonceBytes]byte(b[12:36]),
			Compressed: stored>>31 != 0,
			Session:    raw>>31 != 0,
		},
		Offset: binary.LittleEndian.Uint32(e[24:]),
		Size:   binary.LittleEndian.Uint32(e[28:]),
	}
	return nil
}

// rely marks a pack as relied upon.
func (s *segment) rely(pack int) {
	word, bit := &s.relied[pack/64], uint64(1)<<(pack%64)
	if word.Load()&bit == 0 { // most of the time it is set: do not write
		word.Or(bit)
	}
}

func (s *segment) reliesOn(pack int) bool { return s.relied[pack/64].Load()>>(pack%64)&1 != 0 }

// packAt returns the ID and size of a pack of the segment.
func (s *segment) packAt(i int) (ID, int64, error) {
	p, err := s.record(s.packs, i)
	if err != nil {
		return ID{}, 0, err
	}
	return ID(p[:16]), int64(binary.LittleEndian.Uint64(p[16:])), nil
}

// guardedPackAt is packAt for who is not inside a guard.
func (s *segment) guardedPackAt(i int) (id ID, size int64, err error) {
	defer guard(s, debug.SetPanicOnFault(true), &err)
	return s.packAt(i)
}

// eachPack calls fn with the number, ID and size of each record of a pack: of all,
// or of those that have the ID. A pack of which several index objects had the
// table has several records.
func (s *segment) eachPack(id *ID, fn func(i int, id ID, size int64)) (err error) {
	defer guard(s, debug.SetPanicOnFault(true), &err)
	if id != nil {
		return s.packsOf(id, func(i int, size int64) { fn(i, *id, size) })
	}
	for i := range s.packs.n {
		p, size, err := s.packAt(i)
		if err != nil {
			return err
		}
		fn(i, p, size)
	}
	return nil
}

// eachListed calls fn with the number and size of each record of the packs of a list, and
// with the place of the pack in that list.
func (s *segment) eachListed(list []listedObject, fn func(j, i int, size int64)) (err error) {
	defer guard(s, debug.SetPanicOnFault(true), &err)
	for j := range list {
		if err := s.packsOf(&list[j].id, func(i int, size int64) { fn(j, i, size) }); err != nil {
			return err
		}
	}
	return nil
}

// packsOf calls fn with the number and size of each record of a pack. It needs guard.
func (s *segment) packsOf(id *ID, fn func(i int, size int64)) error {
	key := binary.BigEndian.Uint64(id[:])
	i, err := lowerBound(s.packs.n, key, func(i int) (uint64, bool, error) {
		p, err := s.record(s.packs, i)
		if err != nil {
			return 0, false, err
		}
		k := binary.BigEndian.Uint64(p)
		return k, k < key || k == key && bytes.Compare(p[8:16], id[8:]) < 0, nil
	})
	for ; err == nil && i < s.packs.n; i++ {
		var p ID
		var size int64
		if p, size, err = s.packAt(i); err != nil || p != *id {
			break
		}
		fn(i, size)
	}
	return err
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

// A segmentWriter writes the records of a segment in their order: entries, then
// endEntries, blocks, endTable, packs, endTable, objects, endTable. Its
// memory is 8 bytes for each page of entries.
type segmentWriter struct {
	pageWriter
	entries int
	keys    []byte
}

func newSegmentWriter(w io.Writer, repoID ID, l layout) *segmentWriter {
	s := &segmentWriter{pageWriter: pageWriter{w: w}}
	h := s.record(56)
	copy(h, segmentMagic)
	copy(h[8:], repoID[:])
	for i, n := range []int{l.entries, l.blocks, l.packs, l.objects} {
		binary.LittleEndian.PutUint64(h[24+8*i:], uint64(n))
	}
	s.flush()
	s.keys = make([]byte, 0, (l.entries+entriesPerPage-1)/entriesPerPage*keyBytes)
	return s
}

func (w *segmentWriter) entry(id []byte, pack, block, offset, size uint32) {
	if w.entries%entriesPerPage == 0 {
		w.keys = append(w.keys, id[:keyBytes]...)
	}
	w.entries++
	r := w.record(entryBytes)
	copy(r, id[:16])
	binary.LittleEndian.PutUint32(r[16:], pack)
	binary.LittleEndian.PutUint32(r[20:], block)
	binary.LittleEndian.PutUint32(r[24:], offset)
	binary.LittleEndian.PutUint32(r[28:], size)
}

func (w *segmentWriter) endEntries() {
	w.flush()
	for k := range slices.Chunk(w.keys, keyBytes) {
		copy(w.record(keyBytes), k)
	}
	w.flush()
}

func (w *segmentWriter) endTable() { w.flush() }

func (w *segmentWriter) block(offset uint32, b *blockRef, session bool) {
	r := w.record(blockBytes)
	binary.LittleEndian.PutUint32(r, offset)
	stored := b.stored
	if b.compressed {
		stored |= 1 << 31
	}
	binary.LittleEndian.PutUint32(r[4:], stored)
	raw := b.raw
	if session {
		raw |= 1 << 31
	}
	binary.LittleEndian.PutUint32(r[8:], raw)
	copy(r[12:], b.nonce[:])
}

func (w *segmentWriter) pack(id ID, size int64) {
	r := w.record(packBytes)
	copy(r, id[:])
	binary.LittleEndian.PutUint64(r[16:], uint64(size))
}

// objects writes the IDs of the index objects, in their order, which readers are fast
// with and do not rely on. It sorts them.
func (w *segmentWriter) objects(ids []ID) {
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	for i := range ids {
		copy(w.record(objectBytes), ids[i][:])
	}
	w.flush()
}

// writeSegment writes a segment of packs' tables, which it sorts.
func writeSegment(w io.Writer, repoID ID, packs []packTable, covers []ID) error {
	slices.SortFunc(packs, func(a, b packTable) int { return bytes.Compare(a.id[:], b.id[:]) })
	l := tableLayout(packs, covers)
	type row struct {
		id                        ID
		pack, block, offset, size uint32
	}
	rows := make([]row, 0, l.entries)
	number := uint32(0)
	for i := range packs {
		for j := range packs[i].blocks {
			at := uint32(0)
			for _, c := range packs[i].blocks[j].chunks {
				rows = append(rows, row{c.id, uint32(i), number, at, c.size})
				at += c.size
			}
			number++
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return bytes.Compare(a.id[:], b.id[:]) })
	sw := newSegmentWriter(w, repoID, l)
	for i := range rows {
		r := &rows[i]
		sw.entry(r.id[:], r.pack, r.block, r.offset, r.size)
	}
	sw.endEntries()
	for i := range packs {
		offset := uint32(len(packMagic))
		for j := range packs[i].blocks {
			b := &packs[i].blocks[j]
			sw.block(offset, b, packs[i].key != dataKey)
			offset += b.stored
		}
	}
	sw.endTable()
	for i := range packs {
		sw.pack(packs[i].id, packs[i].size)
	}
	sw.endTable()
	sw.objects(covers)
	return sw.err
}

func tableLayout(packs []packTable, covers []ID) layout {
	l := layout{packs: len(packs), objects: len(covers)}
	for i := range packs {
		l.blocks += len(packs[i].blocks)
		for j := range packs[i].blocks {
			l.entries += len(packs[i].blocks[j].chunks)
		}
	}
	return l
}

// segmentOf builds a segment in memory from packs' tables, which it sorts.
func segmentOf(repoID ID, packs []packTable, covers []ID) (*segment, error) {
	_, _, _, _, _, pages := tableLayout(packs, covers).tables()
	buf := make(sizedBuffer, 0, pages*pageBytes)
	if err := writeSegment(&buf, repoID, packs, covers); err != nil {
		return nil, err
	}
	return openSegment(buf, repoID)
}

type sizedBuffer []byte

func (b *sizedBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

// mergedLayout is that of a segment with the records of all of segs.
func mergedLayout(segs []*segment) (l layout) {
	for _, s := range segs {
		l.entries += s.entries.n
		l.blocks += s.blocks.n
		l.packs += s.packs.n
		l.objects += len(s.covers)
	}
	return l
}

// mergeSegments writes one segment with the records of all of them. numbers has,
// for each of them, the new numbers of its packs. Memory use is 4 bytes a pack,
// and 8 for each page of entries.
func mergeSegments(w io.Writer, repoID ID, segs []*segment) (numbers [][]uint32, err error) {
	l := mergedLayout(segs)
	if l.blocks > math.MaxUint32 {
		return nil, fmt.Errorf("merge index: %d blocks", l.blocks)
	}
	numbers = make([][]uint32, len(segs))
	blockBase := make([]uint32, len(segs))
	blocks := 0
	for i, s := range segs {
		numbers[i] = make([]uint32, s.packs.n)
		blockBase[i] = uint32(blocks)
		blocks += s.blocks.n
	}
	packs := func(s *segment) table { return s.packs }
	next := uint32(0)
	err = mergeTables(segs, packs, func(seg, i int, _ []byte) error {
		numbers[seg][i] = next
		next++
		return nil
	})
	if err != nil {
		return nil, err
	}
	sw := newSegmentWriter(w, repoID, l)
	err = mergeTables(segs, func(s *segment) table { return s.entries }, func(seg, _ int, e []byte) error {
		pack := binary.LittleEndian.Uint32(e[16:])
		if int(pack) >= len(numbers[seg]) {
			return errBadSegment
		}
		sw.entry(e, numbers[seg][pack], binary.LittleEndian.Uint32(e[20:])+blockBase[seg],
			binary.LittleEndian.Uint32(e[24:]), binary.LittleEndian.Uint32(e[28:]))
		return sw.err
	})
	if err != nil {
		return nil, err
	}
	sw.endEntries()
	for _, s := range segs {
		err := s.eachRecord(s.blocks, func(b []byte) { copy(sw.record(blockBytes), b) })
		if err != nil {
			return nil, err
		}
	}
	sw.endTable()
	err = mergeTables(segs, packs, func(_, _ int, p []byte) error {
		copy(sw.record(packBytes), p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	sw.endTable()
	var covers []ID
	for _, s := range segs {
		covers = append(covers, s.covers...)
	}
	sw.objects(covers)
	return numbers, sw.err
}

func (s *segment) eachRecord(t table, fn func(r []byte)) (err error) {
	defer guard(s, debug.SetPanicOnFault(true), &err)
	for i := range t.n {
		r, err := s.record(t, i)
		if err != nil {
			return err
		}
		fn(r)
	}
	return nil
}

// A cursor is how far a table has been merged.
type cursor struct {
	s      *segment
	t      table
	seg    int
	next   int
	key    uint64 // of record, its first 8 bytes
	record []byte // a copy
}

// advance takes the next record; it returns false behind the last.
func (c *cursor) advance() (ok bool, err error) {
	if c.next == c.t.n {
		return false, nil
	}
	defer guard(c.s, debug.SetPanicOnFault(true), &err)
	r, err := c.s.record(c.t, c.next)
	if err != nil {
		return false, err
	}
	c.next++
	c.record = append(c.record[:0], r...)
	c.key = binary.BigEndian.Uint64(r)
	return true, nil
}

func (c *cursor) below(d *cursor) bool {
	if c.key != d.key {
		return c.key < d.key
	}
	if cmp := bytes.Compare(c.record[:16], d.record[:16]); cmp != 0 {
		return cmp < 0
	}
	return c.seg < d.seg
}

// mergeTables calls fn for the records of one table of all segments in the
// ascending order of the IDs that they begin with: with the segment's and the
// record's number.
func mergeTables(segs []*segment, of func(*segment) table, fn func(seg, i int, record []byte) error) error {
	heap := make([]*cursor, 0, len(segs)) // none is below the one at half its place
	sink := func(i int) {
		for {
			least := i
			for c := 2*i + 1; c <= 2*i+2 && c < len(heap); c++ {
				if heap[c].below(heap[least]) {
					least = c
				}
			}
			if least == i {
				return
			}
			heap[i], heap[least] = heap[least], heap[i]
			i = least
		}
	}
	for i, s := range segs {
		c := &cursor{s: s, t: of(s), seg: i}
		ok, err := c.advance()
		if err != nil {
			return err
		}
		if ok {
			heap = append(heap, c)
		}
	}
	for i := len(heap)/2 - 1; i >= 0; i-- {
		sink(i)
	}
	for len(heap) > 0 {
		c := heap[0]
		if err := fn(c.seg, c.next-1, c.record); err != nil {
			return err
		}
		ok, err := c.advance()
		if err != nil {
			return err
		}
		if !ok {
			heap[0] = heap[len(heap)-1]
			heap = heap[:len(heap)-1]
		}
		sink(0)
	}
	return nil
}
