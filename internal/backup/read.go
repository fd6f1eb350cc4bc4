package backup

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/SP1R4/BackupHandler/v3/internal/limit"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// readAttempts is how often a file that changes while it is read is read.
const readAttempts = 3

// A fileJob is one file on its way into the snapshot. Whoever finishes it
// releases the directory.
type fileJob struct {
	entry Entry
	d     *dir
	i     int
	node  *tree.Node // as listed
	prev  *tree.Node
	was   *tree.Node // a file that is gone and may have become this one
}

func (j *fileJob) path() string { return tree.Join(j.d.path, j.node.Name) }

// A link is a file with several names: its content is read once.
type link struct {
	seen    uint32
	done    bool
	node    *tree.Node // nil: could not be read
	waiting []*fileJob
}

// file decides what happens to a file.
func (s *run) file(j *fileJob) {
	switch lateOf(j.entry) {
	case LateSize:
		if j.prev != nil && j.prev.Type == tree.File {
			j.node.Size = j.prev.Size // if all else is as before
		}
	case LateEntry:
		if s.o.DryRun {
			s.drop(j)
			return
		}
	}
	if !s.o.ReadAll && sameInode(j.node, j.prev) && !j.prev.Unstable && s.stored(j.prev) {
		s.keep(j)
		return
	}
	if s.o.DryRun {
		s.done(j, j.node, nil)
		return
	}
	if key, linked := j.node.Link(); linked && !s.first(key, j) {
		return
	}
	select {
	case s.jobs <- j:
	case <-s.ctx.Done():
		s.drop(j)
	}
}

func lateOf(e Entry) Late {
	if l, ok := e.(Latecomer); ok {
		return l.Late()
	}
	return 0
}

// first says whether j is the first name of its file, and so has to be read. Else
// j has been dealt with, or will be when the first is done.
func (s *run) first(key tree.LinkKey, j *fileJob) bool {
	s.linkMu.Lock()
	l := s.links[key]
	if l == nil {
		s.links[key] = &link{seen: 1}
		s.linkMu.Unlock()
		return true
	}
	if l.seen++; !l.done {
		l.waiting = append(l.waiting, j)
		s.linkMu.Unlock()
		return false
	}
	s.forget(key, l, j.node.Links)
	s.linkMu.Unlock()
	s.sameAs(j, l.node)
	return false
}

// forget drops a file all of whose names have been seen. linkMu is held.
func (s *run) forget(key tree.LinkKey, l *link, links uint32) {
	if l.done && l.seen >= links {
		delete(s.links, key)
	}
}

// sameAs finishes another name of a file that has been read.
func (s *run) sameAs(j *fileJob, n *tree.Node) {
	if n == nil {
		s.problem(j.path(), Unreadable, errors.New("another name of it could not be read"))
		s.drop(j)
		return
	}
	c := *n
	c.Name = j.node.Name
	s.done(j, &c, nil)
}

// stored says whether all that a previous node refers to is in the repository. If
// a pack was lost the file is read again, and so heals.
func (s *run) stored(n *tree.Node) bool {
	if s.w == nil {
		return true
	}
	for i := range n.Content {
		if !s.w.Has(n.Content[i].Hash) {
			return false
		}
	}
	if !n.Indirect {
		return true
	}
	return tree.EachChunk(s.ctx, s.r, n, func(c tree.Chunk) error {
		if !s.w.Has(c.Hash) {
			return repo.ErrMissing
		}
		return nil
	}) == nil
}

// keep takes over an unchanged file from the previous snapshot.
func (s *run) keep(j *fileJob) {
	n, old := j.node, j.prev
	n.Content, n.Indirect, n.SHA256, n.Extents = old.Content, old.Indirect, old.SHA256, old.Extents
	n.Xattrs, n.InodeFlags = old.Xattrs, old.InodeFlags
	s.p.Bytes.Add(n.Size)
	s.done(j, n, nil)
}

