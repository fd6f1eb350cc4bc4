package restore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// aheadBlocks is how many blocks of a file are read before they are asked for, once it
// is read from one to the next: enough for the reader not to wait for the cipher and the
// decompressor. A Distant is asked for as many as it likes, up to aheadDistant.
const aheadBlocks, aheadDistant = 4, 16

// A Reader reads a file of a snapshot, holes as zeros. Every chunk is compared with its
// SHA-256 before any of it is returned. What is read from front to back is read ahead.
// Memory is that of the blocks ahead, and 48 bytes for each chunk of the file. A
// Reader is for one goroutine at a time; there may be many.
type Reader struct {
	node   *tree.Node
	ctx    context.Context
	cancel context.CancelFunc
	r      Repository
	pos    int64
	closed bool

	chunks []tree.Chunk
	starts []int64 // of each chunk in the content, which has no holes

	queue   []*stretch // without a gap
	next    int        // chunk behind them
	window  int        // how many there should be
	most    int        // of window
	free    [][]byte   // blocks
	reading sync.WaitGroup
}

// A stretch is chunks of a file, one after the other, that are in one block.
type stretch struct {
	first     int
	chunks    []tree.Chunk
	locations []repo.Location

	done  chan struct{}
	block []byte
	parts [][]byte // the content of each chunk, as far as there is no error
	err   error    // of the one behind them
}

