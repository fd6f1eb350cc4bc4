package restore

import (
	"cmp"
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/limit"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// job is a file to be restored. It holds its directory until it ends.
type job struct {
	dir   *dir
	node  *tree.Node
	group *group
	old   *info // what has its name now

	window *window
	at     int // in the window's jobs

	have    []bool // chunks that were copied from the existing file
	left    atomic.Int64
	ended   atomic.Bool  // finished, failed or lost
	counted atomic.Int64 // bytes in Progress.BytesDone
	dirty   atomic.Int64 // bytes written since the system was last asked to store them
	inode   *info        // as restored; nil: it was not. Read when the job's window has ended

	mu       sync.Mutex
	f        *file  // nil: closed
	temp     string // "": not created
	dev, ino uint64 // of temp
	pins     int    // goroutines writing to f
	idle     *list.Element
}

func (j *job) place() place { return place{j.dir, j.node.Name} }

// parallel calls fn for 0 to n-1, in about that order, from the workers, until
// the run is stopped.
func (s *session) parallel(n int, fn func(i int, buf *[]byte)) {
	var all sync.WaitGroup
	s.handOut(n, &all, fn)
	all.Wait()
}

// handOut is parallel, but returns when the last has been begun. The workers are those of the
// session: each has a buffer, and what is handed out waits for them.
func (s *session) handOut(n int, calls *sync.WaitGroup, fn func(i int, buf *[]byte)) {
	if n == 0 {
		return
	}
	var next atomic.Int64
	last := make(chan struct{})
	for range min(s.o.Workers, n) {
		calls.Go(func() {
			buf := <-s.workers
			defer func() { s.workers <- buf }()
			for !s.stopped() {
				i := int(next.Add(1)) - 1
				if i == n-1 {
					close(last)
				}
				if i >= n {
					return
				}
				fn(i, &buf)
			}
		})
	}
	select {
	case <-last:
	case <-s.ctx.Done():
	}
}

// eachChunk calls fn for the chunks of a file's content in order, with their number
// and their place in the content.
func eachChunk(ctx context.Context, l tree.Loader, n *tree.Node, fn func(i int, off int64, c tree.Chunk) error) error {
	i, off := 0, int64(0)
	err := tree.EachChunk(ctx, l, n, func(c tree.Chunk) error {
		if err := fn(i, off, c); err != nil {
			return err
		}
		i++
		off += int64(c.Size)
		return nil
	})
	if err != nil {
		return err
	}
	if off != contentSize(n) {
		return fmt.Errorf("%w: %d bytes of content instead of %d", tree.ErrCorrupt, off, contentSize(n))
	}
	return nil
}

// contentSize is the number of bytes in n's chunks; -1 if its extents are not
// within its size.
func contentSize(n *tree.Node) int64 {
	if n.Extents == nil {
		return n.Size
	}
	size, end := int64(0), int64(0)
	for _, e := range n.Extents {
		if e.Offset < end || e.Length < 0 || e.Length > n.Size-e.Offset {
			return -1
		}
		size += e.Length
		end = e.Offset + e.Length
	}
	return size
}

// spans calls fn for the stretches of the file that hold the content from off on:
// where in the file, and which part of the content [from, to) relative to off.
func spans(n *tree.Node, off, size int64, fn func(at, from, to int64) error) error {
	if n.Extents == nil {
		return fn(off, 0, size)
	}
	before := int64(0) // content in the extents so far
	for _, e := range n.Extents {
		lo, hi := max(off, before), min(off+size, before+e.Length)
		if lo < hi {
			if err := fn(e.Offset+lo-before, lo-off, hi-off); err != nil {
				return err
			}
		}
		if before += e.Length; before >= off+size {
			break
		}
	}
	return nil
}

func sized(buf *[]byte, n int) []byte {
	if cap(*buf) < n {
		*buf = make([]byte, n)
	}
	return (*buf)[:n]
}

// compare looks which jobs need not be written, or not wholly, because of what
// is in the target.
func (s *session) compare(jobs []*job) {
	var there []*job
	for _, j := range jobs {
		if j.old != nil && j.old.typ == tree.File {
			there = append(there, j)
		}
	}
	s.parallel(len(there), func(i int, buf *[]byte) {
		if err := s.compareOne(there[i], buf); err != nil && !s.stopped() {
			s.fail(there[i], err)
		}
	})
}

// errDiffers ends a comparison early.
var errDiffers = errors.New("differs")

func (s *session) compareOne(j *job, buf *[]byte) error {
	h, err := s.dirs.acquire(j.dir)
	if err != nil {
		return err
	}
	defer s.dirs.release(j.dir)
	f, err := h.open(j.node.Name, false)
	if err != nil {
		return nil // unreadable, or replaced: it is written anew
	}
	defer f.close()
	st, err := f.stat()
	if err != nil {
		return err
	}
	same, err := s.compareContent(j, f, &st, buf)
	if err != nil {
		return err
	}
	if !same || !s.mayAdjust(f.object(), j.node, &st) {
		return s.reuse(j, f, buf)
	}
	changed := s.setMetadata(f.object(), j.node, j.place(), &st, false)
	if j.group == nil || j.node.InodeFlags == 0 {
		changed = s.setFlags(f.object(), j.node, j.place(), false) || changed
	}
	j.inode = &st
	kind := Unchanged
	if changed {
		kind = Adjusted
	}
	s.end(j, func() { s.event(kind, tree.File, j.place(), nil) })
	return nil
}

// compareContent says whether f has the content of j, and notes in j.have which
// chunks of it are there.
func (s *session) compareContent(j *job, f *file, st *info, buf *[]byte) (same bool, err error) {
	n := j.node
	same = st.size == n.Size
	if same && s.o.Overwrite == IfChanged && st.mtime == n.MTime {
		return true, nil
	}
	if !same && len(n.Content) <= 1 && !n.Indirect {
		return false, nil // nothing to gain
	}
	err = eachChunk(s.ctx, s.r, n, func(i int, off int64, c tree.Chunk) error {
		if err := limit.Pace(s.ctx); err != nil {
			return err
		}
		ok := s.hasChunk(f, n, off, c, buf)
		j.have = append(j.have, ok)
		same = same && ok
		return nil
	})
	if err != nil {
		// The list of chunks is damaged: planning finds the same, and says so.
		j.have = nil
		return false, nil
	}
	if same && n.Extents != nil {
		same = holesAreZero(f, n, buf)
	}
	return same, nil
}

func (s *session) hasChunk(f *file, n *tree.Node, off int64, c tree.Chunk, buf *[]byte) bool {
	data := sized(buf, int(c.Size))
	err := spans(n, off, int64(c.Size), func(at, from, to int64) error {
		got, err := f.readAt(data[from:to], at)
		if err == nil && int64(got) < to-from {
			err = errDiffers
		}
		return err
	})
	return err == nil && sha256.Sum256(data) == c.Hash
}

func holesAreZero(f *file, n *tree.Node, buf *[]byte) bool {
	block := sized(buf, 1<<20)
	end := int64(0)
	zeros := func(to int64) bool {
		for end < to {
			// What the file system knows to be a hole need not be read.
			if end = f.nextData(end); end >= to {
				end = to
				break
			}
			b := block[:min(int64(len(block)), to-end)]
			if got, err := f.readAt(b, end); err != nil || got < len(b) || !isZero(b) {
				return false
			}
			end += int64(len(b))
		}
		return true
	}
	for _, e := range n.Extents {
		if !zeros(e.Offset) {
			return false
		}
		end = e.Offset + e.Length
	}
	return zeros(n.Size)
}

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// reuse copies the chunks that f has into the new file, so that only the others
// are fetched. Each is compared again: f may be changing.
func (s *session) reuse(j *job, f *file, buf *[]byte) error {
	if !slices.Contains(j.have, true) {
		j.have = nil
		return nil
	}
	to, err := s.pin(j)
	if err != nil {
		return err
	}
	defer s.unpin(j)
	return eachChunk(s.ctx, s.r, j.node, func(i int, off int64, c tree.Chunk) error {
		if err := limit.Pace(s.ctx); err != nil {
			return err
		}
		if !j.have[i] {
			return nil
		}
		if j.have[i] = s.hasChunk(f, j.node, off, c, buf); !j.have[i] {
			return nil
		}
		return s.write(j, to, off, (*buf)[:c.Size])
	})
}

// blockKey tells blocks apart.
type blockKey struct {
	pack   repo.ID
	offset uint32
}

// piece is a chunk of a block that goes to a place in a file.
type piece struct {
	job     *job
	off     int64 // in the file's content
	inBlock uint32
	size    uint32
	hash    repo.Hash
}

type blockPlan struct {
	block  repo.Block
	rank   int     // of its pack: in the order in which packs are first needed
	pieces []piece // in order of files and offsets
}

// plan says which blocks to read for some files.
type plan struct {
	index  map[blockKey]int
	packs  map[repo.ID]int
	blocks []blockPlan
	ready  []*job // nothing (more) to be written
	pieces int
}

func (p *plan) reset() {
	*p = plan{index: map[blockKey]int{}, packs: map[repo.ID]int{}}
}

func (p *plan) add(loc *repo.Location, pc piece) {
	key := blockKey{loc.Block.Pack, loc.Block.Offset}
	i, ok := p.index[key]
	if !ok {
		rank, ok := p.packs[key.pack]
		if !ok {
			rank = len(p.packs)
			p.packs[key.pack] = rank
		}
		i = len(p.blocks)
		p.index[key] = i
		p.blocks = append(p.blocks, blockPlan{block: loc.Block, rank: rank})
	}
	p.blocks[i].pieces = append(p.blocks[i].pieces, pc)
	p.pieces++
}

// fill restores the content of jobs that have not ended. It returns when the last blocks are
// being read, in w.tail.
func (s *session) fill(w *window) {
	var p plan
	p.reset()
	for _, j := range w.jobs {
		if s.stopped() {
			return
		}
		if j == nil || j.ended.Load() {
			continue
		}
		if j.dir.frozen {
			s.fail(j, errFrozen)
			continue
		}
		j.left.Store(1)
		err := eachChunk(s.ctx, s.r, j.node, func(i int, off int64, c tree.Chunk) error {
			if i < len(j.have) && j.have[i] {
				return nil
			}
			loc, ok := s.r.Locate(c.Hash)
			if !ok {
				return fmt.Errorf("chunk %x: %w", c.Hash[:8], repo.ErrMissing)
			}
			j.left.Add(1)
			p.add(&loc, piece{j, off, loc.Offset, c.Size, c.Hash})
			if p.pieces >= s.o.bounds.chunks {
				s.execute(&p, &w.tail)
				p.reset()
			}
			if j.ended.Load() || s.stopped() {
				return errEnded
			}
			return nil
		})
		switch {
		case err != nil && s.stopped():
			return
		case err == errEnded:
		case err != nil:
			s.lose(j, err)
			s.readFailed(err)
		case j.left.Add(-1) == 0:
			p.ready = append(p.ready, j)
		}
	}
	s.execute(&p, &w.tail)
}

var errEnded = errors.New("ended")

// execute reads the planned blocks and writes their files. It returns when the last are
// being read, in tail.
func (s *session) execute(p *plan, tail *sync.WaitGroup) {
	s.parallel(len(p.ready), func(i int, _ *[]byte) { s.finish(p.ready[i]) })
	slices.SortFunc(p.blocks, func(a, b blockPlan) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.block.Offset, b.block.Offset))
	})
	runs := p.runs(s.runsPerWorker*s.o.Workers, s.runBytes)
	s.handOut(len(runs), tail, func(i int, buf *[]byte) {
		s.executeRun(runs[i], buf)
		clear(runs[i])
	})
}

