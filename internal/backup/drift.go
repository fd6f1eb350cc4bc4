package backup

import (
	"encoding/binary"
	"io/fs"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/SP1R4/BackupHandler/v3/internal/guard"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// A drift counts how the files differ from those of the parent: tree.Drift. A run
// without a parent, or without reading, has none; its methods do nothing then.
//
// Only files that were read because they are new or changed are looked at: an
// unchanged run pays nothing, a first one neither.
type drift struct {
	s *run

	rewritten, extended, scrambled, noise atomic.Int64
	gone                                  atomic.Int64 // what is gone, under other names or not
	taken                                 atomic.Int64 // gone, and found at once under a longer name

	moves moves

	loads, loadedNoise atomic.Int64
}

// maxLoads bounds how many old files are read from the repository, to see whether they
// were noise before. That is asked only of those that are noise now.
const maxLoads = 256

// A probe is what a file looked like while it was read: SampleBytes of its beginning,
// and of its middle.
type probe struct {
	head, mid []byte
	midAt     int64
}

func newProbe() *probe {
	return &probe{head: make([]byte, 0, guard.SampleBytes), mid: make([]byte, 0, guard.SampleBytes)}
}

// begin forgets the file before. Only whole files have a middle: where holes are left
// out, nobody knows what is there.
func (p *probe) begin(n *tree.Node) {
	p.head, p.mid, p.midAt = p.head[:0], p.mid[:0], -1
	if n.Extents == nil && n.Size >= 4*guard.SampleBytes {
		p.midAt = n.Size / 2
	}
}

// take sees the bytes b, which were read at that offset.
func (p *probe) take(b []byte, at int64) {
	if len(p.head) < guard.SampleBytes {
		p.head = append(p.head, b[:min(len(b), guard.SampleBytes-len(p.head))]...)
	}
	next := p.midAt + int64(len(p.mid))
	if p.midAt < 0 || len(p.mid) == guard.SampleBytes || at > next || at+int64(len(b)) <= next {
		return
	}
	b = b[next-at:]
	p.mid = append(p.mid, b[:min(len(b), guard.SampleBytes-len(p.mid))]...)
}

// isNoise says whether the file begins with noise, and not as a known format does.
func (p *probe) isNoise() bool { return !guard.Header(p.head) && guard.Noise(p.head) }

// file counts a file that is in the snapshot as n; p is nil if it was not read.
func (d *drift) file(j *fileJob, n *tree.Node, p *probe) {
	if d == nil {
		return
	}
	if old := j.prev; old != nil && old.Type == tree.File {
		if sameContent(n, old) {
			return
		}
		d.rewritten.Add(1)
		if p != nil && d.isScrambled(old, p) {
			d.scrambled.Add(1)
		}
		return
	}
	noise := p != nil && p.isNoise()
	if was := j.was; was != nil {
		same := sameContent(n, was)
		if same || noise {
			d.taken.Add(1)
			d.extended.Add(1)
			if !same && d.wasReadable(was) {
				d.scrambled.Add(1)
			}
			return
		}
		d.lose(was)
	}
	if noise {
		d.noise.Add(1)
	}
	d.moves.add(&d.moves.came, n)
}

// drop is told of a file that could not be read.
func (d *drift) drop(j *fileJob) {
	if d != nil && j.was != nil {
		d.lose(j.was)
	}
}

// lose counts an entry of the parent that is gone, and what was below it.
func (d *drift) lose(old *tree.Node) {
	switch old.Type {
	case tree.File:
		d.gone.Add(1)
		d.moves.add(&d.moves.gone, old)
	case tree.Dir:
		// What cannot be read counts as nothing.
		_ = tree.Walk(d.s.ctx, d.s.r, "/", old, tree.Visitor{
			Node: func(_ string, n *tree.Node) error {
				if n.Type == tree.File {
					d.lose(n)
				}
				return nil
			},
			Damaged: func(string, *tree.Node, error) error { return nil },
		})
	}
}

// replaced is told of an entry that is of another type now.
func (d *drift) replaced(n *tree.Node, old prevEntry) {
	if d != nil && old.Node != nil && old.Type != n.Type {
		d.lose(old.Node)
	}
}

// isScrambled says whether a file that is noise now was something else before: at its
// beginning or, in a format that is not noise by nature, in its middle.
func (d *drift) isScrambled(old *tree.Node, p *probe) bool {
	if guard.Header(p.head) {
		return false
	}
	if guard.Noise(p.head) {
		return d.wasReadable(old)
	}
	if !guard.Noise(p.mid) || guard.Promises(old.Name) || old.Indirect || old.Extents != nil || old.Size <= p.midAt {
		return false
	}
	at := p.midAt
	for _, c := range old.Content {
		if at < int64(c.Size) {
			return d.readable(c, int(at))
		}
		at -= int64(c.Size)
	}
	return false
}

// wasReadable says whether a file of the parent began as anything but noise without a
// header.
func (d *drift) wasReadable(old *tree.Node) bool {
	if guard.Promises(old.Name) {
		return true
	}
	if len(old.Content) == 0 {
		return false
	}
	first := old.Content[0]
	if old.Indirect { // else the run goes by the list, which is no noise
		_ = tree.EachChunk(d.s.ctx, d.s.r, old, func(c tree.Chunk) error {
			first = c
			return fs.SkipAll
		})
	}
	return d.readable(first, 0)
}

// readable says whether there is anything but noise at an offset of a chunk of the
// parent. The first maxLoads times that is read; then what compressed tells or, where
// nothing did, what most of those were that were read.
func (d *drift) readable(c tree.Chunk, at int) bool {
	if d.loads.Add(1) > maxLoads {
		loc, ok := d.s.r.Locate(c.Hash)
		return ok && (loc.Block.Compressed || 2*d.loadedNoise.Load() < maxLoads)
	}
	b, err := d.s.r.Load(d.s.ctx, c.Hash, c.Size, nil)
	if err != nil || at >= len(b) {
		return false
	}
	if b = b[at:]; guard.Noise(b) && (at > 0 || !guard.Header(b)) {
		d.loadedNoise.Add(1)
		return false
	}
	return true
}

// sum returns the counts. found is how many files of the parent were found again.
func (d *drift) sum(found int64) *tree.Drift {
	if d == nil {
		return nil
	}
	gone, taken := d.gone.Load(), d.taken.Load()
	renamed := min(d.moves.matched(), gone)
	t := &tree.Drift{
		Files: found + gone + taken, Rewritten: d.rewritten.Load(), Deleted: gone - renamed, Renamed: renamed + taken,
		Extended: d.extended.Load(), Scrambled: d.scrambled.Load(), Noise: d.noise.Load(),
	}
	if t.Noise > 0 && t.Deleted > 0 {
		readable, of := d.moves.readable(d)
		if of > 0 {
			t.Replaced = min(t.Noise, t.Deleted*int64(readable)/int64(of))
		}
	}
	return t
}

// moves finds out how many of the files that are gone are there under another name:
// with the same content. Of very many files only those are remembered whose key ends in
// zeros, more of them the more files there are, so that memory is bounded: both sides
// leave out the same.
type moves struct {
	mu         sync.Mutex
	level      int // keys that are remembered end in so many zeros
	gone, came map[uint64]*moved
}

// A moved is the files of one content.
type moved struct {
	n     int64
	first tree.Chunk // of its content, where it tells
	named bool       // its name promises a header
}

// maxMoves bounds the files that are remembered: some 5 MB.
const maxMoves = 32 << 10

// add remembers a file on one side.
func (m *moves) add(side *map[uint64]*moved, n *tree.Node) {
	if len(n.Content) == 0 {
		return
	}
	first := n.Content[0]
	key := binary.LittleEndian.Uint64(first.Hash[:]) ^ bits.RotateLeft64(uint64(n.Size)*0x9e3779b97f4a7c15, 32)
	m.mu.Lock()
	defer m.mu.Unlock()
	if bits.TrailingZeros64(key) < m.level {
		return
	}
	if *side == nil {
		*side = make(map[uint64]*moved)
	}
	if x := (*side)[key]; x != nil {
		x.n++
		return
	}
	(*side)[key] = &moved{1, first, guard.Promises(n.Name)}
	for len(m.gone)+len(m.came) > maxMoves {
		m.level++
		for _, s := range []map[uint64]*moved{m.gone, m.came} {
			for k := range s {
				if bits.TrailingZeros64(k) < m.level {
					delete(s, k)
				}
			}
		}
	}
}

// matched is how many files that are gone are there under another name.
func (m *moves) matched() (n int64) {
	for key, g := range m.gone {
		if c := m.came[key]; c != nil {
			n += min(g.n, c.n)
		}
	}
	return n << m.level
}

// maxAsked is how many of the files that are gone are asked for what they were.
const maxAsked = 1024

// readable says how many of some files that are gone for good were readable.
func (m *moves) readable(d *drift) (readable, of int) {
	for key, g := range m.gone {
		if m.came[key] != nil {
			continue
		}
		if of == maxAsked {
			break
		}
		of++
		if g.named || d.readable(g.first, 0) {
			readable++
		}
	}
	return readable, of
}

// longer says whether a name is an older one and something behind it, as
// report.doc.locked is of report.doc; not img12 of img1.
func longer(name, old string) bool {
	rest, ok := strings.CutPrefix(name, old)
	return ok && rest != "" && strings.IndexByte(".-_~+=@#!$%&,;([{ ", rest[0]) >= 0
}

// A watch goes with a prevDir, and learns which of its entries are gone.
type watch struct {
	d *drift
	// waiting are files that are gone and may be here under a longer name: each
	// name is the beginning of the next one.
	waiting []*tree.Node
}

// lost is told of an entry that is not in the directory any more.
func (w *watch) lost(n *tree.Node) {
	if n.Type != tree.File {
		w.d.lose(n)
		return
	}
	w.settle(n.Name)
	w.waiting = append(w.waiting, n)
}

// was returns the file that is here under a longer name, which is new; nil: none.
func (w *watch) was(name string) *tree.Node {
	w.settle(name)
	for i := len(w.waiting) - 1; i >= 0; i-- {
		if n := w.waiting[i]; longer(name, n.Name) {
			w.waiting = append(w.waiting[:i], w.waiting[i+1:]...)
			return n
		}
	}
	return nil
}

// settle gives up those whose name is not the beginning of name: as names ascend, none
// that comes later begins with them.
func (w *watch) settle(name string) {
	for i := len(w.waiting) - 1; i >= 0 && !strings.HasPrefix(name, w.waiting[i].Name); i-- {
		w.d.lose(w.waiting[i])
		w.waiting = w.waiting[:i]
	}
}