// done puts a finished node into its directory. p is what it looked like, if it was read.
func (s *run) done(j *fileJob, n *tree.Node, p *probe) {
	state := "changed"
	switch {
	case j.prev == nil || j.prev.Type != tree.File:
		state = "new"
		s.fresh.Add(1)
	case sameInode(n, j.prev):
		state = "unmodified"
		s.unmodified.Add(1)
	default:
		s.changed.Add(1)
	}
	if s.o.OnFile != nil {
		s.o.OnFile(j.path(), state)
	}
	if s.o.OnStored != nil {
		s.o.OnStored(j.path(), n)
	}
	s.drift.file(j, n, p)
	s.settle(j.d, j.i, n)
	s.files.Add(1)
	s.bytes.Add(n.Size)
	s.p.Files.Add(1)
	j.entry.Close()
	s.release(j.d)
}

// drop leaves a file out of the snapshot.
func (s *run) drop(j *fileJob) {
	s.drift.drop(j)
	s.settle(j.d, j.i, nil)
	j.entry.Close()
	s.release(j.d)
}

// reader reads files until there are no more.
func (s *run) reader() {
	var batch *repo.Batch
	if s.w != nil {
		batch = s.w.Batch(repo.Data)
	}
	var p *probe
	if s.drift != nil {
		p = newProbe()
	}
	for j := range s.jobs {
		if s.ctx.Err() != nil {
			s.finishLinked(j, nil)
			s.drop(j)
			continue
		}
		at := j.path()
		s.p.current.Store(&at)
		n, err := s.read(batch, j, p)
		if err != nil {
			switch {
			case s.ctx.Err() != nil || !isSourceError(err):
				s.fail(err)
			case !errors.Is(err, ErrSkipped):
				s.problem(j.path(), kindOf(err), errors.Unwrap(err))
			}
			s.finishLinked(j, nil)
			s.drop(j)
			continue
		}
		s.finishLinked(j, n)
		s.done(j, n, p)
	}
	s.p.current.Store(nil)
	if batch != nil {
		s.fail(batch.Flush())
	}
}

// finishLinked tells the other names of j's file.
func (s *run) finishLinked(j *fileJob, n *tree.Node) {
	key, linked := j.node.Link()
	if !linked {
		return
	}
	s.linkMu.Lock()
	l := s.links[key]
	var waiting []*fileJob
	if l != nil {
		l.done, l.node = true, n
		waiting, l.waiting = l.waiting, nil
		s.forget(key, l, j.node.Links)
	}
	s.linkMu.Unlock()
	for _, o := range waiting {
		s.sameAs(o, n)
	}
}

// sourceError is a fault of the source: it concerns one file, not the run.
type sourceError struct{ err error }

func (e sourceError) Error() string { return e.err.Error() }
func (e sourceError) Unwrap() error { return e.err }

func isSourceError(err error) bool {
	_, ok := errors.AsType[sourceError](err)
	return ok
}

// read stores the content of a file and returns its node. A file that changes
// meanwhile is read again, and in the end marked.
func (s *run) read(batch *repo.Batch, j *fileJob, p *probe) (*tree.Node, error) {
	for attempt := 1; ; attempt++ {
		n, stable, doubt, err := s.readOnce(batch, j, p)
		if err != nil {
			return nil, err
		}
		if doubt != nil {
			n.Unstable = true
			s.problem(j.path(), Unstable, doubt)
			return n, nil
		}
		if stable {
			if s.o.ReadAll && sameInode(n, j.prev) && !j.prev.Unstable && !sameContent(n, j.prev) {
				s.problem(j.path(), SilentChange, errors.New("its content differs from the last snapshot's, but size, times and inode do not: bit rot, or somebody who hides a change"))
			}
			return n, nil
		}
		if attempt == readAttempts {
			n.Unstable = true
			s.problem(j.path(), Unstable, fmt.Errorf("changed while it was read, %d times in a row: what is stored may mix old and new", readAttempts))
			return n, nil
		}
	}
}

func sameContent(n, old *tree.Node) bool {
	return n.Indirect == old.Indirect && slices.Equal(n.Content, old.Content) && slices.Equal(n.Extents, old.Extents)
}