// runs divides the sorted blocks into neighbours in a pack that are read by one
// worker: not so many that others have nothing to do at the end, nor of more than so many
// stored bytes. There are at least as many runs as that, if there are blocks.
func (p *plan) runs(least int, bytes int64) (runs [][]blockPlan) {
	most := max(len(p.blocks)/least, 1)
	for rest := p.blocks; len(rest) > 0; {
		n, size := 1, int64(rest[0].block.Stored)
		for n < min(len(rest), most) && rest[n].rank == rest[0].rank && size+int64(rest[n].block.Stored) <= bytes {
			size += int64(rest[n].block.Stored)
			n++
		}
		runs = append(runs, rest[:n])
		rest = rest[n:]
	}
	return runs
}

// executeRun reads some blocks of a pack and writes their files.
func (s *session) executeRun(run []blockPlan, buf *[]byte) {
	var wanted []*blockPlan
	var blocks []*repo.Block
	for i := range run {
		b := &run[i]
		if !b.needed() {
			continue
		}
		if data, used, ok := s.kept.take(b.key()); ok {
			s.kept.giveBack(s.executeBlock(b, data, used))
			continue
		}
		wanted, blocks = append(wanted, b), append(blocks, &b.block)
	}
	next := func(data []byte, err error) []byte {
		b := wanted[0]
		wanted = wanted[1:]
		if err == nil {
			s.readOK()
			*buf = s.executeBlock(b, data, 0)
		} else if !s.stopped() {
			s.readFailed(err)
			s.salvage(b, err)
		}
		return *buf
	}
	if r, ok := s.r.(RunReader); ok && len(blocks) > 1 {
		r.ReadBlocks(s.ctx, blocks, *buf, next)
		return
	}
	for _, b := range blocks {
		if s.stopped() {
			return
		}
		if wanted[0].needed() { // the one before may have ended its files
			next(s.r.ReadBlock(s.ctx, b, *buf))
		} else {
			wanted = wanted[1:]
		}
	}
}

