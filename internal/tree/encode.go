package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Bounds of the encoding. A page ends behind an entry once it has reached
// pageMax bytes, or pageMin if the entry's name says so (1 in 128 names: pages of
// a large directory then average pageMin plus 128 entries of about 100 bytes,
// some 28 KiB: one changed file rewrites little, and a million files need 35 pages
// a mebibyte).
const (
	recordVersion = 1
	pageMin       = 16 << 10
	pageMax       = 256 << 10
	pageNameLimit = 1 << 16 / 128

	maxName    = 64 << 10
	maxTarget  = 1 << 20
	maxXattrs  = 64 << 10
	maxExtents = 1 << 20
	// maxEntry bounds the bytes of one entry, attributes and extents included: a
	// page that ends in such an entry is just below the 32 MiB that repo takes as
	// one record.
	maxEntry = 31 << 20
	maxNsec  = 999_999_999

	// DirectChunks is the largest number of chunks that a node lists itself;
	// the list of a larger file is stored in list chunks.
	DirectChunks = 1024
	listMin      = 256
	listMax      = 4096
)

// Errors of this package that callers branch on.
var (
	// ErrCorrupt wraps every error of decoding: the bytes are not a canonical
	// record, or no snapshot.
	ErrCorrupt = errors.New("corrupt record")
	// ErrInvalid says that a node cannot be recorded: a part of it is out of
	// bounds or contradicts another.
	ErrInvalid = errors.New("cannot be recorded")
)

const (
	hasLinks = 1 << iota
	hasFlags
	hasXattrs
	hasExtents
	isIndirect
	hasSHA256
	isUnstable
	hasRdev
	knownBits = 1<<iota - 1
)

// A PageWriter encodes the entries of one directory into pages.
type PageWriter struct {
	// Page receives each finished page; it may keep nothing of it.
	Page func(page []byte) error

	buf  []byte
	body []byte // scratch of one entry
	last string // "" before the first entry: no name is empty
}

// Add appends an entry. Entries come in strictly ascending order of names. An
// entry that DecodePage would refuse is ErrInvalid: it is left out, and the
// directory may go on without it.
func (w *PageWriter) Add(n *Node) error {
	if err := n.check(); err != nil {
		return fmt.Errorf("%s %q: %w: %w", n.Type, n.Name, ErrInvalid, err)
	}
	if n.Name <= w.last {
		return fmt.Errorf("%s %q: %w: it comes after %q", n.Type, n.Name, ErrInvalid, w.last)
	}
	w.body = appendNode(w.body[:0], n)
	size := len(w.body)
	if size > maxEntry {
		w.body = nil
		return fmt.Errorf("%s %q: %w: its record of %d bytes is larger than %d", n.Type, n.Name, ErrInvalid, size, maxEntry)
	}
	w.last = n.Name
	if len(w.buf) == 0 {
		w.buf = append(w.buf, recordVersion)
	}
	w.buf = binary.AppendUvarint(w.buf, uint64(size))
	w.buf = append(w.buf, w.body...)
	if size > pageMax {
		w.body = nil // an exception; not kept for a whole tree
	}
	if len(w.buf) < pageMin || len(w.buf) < pageMax && !endsPage(n.Name) {
		return nil
	}
	return w.cut()
}

// Flush ends the last page, if there is one, and with it the directory: the
// PageWriter may then be used for another one.
func (w *PageWriter) Flush() error {
	err := w.cut()
	w.Reset()
	return err
}

// Reset discards an unfinished page: w is ready for another directory.
func (w *PageWriter) Reset() { w.buf, w.last = w.buf[:0], "" }

// Between says whether no page is unfinished: the next entry begins one.
func (w *PageWriter) Between() bool { return len(w.buf) == 0 }

// Pass goes on behind a page that was finished elsewhere, with an entry named last.
// No page may be unfinished.
func (w *PageWriter) Pass(last string) { w.last = last }

func (w *PageWriter) cut() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.Page(w.buf)
	if cap(w.buf) > 2*pageMax {
		w.buf = nil
	}
	w.buf = w.buf[:0]
	return err
}

