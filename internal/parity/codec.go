// Package parity makes repair data for immutable objects, and rebuilds from it what is
// damaged of them: docs/format.md §13.
//
// It works on bytes as they are stored and knows neither keys nor what they mean. What
// it rebuilds is as good as a CRC; whoever uses it authenticates it as if it had been
// read.
//
// codec.go: the code, for one object in memory. store.go: a storage.Backend that keeps
// repair data beside its objects, and one that gives back objects mended.
package parity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/klauspost/reedsolomon"
)

const (
	magic     = "BHPARI1\n"
	headBytes = 48
	cellBytes = 4096 // a sector, or a page of flash: what is lost is lost by those
	// manyRows is how many rows an Encoder sums up before it knows the size: those of
	// the largest pack, with many divisors to fold to. Its prime factors are those that
	// columns avoids.
	manyRows = 72
	maxRows  = 4096
	// MaxPercent bounds what NewEncoder takes.
	MaxPercent = 100
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Errors of mending.
var (
	// ErrNone says that an object has no repair data, or none that is usable.
	ErrNone = errors.New("no repair data")
	// ErrTooMuch says that more is damaged than its repair data covers.
	ErrTooMuch = errors.New("more is damaged than the repair data covers")
)

// A shape is how an object is cut.
type shape struct {
	size          int64 // of the object, in bytes
	q, m, rows    int   // columns, parity cells of a row, rows
	nameHash      [16]byte
	cells, parity int // derived
}

func (s *shape) derive() {
	s.cells = int((s.size + cellBytes - 1) / cellBytes)
	s.parity = s.rows * s.m
}

// total is the size of the parity object.
func (s *shape) total() int64 {
	return 2*headBytes + 2*s.sumBytes() + int64(s.parity)*cellBytes
}

func (s *shape) sumBytes() int64 { return 4 * int64(s.cells+s.parity+1) }

// columns returns q for a share of parity: docs/format.md §13.
func columns(percent int) int {
	q := 256 * 100 / (100 + percent)
	for q%2 == 0 || q%3 == 0 {
		q--
	}
	return q
}

func parityOf(percent, k int) int { return (percent*k + 99) / 100 }

// An Encoder sums up the parity of an object while it streams by. It takes up to
// 72 × ⌈percent × q / 100⌉ cells of memory, 3.7 MiB for 5 %, and less for small objects.
type Encoder struct {
	percent int
	q, m    int
	rs      reedsolomon.Encoder
	rows    [][][]byte // row → its parity cells; nil: none of its cells yet
	cell    []byte     // the current one, as far as it goes
	cells   int
	size    int64
	sums    []byte
	over    bool // too large
}

// NewEncoder returns an encoder that makes percent of parity, 1 to MaxPercent.
func NewEncoder(percent int) (*Encoder, error) {
	if percent < 1 || percent > MaxPercent {
		return nil, fmt.Errorf("parity of %d%%: want 1 to %d", percent, MaxPercent)
	}
	e := &Encoder{percent: percent, q: columns(percent), rows: make([][][]byte, manyRows), cell: make([]byte, 0, cellBytes)}
	e.m = parityOf(percent, e.q)
	var err error
	e.rs, err = newCode(e.q, e.m)
	return e, err
}

func newCode(q, m int) (reedsolomon.Encoder, error) {
	return reedsolomon.New(q, m, reedsolomon.WithCauchyMatrix(), reedsolomon.WithMaxGoroutines(1), reedsolomon.WithInversionCache(false))
}

// Write takes the next bytes of the object. It does not fail.
func (e *Encoder) Write(p []byte) (int, error) {
	n := len(p)
	e.size += int64(n)
	for len(p) > 0 {
		if len(e.cell) == 0 && len(p) >= cellBytes {
			e.add(p[:cellBytes])
			p = p[cellBytes:]
			continue
		}
		k := min(cellBytes-len(e.cell), len(p))
		e.cell = append(e.cell, p[:k]...)
		p = p[k:]
		if len(e.cell) == cellBytes {
			e.add(e.cell)
			e.cell = e.cell[:0]
		}
	}
	return n, nil
}

func (e *Encoder) add(cell []byte) {
	if e.over = e.over || e.cells >= manyRows*e.q; e.over {
		return
	}
	row := e.cells % manyRows
	if e.rows[row] == nil {
		e.rows[row] = newCells(e.m)
	}
	if err := e.rs.EncodeIdx(cell, e.cells%e.q, e.rows[row]); err != nil {
		panic(err) // the sizes are ours
	}
	e.sums = binary.LittleEndian.AppendUint32(e.sums, crc32.Checksum(cell, castagnoli))
	e.cells++
}

func newCells(n int) [][]byte {
	slab := make([]byte, n*cellBytes)
	cells := make([][]byte, n)
	for i := range cells {
		cells[i] = slab[i*cellBytes : (i+1)*cellBytes : (i+1)*cellBytes]
	}
	return cells
}

// Finish returns the repair data of the object, whose name is given; nil if the object
// is empty or too large for the code (35 MiB at 100 %, 67 MiB at 5 %). The Encoder is
// used up.
func (e *Encoder) Finish(name string) []byte {
	if len(e.cell) > 0 {
		e.add(append(e.cell, make([]byte, cellBytes-len(e.cell))...))
	}
	if e.over || e.cells == 0 {
		return nil
	}
	s := shape{size: e.size, q: e.q, rows: 1, nameHash: hashName(name)}
	for manyRows%s.rows != 0 || e.cells > s.rows*e.q {
		s.rows++
	}
	k := (e.cells + s.rows - 1) / s.rows
	s.m = min(max(parityOf(e.percent, k), min(k, 2)), e.m)
	s.derive()
	for row := s.rows; row < manyRows; row++ {
		into := e.rows[row%s.rows]
		for j := range e.rows[row] {
			xor(into[j], e.rows[row][j])
		}
		e.rows[row] = nil
	}
	for j := range s.m {
		for row := range s.rows {
			e.sums = binary.LittleEndian.AppendUint32(e.sums, crc32.Checksum(e.rows[row][j], castagnoli))
		}
	}
	sums := binary.LittleEndian.AppendUint32(e.sums, crc32.Checksum(e.sums, castagnoli))
	head := s.encode()
	out := make([]byte, 0, s.total())
	out = append(append(out, head...), sums...)
	for j := range s.m {
		for row := range s.rows {
			out = append(out, e.rows[row][j]...)
		}
	}
	return append(append(out, sums...), head...)
}

func xor(into, from []byte) {
	for i := range into {
		into[i] ^= from[i]
	}
}

func hashName(name string) [16]byte {
	sum := sha256.Sum256([]byte(name))
	return [16]byte(sum[:16])
}

func (s *shape) encode() []byte {
	b := make([]byte, 0, headBytes)
	b = append(b, magic...)
	b = append(b, s.nameHash[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.size))
	b = binary.LittleEndian.AppendUint16(b, uint16(s.q))
	b = binary.LittleEndian.AppendUint16(b, uint16(s.m))
	b = binary.LittleEndian.AppendUint16(b, uint16(s.rows))
	b = append(b, 0, 0, 0, 0, 0, 0)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeShape(b []byte) (s shape, ok bool) {
	if len(b) != headBytes || string(b[:8]) != magic || binary.LittleEndian.Uint32(b[44:]) != crc32.Checksum(b[:44], castagnoli) {
		return shape{}, false
	}
	size := binary.LittleEndian.Uint64(b[24:])
	s = shape{
		size: int64(size), q: int(binary.LittleEndian.Uint16(b[32:])), m: int(binary.LittleEndian.Uint16(b[34:])),
		rows: int(binary.LittleEndian.Uint16(b[36:])), nameHash: [16]byte(b[8:24]),
	}
	if s.q < 1 || s.m < 1 || s.q+s.m > 256 || s.rows < 1 || s.rows > maxRows || gcd(s.rows, s.q) != 1 ||
		size == 0 || size > uint64(s.rows)*uint64(s.q)*cellBytes || !bytes.Equal(b[38:44], make([]byte, 6)) {
		return shape{}, false
	}
	s.derive()
	return s, true
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Data is the repair data of one object.
type Data struct {
	shape
	sums []byte // of all cells
	raw  []byte // parity cells
}

// Decode reads a parity object, and keeps raw. Damage is ErrNone, as long as neither of
// its two heads and lists of sums is whole.
func Decode(name string, raw []byte) (*Data, error) {
	n := int64(len(raw))
	if n < 2*headBytes {
		return nil, ErrNone
	}
	for _, b := range [][]byte{raw[:headBytes], raw[n-headBytes:]} {
		s, ok := decodeShape(b)
		if !ok || s.total() != n || s.nameHash != hashName(name) {
			continue
		}
		sums := s.sumBytes()
		for _, at := range []int64{headBytes, n - headBytes - sums} {
			list := raw[at : at+sums]
			if binary.LittleEndian.Uint32(list[sums-4:]) == crc32.Checksum(list[:sums-4], castagnoli) {
				return &Data{s, list[:sums-4], raw[headBytes+sums : n-headBytes-sums]}, nil
			}
		}
	}
	return nil, ErrNone
}

// Size is that of the object, in bytes.
func (d *Data) Size() int64 { return d.size }

// Damaged counts the parity cells that are damaged.
func (d *Data) Damaged() (n int) {
	for i := range d.parity {
		if crc32.Checksum(d.raw[i*cellBytes:(i+1)*cellBytes], castagnoli) != d.sum(d.cells+i) {
			n++
		}
	}
	return n
}

func (d *Data) sum(i int) uint32 { return binary.LittleEndian.Uint32(d.sums[4*i:]) }

// Mend compares an object, or what is left of it, with its sums, and rebuilds what is
// damaged. The error is ErrTooMuch if that cannot be done.
func (d *Data) Mend(object []byte) (*Patch, error) {
	p := &Patch{Size: d.size, cells: make(map[int64][]byte)}
	zero := make([]byte, cellBytes)
	at := func(i int) (cell []byte, ok bool) {
		from, to := int64(i)*cellBytes, min(int64(i+1)*cellBytes, d.size)
		if int64(len(object)) < to {
			return nil, false
		}
		cell = object[from:to]
		if len(cell) < cellBytes {
			cell = append(append(make([]byte, 0, cellBytes), cell...), zero[len(cell):]...)
		}
		return cell, crc32.Checksum(cell, castagnoli) == d.sum(i)
	}
	bad := make(map[int]int) // row → damaged cells
	for i := range d.cells {
		if _, ok := at(i); !ok {
			bad[i%d.rows]++
			p.Damaged++
		}
	}
	if len(bad) == 0 {
		return p, nil
	}
	rs, err := newCode(d.q, d.m)
	if err != nil {
		return nil, err
	}
	shards := make([][]byte, d.q+d.m)
	for row, n := range bad {
		for c := range shards {
			shards[c] = zero
		}
		for i := row; i < d.cells; i += d.rows {
			cell, ok := at(i)
			if !ok {
				cell = nil
			}
			shards[i%d.q] = cell
		}
		for j := range d.m {
			i := j*d.rows + row
			cell := d.raw[i*cellBytes : (i+1)*cellBytes]
			if crc32.Checksum(cell, castagnoli) != d.sum(d.cells+i) {
				cell = nil
				n++
			}
			shards[d.q+j] = cell
		}
		if n > d.m {
			return nil, fmt.Errorf("%w: %d of %d cells in a row that can lose %d", ErrTooMuch, n, min(d.q, (d.cells+d.rows-1)/d.rows)+d.m, d.m)
		}
		if err := rs.ReconstructData(shards); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTooMuch, err)
		}
		for i := row; i < d.cells; i += d.rows {
			if _, ok := at(i); ok {
				continue
			}
			cell := shards[i%d.q]
			if crc32.Checksum(cell, castagnoli) != d.sum(i) {
				return nil, fmt.Errorf("%w: what was rebuilt has another sum", ErrTooMuch)
			}
			p.cells[int64(i)] = cell[:min(cellBytes, d.size-int64(i)*cellBytes)]
		}
	}
	return p, nil
}

// A Patch is what has to be changed in a damaged object.
type Patch struct {
	Size    int64 // of the object as it was
	Damaged int   // cells of 4 KiB that were damaged or gone
	cells   map[int64][]byte
}

// bytes is how much memory the patch takes.
func (p *Patch) bytes() int64 { return int64(len(p.cells)) * cellBytes }

// Apply puts into buf, which has been read from offset off of the object, or should
// have been, what was damaged.
func (p *Patch) Apply(buf []byte, off int64) {
	if len(p.cells) == 0 || len(buf) == 0 {
		return
	}
	for i := off / cellBytes; i <= (off+int64(len(buf))-1)/cellBytes; i++ {
		cell, ok := p.cells[i]
		if !ok {
			continue
		}
		from := i * cellBytes
		if from < off {
			cell = cell[min(off-from, int64(len(cell))):]
			from = off
		}
		copy(buf[from-off:], cell)
	}
}

// span returns the offset and length of the range that Get means in an object of the
// patch's size, as storage.Backend defines it.
func (p *Patch) span(off, length int64) (int64, int64) {
	if off < 0 {
		off = max(0, p.Size+off)
	}
	off = min(off, p.Size)
	if length < 0 {
		length = math.MaxInt64
	}
	return off, min(length, p.Size-off)
}