func (b *blockPlan) key() blockKey { return blockKey{b.block.Pack, b.block.Offset} }

// needed forgets what was wanted for files that have ended, and says whether
// anything is left.
func (b *blockPlan) needed() bool {
	b.pieces = slices.DeleteFunc(b.pieces, func(p piece) bool { return p.job.ended.Load() })
	return len(b.pieces) > 0
}

// executeBlock writes what was wanted of a block. used is how much of it was wanted
// before. It returns a buffer that is free, or nil.
func (s *session) executeBlock(b *blockPlan, data []byte, used int) (spare []byte) {
	if !b.needed() {
		return data
	}
	s.o.Progress.current.Store(b.pieces[0].job.dir)
	sums := make(map[uint32]sumOf, len(b.pieces))
	for rest := b.pieces; len(rest) > 0 && !s.stopped(); {
		n := 1
		for n < len(rest) && rest[n].job == rest[0].job {
			n++
		}
		s.writePieces(rest[:n], data, sums)
		rest = rest[n:]
	}
	for i := range b.pieces {
		used += int(b.pieces[i].size)
	}
	if used < len(data) {
		return s.kept.put(b.key(), data, used)
	}
	return data
}

type sumOf struct {
	size uint32
	sum  repo.Hash
}

// writePieces writes all that one block holds of one file.
func (s *session) writePieces(pieces []piece, data []byte, sums map[uint32]sumOf) {
	j := pieces[0].job
	for _, p := range pieces {
		if uint64(p.inBlock)+uint64(p.size) > uint64(len(data)) {
			s.lose(j, fmt.Errorf("chunk %x: %w: beyond the end of its block", p.hash[:8], repo.ErrCorrupt))
			return
		}
		if s.o.TrustBlocks {
			continue
		}
		known, ok := sums[p.inBlock]
		if !ok || known.size != p.size {
			known = sumOf{p.size, sha256.Sum256(data[p.inBlock : p.inBlock+p.size])}
			sums[p.inBlock] = known
		}
		if known.sum != p.hash {
			s.lose(j, fmt.Errorf("chunk %x: %w: wrong SHA-256", p.hash[:8], repo.ErrCorrupt))
			return
		}
	}
	f, err := s.pin(j)
	if err != nil {
		if err != errEnded {
			s.fail(j, err)
		}
		return
	}
	defer s.unpin(j)
	for rest := pieces; len(rest) > 0; {
		n, size := 1, rest[0].size
		for n < len(rest) && rest[n].off == rest[0].off+int64(size) && rest[n].inBlock == rest[0].inBlock+size {
			size += rest[n].size
			n++
		}
		if err := s.write(j, f, rest[0].off, data[rest[0].inBlock:rest[0].inBlock+size]); err != nil {
			s.fail(j, err)
			return
		}
		rest = rest[n:]
	}
	if j.left.Add(-int64(len(pieces))) == 0 {
		s.finish(j)
	}
}