// check returns why n cannot be an entry, except for the size of its record. What
// it accepts, decoder.node accepts.
func (n *Node) check() error {
	switch {
	case n.Type < File || n.Type > BlockDevice:
		return fmt.Errorf("unknown type %d", n.Type)
	case !ValidName(n.Name):
		return errors.New("invalid name")
	case n.Mode > ModeMask:
		return fmt.Errorf("mode %o has more than the permission bits", n.Mode)
	case n.MTime.Nsec > maxNsec || n.CTime.Nsec > maxNsec:
		return errors.New("a time has more than 999,999,999 nanoseconds")
	case len(n.Target) > maxTarget:
		return fmt.Errorf("target of %d bytes", len(n.Target))
	case len(n.Xattrs) > maxXattrs:
		return fmt.Errorf("%d extended attributes", len(n.Xattrs))
	case n.Type != File && (n.Extents != nil || n.Indirect || n.SHA256 != nil || n.Unstable):
		return errors.New("only files have extents, lists, a SHA-256, or are unstable")
	case n.Type != File && n.Type != Dir && len(n.Content) > 0:
		return errors.New("only files and directories have content")
	case n.Indirect && len(n.Content) == 0:
		return errors.New("an indirect list of nothing")
	case n.Size < 0:
		return fmt.Errorf("size %d", n.Size)
	case len(n.Extents) > maxExtents:
		return fmt.Errorf("%d extents", len(n.Extents))
	}
	for i, x := range n.Xattrs {
		if len(x.Name) > maxName || i > 0 && x.Name <= n.Xattrs[i-1].Name {
			return errors.New("attributes out of order, or with a name too long")
		}
	}
	end := int64(0)
	for i, e := range n.Extents {
		if e.Length <= 0 || e.Offset < end || i > 0 && e.Offset == end || e.Offset > n.Size || e.Length > n.Size-e.Offset {
			return fmt.Errorf("extent %d is out of place", i)
		}
		end = e.Offset + e.Length
	}
	for i := range n.Content {
		if n.Content[i].Size == 0 {
			return errors.New("empty chunk")
		}
	}
	return nil
}

// endsPage decides by the name alone, so that the cuts of a large directory stay
// where they are when other entries change.
func endsPage(name string) bool {
	h := sha256.Sum256([]byte(name))
	return binary.LittleEndian.Uint16(h[:]) < pageNameLimit
}

