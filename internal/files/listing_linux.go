package files

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
)

// A listing holds the names of a directory while they are read and sorted, in few
// pieces: a million names of 20 bytes take 47 MB, and as strings more than twice
// as much.
type listing struct {
	// Records of inode (8 bytes), kind (1), length of the name (2) and name: a page
	// for each system call.
	pages [][]byte
	names []nameAt
}

// nameAt says where a name is. The key is the first eight bytes behind what all
// names begin with: comparing it is enough for most of a sort.
type nameAt struct {
	key          uint64
	page, offset uint32
}

// A dirent is one name of a listing. Kind is what the directory says it is
// (unix.DT_…), which some file systems do not know.
type dirent struct {
	name string
	ino  uint64
	kind uint8
}

const listingHead = 8 + 1 + 2

func (l *listing) len() int { return len(l.names) }

func (l *listing) name(n nameAt) []byte {
	r := l.pages[n.page][n.offset:]
	return r[listingHead : listingHead+int(binary.NativeEndian.Uint16(r[9:]))]
}

// add takes over what getdents64 wrote.
func (l *listing) add(buf []byte) {
	count, size := 0, 0
	eachDirent(buf, func(_ []byte, _ byte, name []byte) {
		count++
		size += listingHead + len(name)
	})
	page := make([]byte, 0, size)
	l.names = slices.Grow(l.names, count)
	eachDirent(buf, func(ino []byte, kind byte, name []byte) {
		l.names = append(l.names, nameAt{page: uint32(len(l.pages)), offset: uint32(len(page))})
		page = append(page, ino...)
		page = append(page, kind)
		page = binary.NativeEndian.AppendUint16(page, uint16(len(name)))
		page = append(page, name...)
	})
	l.pages = append(l.pages, page)
}

// eachDirent decodes what getdents64 wrote: records of inode (8 bytes), offset (8),
// length of the record (2), kind (1) and name, NUL and padding.
func eachDirent(buf []byte, fn func(ino []byte, kind byte, name []byte)) {
	const inoEnd, lengthAt, kindAt, nameBegin = 8, 16, 18, 19
	for len(buf) > nameBegin {
		length := int(binary.NativeEndian.Uint16(buf[lengthAt:]))
		if length <= nameBegin || length > len(buf) {
			break // never, from a kernel
		}
		name, _, _ := bytes.Cut(buf[nameBegin:length], []byte{0})
		if s := string(name); s != "." && s != ".." {
			fn(buf[:inoEnd], buf[kindAt], name)
		}
		buf = buf[length:]
	}
}

// sort sorts by name.
func (l *listing) sort() {
	if len(l.names) < 2 {
		return
	}
	first := l.name(l.names[0])
	common := len(first)
	for _, n := range l.names[1:] {
		name := l.name(n)
		common = min(common, len(name))
		for i := range common {
			if name[i] != first[i] {
				common = i
				break
			}
		}
	}
	for i := range l.names {
		n := &l.names[i]
		var key [8]byte
		copy(key[:], l.name(*n)[common:])
		n.key = binary.BigEndian.Uint64(key[:])
	}
	slices.SortFunc(l.names, func(a, b nameAt) int {
		if c := cmp.Compare(a.key, b.key); c != 0 {
			return c
		}
		return bytes.Compare(l.name(a), l.name(b))
	})
}

// find returns the number of a name in a sorted listing.
func (l *listing) find(name string) (int, bool) {
	return slices.BinarySearchFunc(l.names, name, func(n nameAt, name string) int {
		return bytes.Compare(l.name(n), []byte(name))
	})
}

// keep leaves one name.
func (l *listing) keep(i int) { l.names = l.names[i : i+1] }

// slice unpacks some names, which share one string.
func (l *listing) slice(from, to int) []dirent {
	var all []byte
	out := make([]dirent, 0, to-from)
	for _, n := range l.names[from:to] {
		all = append(all, l.name(n)...)
	}
	text := string(all)
	for _, n := range l.names[from:to] {
		r := l.pages[n.page][n.offset:]
		size := len(l.name(n))
		out = append(out, dirent{text[:size], binary.NativeEndian.Uint64(r), r[8]})
		text = text[size:]
	}
	return out
}

// packedBytes is the size of a piece of packed names.
const packedBytes = 64 << 10

// packed holds names in their order until they are asked for, each as what it does
// not share with the one before: a large directory has names alike, and a
// million of them take some 12 MB.
type packed struct {
	count  int
	pieces [][]byte // the first is being read
	last   []byte   // name read, or written, last
	ino    uint64   // its inode
}

// pack packs a sorted listing.
func (l *listing) pack() *packed {
	p := &packed{count: len(l.names)}
	var piece []byte
	for _, n := range l.names {
		r := l.pages[n.page][n.offset:]
		name, ino := l.name(n), binary.NativeEndian.Uint64(r)
		shared := 0
		for shared < min(len(name), len(p.last)) && name[shared] == p.last[shared] {
			shared++
		}
		if most := 4*binary.MaxVarintLen64 + len(name); cap(piece)-len(piece) < most {
			if piece != nil {
				p.pieces = append(p.pieces, piece)
			}
			piece = make([]byte, 0, max(packedBytes, most))
		}
		piece = append(piece, r[8])
		piece = binary.AppendVarint(piece, int64(ino-p.ino))
		piece = binary.AppendUvarint(piece, uint64(shared))
		piece = binary.AppendUvarint(piece, uint64(len(name)-shared))
		piece = append(piece, name[shared:]...)
		p.last, p.ino = name, ino
	}
	if piece != nil {
		p.pieces = append(p.pieces, piece)
	}
	p.last, p.ino = nil, 0
	return p
}

func (p *packed) len() int { return p.count }

// take removes the first n names and returns them; they share one string.
func (p *packed) take(n int) []dirent {
	n = min(n, p.count)
	p.count -= n
	var all []byte
	out := make([]dirent, n)
	ends := make([]int, n)
	for i := range out {
		if len(p.pieces[0]) == 0 {
			p.pieces[0] = nil
			p.pieces = p.pieces[1:]
		}
		b := p.pieces[0]
		out[i].kind = b[0]
		delta, k := binary.Varint(b[1:])
		b = b[1+k:]
		shared, k := binary.Uvarint(b)
		b = b[k:]
		size, k := binary.Uvarint(b)
		b = b[k:]
		p.ino += uint64(delta)
		out[i].ino = p.ino
		p.last = append(p.last[:shared], b[:size]...)
		all = append(all, p.last...)
		ends[i] = len(all)
		p.pieces[0] = b[size:]
	}
	text, from := string(all), 0
	for i, end := range ends {
		out[i].name, from = text[from:end], end
	}
	return out
}