// doubt is why the file may be inconsistent although it is stable.
func (s *run) readOnce(batch *repo.Batch, j *fileJob, p *probe) (n *tree.Node, stable bool, doubt, err error) {
	f, err := j.entry.Open()
	if err != nil {
		return nil, false, nil, sourceError{err}
	}
	defer f.Close()
	if d, ok := f.(Doubtful); ok {
		doubt = d.Doubt()
	}
	n = f.Node()
	n.Name = j.node.Name
	var whole hash.Hash
	if s.o.FileSHA256 {
		whole = sha256.New()
	}
	if p != nil {
		p.begin(n)
	}
	chunks, got, err := s.split(batch, f, whole, p)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) && isSourceError(err):
		truncate(n, got)
	case err != nil:
		return nil, false, nil, err
	default:
		changed, err := f.Changed()
		if err != nil {
			return nil, false, nil, sourceError{err}
		}
		stable = !changed
	}
	if whole != nil && n.Extents == nil && len(chunks) > 1 {
		sum := tree.Hash(whole.Sum(nil))
		n.SHA256 = &sum
	}
	return n, stable, doubt, s.setContent(n, chunks)
}

// truncate makes n fit the got bytes that could be read of it.
func truncate(n *tree.Node, got int64) {
	if n.Extents == nil {
		n.Size = got
		return
	}
	for i := range n.Extents {
		e := &n.Extents[i]
		if e.Length > got {
			e.Length = got
			n.Size = e.Offset + got
			if got == 0 {
				n.Extents = n.Extents[:i]
			} else {
				n.Extents = n.Extents[:i+1]
			}
			return
		}
		got -= e.Length
	}
}

// split cuts what f reads into chunks and stores them. got is how many bytes that
// were. whole and p, if set, see them, too.
func (s *run) split(batch *repo.Batch, f io.Reader, whole hash.Hash, p *probe) (chunks []tree.Chunk, got int64, err error) {
	splitter := s.r.Splitter()
	tail, err := batch.Tail()
	if err != nil {
		return nil, 0, err
	}
	have, scanned := 0, 0 // bytes in tail, of which Cut has seen some
	for eof := false; !eof; {
		n, readErr := f.Read(tail[have:min(have+repo.ReadBytes, len(tail))])
		if p != nil {
			p.take(tail[have:have+n], got)
		}
		have += n
		got += int64(n)
		s.p.Bytes.Add(int64(n))
		s.p.Read.Add(int64(n))
		eof = readErr == io.EOF
		short := errors.Is(readErr, io.ErrUnexpectedEOF)
		if readErr != nil && !eof && !short {
			return nil, got, sourceError{readErr}
		}
		for have > 0 {
			cut := splitter.Cut(tail[:have], scanned, eof || short)
			if cut == 0 {
				scanned = have
				break
			}
			sum := tree.Hash(sha256.Sum256(tail[:cut]))
			if whole != nil {
				whole.Write(tail[:cut])
			}
			if _, err := batch.Add(cut, have-cut, sum); err != nil {
				return nil, got, err
			}
			chunks = append(chunks, tree.Chunk{Hash: sum, Size: uint32(cut)})
			have, scanned = have-cut, 0
			if tail, err = batch.Tail(); err != nil {
				return nil, got, err
			}
		}
		if short {
			return chunks, got, sourceError{readErr}
		}
		if err := limit.Pace(s.ctx); err != nil {
			return nil, got, err
		}
	}
	return chunks, got, nil
}

// setContent lists the chunks in n, in list chunks where they are many.
func (s *run) setContent(n *tree.Node, chunks []tree.Chunk) error {
	n.Content, n.Indirect = chunks, false
	if len(chunks) <= tree.DirectChunks {
		return nil
	}
	n.Content, n.Indirect = nil, true
	var buf []byte
	for _, piece := range tree.SplitList(chunks) {
		buf = tree.AppendChunks(buf[:0], piece)
		h, err := s.w.AddMetadata(buf)
		if err != nil {
			return err
		}
		n.Content = append(n.Content, tree.Chunk{Hash: h, Size: uint32(len(buf))})
	}
	return nil
}