// NewReader opens a file, which the caller closes. When ctx ends, nothing is read any
// more.
func NewReader(ctx context.Context, r Repository, node *tree.Node) (*Reader, error) {
	if node.Type != tree.File {
		return nil, fmt.Errorf("%q is no file but a %s", node.Name, node.Type)
	}
	f := &Reader{node: node, r: r, most: aheadBlocks}
	if d, ok := r.(Distant); ok {
		f.most = max(aheadBlocks, min(d.Reads(), aheadDistant))
	}
	err := eachChunk(ctx, r, node, func(_ int, off int64, c tree.Chunk) error {
		f.chunks, f.starts = append(f.chunks, c), append(f.starts, off)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", node.Name, err)
	}
	f.ctx, f.cancel = context.WithCancel(ctx)
	return f, nil
}

// Close ends what is read ahead.
func (f *Reader) Close() error {
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	f.cancel()
	f.reading.Wait()
	f.queue, f.free = nil, nil
	return nil
}

// Read implements [io.Reader].
func (f *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	data, zeros, err := f.at(f.pos, len(p))
	if err != nil {
		return 0, err
	}
	clear(p[:zeros])
	n := max(copy(p, data), zeros)
	f.pos += int64(n)
	return n, nil
}

// Seek implements [io.Seeker].
func (f *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += f.node.Size
	default:
		return 0, fs.ErrInvalid
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	f.pos = offset
	return offset, nil
}

// at returns what is at a place of the file, at most so many bytes: data, until the next
// call, or how many zeros.
func (f *Reader) at(pos int64, most int) (data []byte, zeros int, err error) {
	switch {
	case f.closed:
		return nil, 0, fs.ErrClosed
	case f.ctx.Err() != nil:
		return nil, 0, f.ctx.Err()
	case pos >= f.node.Size:
		return nil, 0, io.EOF
	}
	if f.node.Extents != nil {
		before, end := int64(0), f.node.Size // content in the extents so far; of the hole
		found := false
		for _, e := range f.node.Extents {
			if pos < e.Offset {
				end = e.Offset
				break
			}
			if found = pos < e.Offset+e.Length; found {
				most = int(min(int64(most), e.Offset+e.Length-pos))
				pos = before + pos - e.Offset
				break
			}
			before += e.Length
		}
		if !found {
			return nil, int(min(int64(most), end-pos)), nil
		}
	}
	data, err = f.content(pos)
	if err != nil {
		return nil, 0, fmt.Errorf("read %q: %w", f.node.Name, err)
	}
	return data[:min(len(data), most)], 0, nil
}

// content returns what is left of the chunk at a place of the content.
func (f *Reader) content(off int64) ([]byte, error) {
	i, ok := slices.BinarySearch(f.starts, off)
	if !ok {
		i--
	}
	for len(f.queue) > 0 && (i < f.queue[0].first || i >= f.queue[0].first+len(f.queue[0].chunks)) {
		f.drop()
	}
	if len(f.queue) == 0 && f.next != i {
		f.next, f.window = i, 0 // somebody jumps: who knows where next
	}
	if len(f.queue) == 0 || len(f.queue) < f.window {
		f.window = min(max(2*f.window, 1), f.most)
		for len(f.queue) < f.window && f.next < len(f.chunks) {
			f.start()
		}
	}
	s := f.queue[0]
	select {
	case <-s.done:
	case <-f.ctx.Done():
		return nil, f.ctx.Err()
	}
	if i -= s.first; i >= len(s.parts) {
		return nil, s.err
	}
	return s.parts[i][off-f.starts[s.first+i]:], nil
}

// drop forgets the first stretch.
func (f *Reader) drop() {
	s := f.queue[0]
	f.queue = f.queue[1:]
	select {
	case <-s.done:
		if s.block != nil {
			f.free = append(f.free, s.block)
		}
	default: // it still writes to it
	}
}

// start reads the next stretch.
func (f *Reader) start() {
	s := &stretch{first: f.next, done: make(chan struct{})}
	for f.next < len(f.chunks) {
		c := f.chunks[f.next]
		loc, ok := f.r.Locate(c.Hash)
		if !ok && len(s.chunks) == 0 {
			s.err = fmt.Errorf("chunk %x: %w", c.Hash[:8], repo.ErrMissing)
			s.chunks = append(s.chunks, c)
			f.next++
		}
		if !ok || len(s.chunks) > 0 && (s.err != nil || keyOf(&loc) != keyOf(&s.locations[0])) {
			break
		}
		s.chunks, s.locations = append(s.chunks, c), append(s.locations, loc)
		f.next++
	}
	f.queue = append(f.queue, s)
	if s.err != nil {
		close(s.done)
		return
	}
	if n := len(f.free); n > 0 {
		s.block, f.free = f.free[n-1], f.free[:n-1]
	}
	f.reading.Go(func() {
		defer close(s.done)
		f.fetch(s)
	})
}

func keyOf(loc *repo.Location) blockKey { return blockKey{loc.Block.Pack, loc.Block.Offset} }

func (f *Reader) fetch(s *stretch) {
	plain, lost := f.r.ReadBlock(f.ctx, &s.locations[0].Block, s.block)
	if lost == nil {
		s.block = plain
	}
	for i, c := range s.chunks {
		var data []byte
		off := s.locations[i].Offset
		switch {
		case lost != nil:
			var err error
			if data, err = f.r.Load(f.ctx, c.Hash, c.Size, nil); err != nil { // perhaps there is another copy
				s.err = cmp.Or(f.ctx.Err(), lost)
				return
			}
		case uint64(off)+uint64(c.Size) > uint64(len(plain)):
			s.err = fmt.Errorf("chunk %x: %w: beyond the end of its block", c.Hash[:8], repo.ErrCorrupt)
			return
		default:
			data = plain[off : off+c.Size]
		}
		if len(data) != int(c.Size) || sha256.Sum256(data) != c.Hash {
			s.err = fmt.Errorf("chunk %x: %w: wrong SHA-256", c.Hash[:8], repo.ErrCorrupt)
			return
		}
		s.parts = append(s.parts, data)
	}
}

// Cat writes the content of the file node to w, holes as zeros. Every chunk is
// compared with its SHA-256 before it is written; after an error w has received
// a correct beginning.
func Cat(ctx context.Context, r Repository, node *tree.Node, w io.Writer) (err error) {
	f, err := NewReader(ctx, r, node)
	if err != nil {
		return err
	}
	defer f.Close()
	if node.SHA256 == nil || node.Extents != nil {
		_, err = io.CopyBuffer(onlyWriter{w}, onlyReader{f}, make([]byte, catBytes))
		return err
	}
	whole := sha256.New()
	if _, err = io.CopyBuffer(io.MultiWriter(whole, w), onlyReader{f}, make([]byte, catBytes)); err != nil {
		return err
	}
	if repo.Hash(whole.Sum(nil)) != *node.SHA256 {
		return fmt.Errorf("read %q: %w: wrong SHA-256 of the whole file", node.Name, repo.ErrCorrupt)
	}
	return nil
}

// catBytes is how much Cat writes at a time.
const catBytes = 256 << 10

// The methods that a copy would use instead of its buffer are hidden.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