func appendNode(b []byte, n *Node) []byte {
	b = append(b, byte(n.Type))
	b = appendString(b, n.Name)
	bits := uint64(0)
	set := func(cond bool, bit uint64) {
		if cond {
			bits |= bit
		}
	}
	_, linked := n.Link()
	set(linked, hasLinks)
	set(n.InodeFlags != 0, hasFlags)
	set(len(n.Xattrs) > 0, hasXattrs)
	set(n.Extents != nil, hasExtents)
	set(n.Indirect, isIndirect)
	set(n.SHA256 != nil, hasSHA256)
	set(n.Unstable, isUnstable)
	set(n.Type == CharDevice || n.Type == BlockDevice, hasRdev)
	b = binary.AppendUvarint(b, bits)
	b = binary.AppendUvarint(b, uint64(n.Mode))
	b = binary.AppendUvarint(b, uint64(n.UID))
	b = binary.AppendUvarint(b, uint64(n.GID))
	b = binary.AppendVarint(b, n.MTime.Sec)
	b = binary.AppendUvarint(b, uint64(n.MTime.Nsec))
	b = binary.AppendVarint(b, n.CTime.Sec-n.MTime.Sec)
	b = binary.AppendUvarint(b, uint64(n.CTime.Nsec))
	b = binary.AppendUvarint(b, n.Inode)
	if linked {
		b = binary.AppendUvarint(b, n.Device)
		b = binary.AppendUvarint(b, uint64(n.Links))
	}
	if n.InodeFlags != 0 {
		b = binary.AppendUvarint(b, uint64(n.InodeFlags))
	}
	if len(n.Xattrs) > 0 {
		b = binary.AppendUvarint(b, uint64(len(n.Xattrs)))
		for _, x := range n.Xattrs {
			b = appendString(b, x.Name)
			b = appendString(b, x.Value)
		}
	}
	if bits&hasRdev != 0 {
		b = binary.AppendUvarint(b, n.Rdev)
	}
	switch n.Type {
	case File:
		b = binary.AppendUvarint(b, uint64(n.Size))
	case Symlink:
		b = appendString(b, n.Target)
	}
	if n.Extents != nil {
		b = binary.AppendUvarint(b, uint64(len(n.Extents)))
		end := int64(0)
		for _, e := range n.Extents {
			b = binary.AppendUvarint(b, uint64(e.Offset-end))
			b = binary.AppendUvarint(b, uint64(e.Length))
			end = e.Offset + e.Length
		}
	}
	if n.Type == File || n.Type == Dir {
		b = binary.AppendUvarint(b, uint64(len(n.Content)))
		b = AppendChunks(b, n.Content)
	}
	if n.SHA256 != nil {
		b = append(b, n.SHA256[:]...)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// DecodePage calls fn for each entry of a page, in order. The node is valid
// after the call; its strings share one copy of the page. prev is the name that
// the first entry must be greater than ("" at the start of a directory). It
// returns the last name.
func DecodePage(page []byte, prev string, fn func(*Node) error) (last string, err error) {
	d := decoder{s: string(page)}
	if d.byte() != recordVersion || d.bad {
		return "", fmt.Errorf("%w: unknown version", ErrCorrupt)
	}
	if len(d.s) == 0 {
		return "", fmt.Errorf("%w: empty page", ErrCorrupt)
	}
	for len(d.s) > 0 {
		body := decoder{s: d.string(maxEntry)}
		if d.bad {
			return "", fmt.Errorf("%w: entry cut off", ErrCorrupt)
		}
		n := new(Node)
		if !body.node(n) || len(body.s) != 0 {
			return "", fmt.Errorf("%w: entry after %q", ErrCorrupt, prev)
		}
		if n.Name <= prev {
			return "", fmt.Errorf("%w: %q after %q", ErrCorrupt, n.Name, prev)
		}
		prev = n.Name
		if err := fn(n); err != nil {
			return "", err
		}
	}
	return prev, nil
}

// decoder consumes s from the front. After a fault bad is set, and what it
// returns means nothing.
type decoder struct {
	s   string
	bad bool
}

func (d *decoder) byte() byte {
	if len(d.s) == 0 {
		d.bad = true
		return 0
	}
	b := d.s[0]
	d.s = d.s[1:]
	return b
}

func (d *decoder) uvarint() uint64 {
	var v uint64
	for i := 0; i < len(d.s) && i < binary.MaxVarintLen64; i++ {
		b := d.s[i]
		if i == 9 && b > 1 {
			break // overflows 64 bits
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			if b == 0 && i > 0 {
				break // not the shortest form
			}
			d.s = d.s[i+1:]
			return v
		}
	}
	d.bad, d.s = true, ""
	return 0
}

func (d *decoder) max(limit uint64) uint64 {
	v := d.uvarint()
	if v > limit {
		d.bad, d.s = true, ""
		return 0
	}
	return v
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) string(limit uint64) string {
	n := d.max(limit)
	if n > uint64(len(d.s)) {
		d.bad, d.s = true, ""
		return ""
	}
	s := d.s[:n]
	d.s = d.s[n:]
	return s
}

func (d *decoder) time(base int64) Time {
	sec := base + d.varint()
	return Time{sec, uint32(d.max(maxNsec))}
}

func (d *decoder) hash() (h Hash) {
	if len(d.s) < len(h) {
		d.bad, d.s = true, ""
		return h
	}
	copy(h[:], d.s)
	d.s = d.s[len(h):]
	return h
}

func (d *decoder) node(n *Node) bool {
	const maxU32 = math.MaxUint32
	n.Type = Type(d.byte())
	n.Name = d.string(maxName)
	if n.Type < File || n.Type > BlockDevice || !ValidName(n.Name) {
		return false
	}
	bits := d.max(knownBits)
	device := n.Type == CharDevice || n.Type == BlockDevice
	if device != (bits&hasRdev != 0) ||
		n.Type != File && bits&(hasExtents|isIndirect|hasSHA256|isUnstable) != 0 ||
		n.Type == Dir && bits&hasLinks != 0 {
		return false
	}
	n.Mode = uint32(d.max(uint64(ModeMask)))
	n.UID = uint32(d.max(maxU32))
	n.GID = uint32(d.max(maxU32))
	n.MTime = d.time(0)
	n.CTime = d.time(n.MTime.Sec)
	n.Inode = d.uvarint()
	n.Links = 1
	if bits&hasLinks != 0 {
		n.Device = d.uvarint()
		if n.Links = uint32(d.max(maxU32)); n.Links < 2 {
			return false
		}
	}
	if bits&hasFlags != 0 {
		if n.InodeFlags = uint32(d.max(maxU32)); n.InodeFlags == 0 {
			return false
		}
	}
	if bits&hasXattrs != 0 {
		count := d.max(maxXattrs)
		if count == 0 {
			return false
		}
		n.Xattrs = make([]Xattr, 0, min(count, 16))
		for ; count > 0 && !d.bad; count-- {
			x := Xattr{d.string(maxName), d.string(maxEntry)}
			if k := len(n.Xattrs); k > 0 && x.Name <= n.Xattrs[k-1].Name {
				return false
			}
			n.Xattrs = append(n.Xattrs, x)
		}
	}
	if device {
		n.Rdev = d.uvarint()
	}
	switch n.Type {
	case File:
		n.Size = int64(d.max(math.MaxInt64))
	case Symlink:
		n.Target = d.string(maxTarget)
	}
	if bits&hasExtents != 0 && !d.extents(n) {
		return false
	}
	if n.Type == File || n.Type == Dir {
		count := d.uvarint()
		if count > uint64(len(d.s))/(sha256.Size+1) {
			return false
		}
		if count > 0 {
			n.Content = make([]Chunk, count)
			d.chunks(n.Content)
		}
	}
	if n.Indirect = bits&isIndirect != 0; n.Indirect && len(n.Content) == 0 {
		return false
	}
	if bits&hasSHA256 != 0 {
		h := d.hash()
		n.SHA256 = &h
	}
	n.Unstable = bits&isUnstable != 0
	return !d.bad
}

func (d *decoder) extents(n *Node) bool {
	count := d.max(maxExtents)
	n.Extents = make([]Extent, 0, min(count, 1024))
	end := int64(0)
	for i := uint64(0); i < count && !d.bad; i++ {
		gap, length := d.max(math.MaxInt64), d.max(math.MaxInt64)
		off := end + int64(gap)
		if length == 0 || gap == 0 && i > 0 || off < end || off > n.Size || int64(length) > n.Size-off {
			return false
		}
		end = off + int64(length)
		n.Extents = append(n.Extents, Extent{off, int64(length)})
	}
	return !d.bad
}

func (d *decoder) chunks(out []Chunk) {
	for i := range out {
		out[i].Hash = d.hash()
		if out[i].Size = uint32(d.max(math.MaxUint32)); out[i].Size == 0 {
			d.bad = true
		}
	}
}

// ValidName says whether name can be an entry of a directory.
func ValidName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}

// AppendChunks appends the encoding of chunks, as list chunks hold it.
func AppendChunks(b []byte, chunks []Chunk) []byte {
	for i := range chunks {
		b = append(b, chunks[i].Hash[:]...)
		b = binary.AppendUvarint(b, uint64(chunks[i].Size))
	}
	return b
}

// DecodeChunks decodes what AppendChunks encoded, appending to chunks.
func DecodeChunks(chunks []Chunk, list []byte) ([]Chunk, error) {
	d := decoder{s: string(list)}
	for len(d.s) > 0 {
		var one [1]Chunk
		d.chunks(one[:])
		if d.bad {
			return nil, fmt.Errorf("%w: list of chunks", ErrCorrupt)
		}
		chunks = append(chunks, one[0])
	}
	return chunks, nil
}

// SplitList cuts a list of chunks into the pieces that are stored as list
// chunks. The cuts depend on the chunks' hashes, so that a change in the middle
// of a large file leaves the other pieces as they were.
func SplitList(chunks []Chunk) [][]Chunk {
	var out [][]Chunk
	start := 0
	for i := range chunks {
		n := i + 1 - start
		if n >= listMax || n >= listMin && chunks[i].Hash[0] == 0 {
			out = append(out, chunks[start:i+1])
			start = i + 1
		}
	}
	if start < len(chunks) {
		out = append(out, chunks[start:])
	}
	return out
}