// salvage asks for the chunks of a block that cannot be read one by one, in case
// the repository has other copies of them.
func (s *session) salvage(b *blockPlan, cause error) {
	for i := range b.pieces {
		if s.stopped() {
			return
		}
		p := &b.pieces[i]
		if p.job.ended.Load() {
			continue
		}
		data, err := s.r.Load(s.ctx, p.hash, p.size, nil)
		if err != nil {
			if !s.stopped() {
				s.lose(p.job, fmt.Errorf("chunk %x in pack %s: %w", p.hash[:8], b.block.Pack.Short(), cause))
			}
			continue
		}
		one := *p
		one.inBlock = 0
		s.writePieces([]piece{one}, data, map[uint32]sumOf{})
	}
}

func (s *session) write(j *job, f *file, off int64, data []byte) error {
	n := j.node
	if n.Extents != nil && contentSize(n) < off+int64(len(data)) || n.Extents == nil && n.Size < off+int64(len(data)) {
		return fmt.Errorf("%w: more content than its size", tree.ErrCorrupt)
	}
	err := spans(n, off, int64(len(data)), func(at, from, to int64) error { return f.writeAt(data[from:to], at) })
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	written := s.written.Add(int64(len(data)))
	j.counted.Add(int64(len(data)))
	s.o.Progress.BytesDone.Add(int64(len(data)))
	if n.Size >= storeMin && written > int64(s.o.bounds.storeAfter) && j.dirty.Add(int64(len(data))) >= storeBytes {
		j.dirty.Store(0)
		s.startStoring(f)
	}
	return nil
}

// startStoring keeps the large files of a large restore from filling the memory of
// the machine, and pushing out what it works with: the system is asked to begin
// storing what was written, and to give back the memory of what is stored already.
// Where the disk is so busy or slow that asking takes time, nothing more is asked
// for: like cp, a restore does not wait for the disk. Asked for from the beginning,
// it made a restore of 2 GB take up to half as long again.
func (s *session) startStoring(f *file) {
	if s.slowDisk.Load() {
		return
	}
	start := time.Now()
	f.startStoring()
	if time.Since(start) > storePatience {
		s.slowDisk.Store(true)
	}
}

// openFiles bounds the number of unfinished files that are open: the least
// recently written is closed, and opened again by its temporary name when needed.
type openFiles struct {
	mu   sync.Mutex
	idle list.List // of *job
}

// pin returns j's unfinished file, created if need be, which stays open until
// unpin. The error is errEnded if there is nothing to do any more.
func (s *session) pin(j *job) (*file, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended.Load() {
		return nil, errEnded
	}
	if j.f == nil {
		if err := s.openTemp(j); err != nil {
			return nil, err
		}
	}
	j.pins++
	s.open.mu.Lock()
	if j.idle != nil {
		s.open.idle.Remove(j.idle)
		j.idle = nil
	}
	s.open.mu.Unlock()
	return j.f, nil
}

func (s *session) openTemp(j *job) error {
	h, err := s.dirs.acquire(j.dir)
	if err != nil {
		return err
	}
	defer s.dirs.release(j.dir)
	if j.temp != "" {
		f, err := h.open(j.temp, true)
		if err != nil {
			return fmt.Errorf("open the unfinished file again: %w", err)
		}
		if st, err := f.stat(); err != nil || st.dev != j.dev || st.ino != j.ino {
			f.close()
			return errors.Join(err, errReplaced)
		}
		j.f = f
		return nil
	}
	name := tempName()
	f, err := h.create(name)
	if err != nil {
		return s.explain(h, name, fmt.Errorf("create: %w", err))
	}
	j.f, j.temp = f, name
	const early = tree.FlagNoCOW | tree.FlagCompress // work on empty files only
	if flags := j.node.InodeFlags & early; flags != 0 {
		if have, err := f.object().flags(); err == nil {
			_ = f.object().setFlags(have | flags) // said at the end if it did not work
		}
	}
	n := j.node
	if n.Size >= allocateMin && n.Extents == nil || n.Size > 0 && n.Extents != nil && s.o.Sparse == Allocated {
		if err := f.allocate(n.Size); err != nil {
			return fmt.Errorf("allocate %d bytes: %w", n.Size, err)
		}
	}
	return nil
}

func (s *session) unpin(j *job) {
	j.mu.Lock()
	j.pins--
	idle := j.pins == 0 && j.f != nil
	if idle && j.ended.Load() {
		j.f.close()
		j.f, idle = nil, false
	}
	if idle && j.dev == 0 {
		if st, err := j.f.stat(); err == nil {
			j.dev, j.ino = st.dev, st.ino // to know it again
		}
	}
	var victim *job
	if idle {
		s.open.mu.Lock()
		j.idle = s.open.idle.PushBack(j)
		if s.open.idle.Len() > s.o.bounds.openFiles {
			victim = s.open.idle.Remove(s.open.idle.Front()).(*job)
			victim.idle = nil
		}
		s.open.mu.Unlock()
	}
	j.mu.Unlock()
	if victim == nil {
		return
	}
	victim.mu.Lock()
	var err error
	if victim.pins == 0 && victim.f != nil && !victim.ended.Load() {
		err = victim.f.close() // network file systems report failed writes here
		victim.f = nil
	}
	victim.mu.Unlock()
	if err != nil {
		s.fail(victim, fmt.Errorf("write: %w", err))
	}
}

// finish gives a file whose content is complete its metadata and its name.
func (s *session) finish(j *job) {
	f, err := s.pin(j)
	if err == nil {
		err = s.complete(j, f)
		s.unpin(j)
	}
	if err != nil && err != errEnded {
		s.fail(j, err)
	}
}

func (s *session) complete(j *job, f *file) error {
	n := j.node
	if n.Extents != nil {
		if err := f.truncate(n.Size); err != nil {
			return fmt.Errorf("set size: %w", err)
		}
	}
	st, err := f.stat()
	if err != nil {
		return err
	}
	if st.size != n.Size {
		return fmt.Errorf("has %d bytes instead of %d: %w", st.size, n.Size, errReplaced)
	}
	cur, err := s.freshInfo(j.dir, f.object())
	if err != nil {
		return err
	}
	s.setMetadata(f.object(), n, j.place(), cur, !j.dir.inherits)
	if j.dirty.Load() > 0 {
		s.startStoring(f)
	}
	// Network file systems say when a file is closed whether writing failed, and
	// Windows renames closed files only. Flags come after the name, by descriptor.
	flagged := j.group == nil && (n.InodeFlags != 0 || j.dir.inherits)
	if flagged {
		err = f.flush()
	} else {
		j.mu.Lock()
		err = j.f.close()
		j.f = nil
		j.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if s.stopped() {
		return context.Cause(s.ctx)
	}
	h, err := s.dirs.acquire(j.dir)
	if err != nil {
		return err
	}
	defer s.dirs.release(j.dir)
	if err := s.publish(h, j.temp, j.dir, n.Name, j.old); err != nil {
		j.mu.Lock()
		j.temp = "" // publish removed it
		j.mu.Unlock()
		return err
	}
	j.mu.Lock()
	j.temp = ""
	j.mu.Unlock()
	if flagged {
		s.setFlags(f.object(), n, j.place(), !j.dir.inherits)
	}
	j.inode = &st
	kind := Created
	if j.old != nil {
		kind = Replaced
	}
	s.end(j, func() { s.event(kind, tree.File, j.place(), nil) })
	return nil
}

// fail ends a job that the target does not take.
func (s *session) fail(j *job, err error) {
	if s.stopped() {
		s.end(j, nil) // a consequence
		return
	}
	s.check(err)
	s.end(j, func() { s.event(Failed, tree.File, j.place(), err) })
}

// lose ends a job whose content is not in the repository.
func (s *session) lose(j *job, err error) {
	s.end(j, func() { s.event(Lost, tree.File, j.place(), err) })
}

// end is the end of every job; only the first one counts. What is unfinished is
// removed. report is nil if the run was stopped.
func (s *session) end(j *job, report func()) {
	if !j.ended.CompareAndSwap(false, true) {
		return
	}
	if report != nil {
		report()
	}
	j.mu.Lock()
	s.open.mu.Lock()
	if j.idle != nil {
		s.open.idle.Remove(j.idle)
		j.idle = nil
	}
	s.open.mu.Unlock()
	if j.pins == 0 && j.f != nil {
		j.f.close()
		j.f = nil
	}
	temp := j.temp
	j.temp = ""
	j.mu.Unlock()
	if temp != "" {
		s.removeTemp(j, temp)
	}
	s.o.Progress.BytesDone.Add(j.node.Size - j.counted.Load())
	s.o.Progress.FilesDone.Add(1)
	s.leave(j.dir)
	j.window.forget(j)
	s.live.add(-1)
}

func (s *session) removeTemp(j *job, temp string) {
	h, err := s.dirs.acquire(j.dir)
	if err == nil {
		defer s.dirs.release(j.dir)
		err = h.remove(temp)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.warn(place{j.dir, temp}, tree.File, fmt.Errorf("remove the unfinished file: %w", err))
	}
}

// done counts an entry that needed no job in the progress.
func (s *session) done(n *tree.Node) {
	if n != nil && n.Type == tree.File {
		s.o.Progress.FilesDone.Add(1)
		s.o.Progress.BytesDone.Add(n.Size)
	}
}
