package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/limit"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Stream makes a snapshot of what produce creates in the Sink, below the only source
// of snap, with the metadata of files that this process might have made: it reads no
// file system. Content is cut and stored as that of files is, while it is written; the
// tree is written, and the snapshot committed, once produce has returned.
//
// On an error nothing was committed: whatever produce returns, a file that it did not
// close, or the end of ctx. An error of produce is a *SourceError, unless the
// repository failed before. Of the options those that say how to read a source (Roots,
// ReadAll, AllowEmpty, DryRun, OnProblem, Skipped, Extra) mean nothing here.
//
// Memory is bounded by the blocks of the writer, a chunk and some for each open file,
// and some 300 bytes for each file.
func Stream(ctx context.Context, r *repo.Repository, snap tree.Snapshot, o Options, produce func(context.Context, *Sink) error) (*tree.Snapshot, error) {
	if len(snap.Sources) != 1 {
		return nil, fmt.Errorf("a stream has one source, not %d", len(snap.Sources))
	}
	o.DryRun = false
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := begin(ctx, cancel, r, &snap, &o)
	if err != nil {
		return nil, err
	}
	defer s.w.Abort()
	k := s.newSink()
	// Who prints nothing for an hour would not hear of it.
	stop := s.w.AfterFailure(func(err error) {
		if ctx.Err() == nil {
			s.fail(err)
		}
	})
	err = produce(ctx, k)
	stop()
	unclosed := k.end()
	s.failMu.Lock()
	failed := s.failed
	s.failMu.Unlock()
	switch {
	case failed != nil:
		return nil, failed
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, &SourceError{string(snap.Sources[0]), err}
	case unclosed != "":
		return nil, &SourceError{string(snap.Sources[0]), fmt.Errorf("%s was not written to its end", unclosed)}
	}
	if err := k.store(); err != nil {
		return nil, err
	}
	s.finish()
	if err := s.conclude(); err != nil {
		return nil, err
	}
	return &snap, nil
}

// A Sink takes the files of a Stream, in any order. Its methods may be used
// concurrently, and any number of files be open at once. Names are slash-separated,
// below the source, and valid for [fs.ValidPath]; "." is the source itself, which
// may be a file. Directories are made as they are needed.
type Sink struct {
	s       *run
	made    tree.Node // of which each file and directory is a copy
	batches []*sinkBatch
	buffers sync.Pool // *[]byte of a file

	// gate is held for reading while anything is done, so that nothing is once ended
	// is set.
	gate  sync.RWMutex
	ended bool

	mu   sync.Mutex
	top  *sinkEntry // the source
	prev *tree.Node // what the parent has of the source; nil: nothing, or prevErr
	// prevErr keeps it from being read just now: it matters to who wants to keep something.
	prevErr error
	kept    bool // something
}

// A sinkEntry is a file or directory of the snapshot to be.
type sinkEntry struct {
	node *tree.Node
	open bool                  // a file that is not closed yet
	kids map[string]*sinkEntry // of a directory
}

// A sinkBatch gathers the chunks of some of the files: as long as no more are open than
// there are batches, each has one for itself, and its chunks are next to each other.
// Files do not own one: that so many are open that there are not blocks for all must not
// make each of them wait for the others.
type sinkBatch struct {
	mu    sync.Mutex
	batch *repo.Batch
	files int // that use it; Sink.mu
}

func (s *run) newSink() *Sink {
	now := s.snap.Time
	k := &Sink{s: s, made: tree.Node{
		UID: uint32(max(os.Getuid(), 0)), GID: uint32(max(os.Getgid(), 0)), Links: 1,
		MTime: tree.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())},
	}}
	k.buffers.New = func() any { return new([]byte) }
	for range s.o.Readers {
		k.batches = append(k.batches, &sinkBatch{batch: s.w.Batch(repo.Data)})
	}
	if s.o.Parent != nil {
		var err error
		k.prev, err = tree.Lookup(s.ctx, s.r, s.o.Parent.RootNode(), string(s.snap.Sources[0]))
		k.prevErr = notKept(err)
	}
	k.top = k.dir("")
	return k
}

func (k *Sink) dir(name string) *sinkEntry {
	n := k.made
	n.Name, n.Type, n.Mode = name, tree.Dir, 0o700
	return &sinkEntry{node: &n, kids: make(map[string]*sinkEntry)}
}

var errSinkEnded = errors.New("the stream has ended")

// enter must be left with k.gate.RUnlock, unless it returns an error.
func (k *Sink) enter() error {
	k.gate.RLock()
	if k.ended {
		k.gate.RUnlock()
		return errSinkEnded
	}
	return nil
}

// Create begins a file, which is complete when its writer is closed; the writer is for
// one goroutine at a time. A name that is taken is [fs.ErrExist].
func (k *Sink) Create(name string) (io.WriteCloser, error) {
	if err := k.enter(); err != nil {
		return nil, err
	}
	defer k.gate.RUnlock()
	n := k.made
	n.Type, n.Mode = tree.File, 0o600
	e := &sinkEntry{node: &n, open: true}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.put(name, e); err != nil {
		return nil, fmt.Errorf("create %q: %w", name, err)
	}
	b := slices.MinFunc(k.batches, func(a, b *sinkBatch) int { return a.files - b.files })
	b.files++
	f := &sinkFile{k: k, e: e, b: b, path: k.path(name), buf: k.buffers.Get().(*[]byte)}
	if k.s.o.FileSHA256 {
		f.whole = sha256.New()
	}
	return f, nil
}

// path is that of a name in the snapshot.
func (k *Sink) path(name string) string { return path.Join(string(k.s.snap.Sources[0]), name) }

// notKept is nil for what is not there, or damaged; anything else is no reason to leave it
// out, as it may be there the next time.
func notKept(err error) error {
	for _, gone := range []error{fs.ErrNotExist, repo.ErrCorrupt, repo.ErrMissing, tree.ErrCorrupt} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

// Keep takes over a file, or a directory with all that is in it, from the parent, and
// says whether there is one, whole. What has a name already is an error, but for
// directories, which become one. Nothing but directories is read.
func (k *Sink) Keep(name string) (bool, error) {
	if err := k.enter(); err != nil {
		return false, err
	}
	defer k.gate.RUnlock()
	if k.prev == nil {
		return false, k.prevErr
	}
	old, err := tree.Lookup(k.s.ctx, k.s.r, k.prev, name)
	if err != nil {
		return false, notKept(err)
	}
	return k.take(name, old)
}

// Take takes over a node of another snapshot of the repository, under a name, as Keep does
// from the parent.
func (k *Sink) Take(name string, n *tree.Node) (bool, error) {
	if err := k.enter(); err != nil {
		return false, err
	}
	defer k.gate.RUnlock()
	return k.take(name, n)
}

func (k *Sink) take(name string, old *tree.Node) (bool, error) {
	s := k.s
	for h, err := range tree.Hashes(s.ctx, s.r, old) {
		if err != nil || !s.w.Has(h) {
			return false, notKept(err)
		}
	}
	found := make(map[string]*sinkEntry) // by name
	err := tree.Walk(s.ctx, s.r, name, old, tree.Visitor{Node: func(at string, n *tree.Node) error {
		mine := *n // put gives it another name
		e := &sinkEntry{node: &mine}
		if n.Type == tree.Dir {
			e.kids = make(map[string]*sinkEntry)
		}
		found[path.Clean(at)] = e
		return nil
	}})
	if err != nil {
		return false, notKept(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, at := range slices.Sorted(maps.Keys(found)) { // parents first
		e := found[at]
		if there := k.find(at); there != nil && there.kids != nil && e.kids != nil {
			continue
		}
		if err := k.put(at, e); err != nil {
			return false, fmt.Errorf("keep %q: %w", at, err)
		}
	}
	k.kept = true
	return true, nil
}

// find returns the entry of that name; nil: there is none.
func (k *Sink) find(name string) *sinkEntry {
	at := k.top
	if name == "." {
		return at
	}
	for part := range strings.SplitSeq(name, "/") {
		if at = at.kids[part]; at == nil {
			return nil
		}
	}
	return at
}

// put gives an entry its place.
func (k *Sink) put(name string, e *sinkEntry) error {
	if !fs.ValidPath(name) {
		return fs.ErrInvalid
	}
	if name == "." {
		if k.top.kids == nil || len(k.top.kids) > 0 {
			return fs.ErrExist
		}
		k.top = e
		return nil
	}
	at := k.top
	parts := strings.Split(name, "/")
	for i, part := range parts {
		if !tree.ValidName(part) {
			return fs.ErrInvalid
		}
		if at.kids == nil {
			return fmt.Errorf("%q is a file: %w", path.Join(parts[:i]...), fs.ErrExist)
		}
		next := at.kids[part]
		switch {
		case i == len(parts)-1 && next != nil:
			return fs.ErrExist
		case i == len(parts)-1:
			e.node.Name = part
			at.kids[part] = e
			return nil
		case next == nil:
			next = k.dir(part)
			at.kids[part] = next
		}
		at = next
	}
	return nil
}

// end lets nothing more happen, and names a file that is not closed; "": all are.
func (k *Sink) end() (unclosed string) {
	k.gate.Lock()
	k.ended = true
	k.gate.Unlock()
	var look func(name string, e *sinkEntry)
	look = func(name string, e *sinkEntry) {
		if e.open && unclosed == "" {
			unclosed = name
		}
		for _, part := range slices.Sorted(maps.Keys(e.kids)) {
			look(path.Join(name, part), e.kids[part])
		}
	}
	look(k.path(""), k.top)
	return unclosed
}

// store writes the tree.
func (k *Sink) store() error {
	s := k.s
	for _, b := range k.batches {
		if err := b.batch.Flush(); err != nil {
			return err
		}
	}
	if k.kept {
		s.snap.Mode = tree.Incremental
	}
	// The directories above the source.
	e := k.top
	parts := strings.FieldsFunc(string(s.snap.Sources[0]), func(r rune) bool { return r == '/' })
	for _, part := range slices.Backward(parts) {
		above := k.dir("")
		e.node.Name = part
		above.kids[part] = e
		e = above
	}
	if e.kids == nil {
		return fmt.Errorf("the source %q cannot be a file", s.snap.Sources[0])
	}
	prev := s.parentRoot()
	e.node.Name = ""
	top := s.newDir(nil, "/", e.node, prevEntry{Node: prev})
	err := s.writeDir(top, e, prev)
	if err == nil {
		err = s.failed // of the records; nobody else is left
	}
	if err != nil {
		return err
	}
	s.snap.Root = top.node.Content
	return s.ctx.Err()
}

// writeDir writes a directory and what is in it. Unlike a walk, it finds all finished.
func (s *run) writeDir(d *dir, e *sinkEntry, prev *tree.Node) error {
	defer s.release(d)
	before := s.previous(prev)
	s.dirs.Add(1)
	s.p.Dirs.Add(1)
	for _, name := range slices.Sorted(maps.Keys(e.kids)) {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		kid, old := e.kids[name], before.next(name)
		n := kid.node
		at := tree.Join(d.path, name)
		switch n.Type {
		case tree.Dir:
			n.Content = nil // of the parent's, which may not be all of it
			if err := s.writeDir(s.newDir(d, at, n, old), kid, old.Node); err != nil {
				return err
			}
			continue
		case tree.File:
			s.countStreamed(at, n, old.Node)
		default:
			s.others.Add(1)
		}
		s.settle(d, d.record.begin(old), n)
	}
	return nil
}

// countStreamed counts a file, whose change is one of content.
func (s *run) countStreamed(at string, n, old *tree.Node) {
	state := "changed"
	switch {
	case old == nil || old.Type != tree.File:
		state = "new"
		s.fresh.Add(1)
	case sameContent(n, old):
		state = "unmodified"
		s.unmodified.Add(1)
	default:
		s.changed.Add(1)
	}
	if s.o.OnFile != nil {
		s.o.OnFile(at, state)
	}
	if s.o.OnStored != nil {
		s.o.OnStored(at, n)
	}
	s.files.Add(1)
	s.bytes.Add(n.Size)
}

// scanBytes is how much is gathered before it is looked at for a cut: programs print by
// the line.
const scanBytes = 64 << 10

// A sinkFile is a file being written.
type sinkFile struct {
	k      *Sink
	e      *sinkEntry
	b      *sinkBatch
	path   string
	whole  hash.Hash // nil: not asked for
	closed bool

	buf     *[]byte // what is not a chunk yet, of which Cut has scanned some
	scanned int
	chunks  []tree.Chunk
}

// Write stores what it is given, sooner or later. Its error is that of the repository
// or the context.
func (f *sinkFile) Write(p []byte) (int, error) {
	if err := f.k.enter(); err != nil {
		return 0, err
	}
	defer f.k.gate.RUnlock()
	if f.closed {
		return 0, fs.ErrClosed
	}
	s := f.k.s
	s.p.current.Store(&f.path)
	for n := 0; n < len(p); {
		// Looked at often enough, what is left behind a cut is short.
		take := min(len(p)-n, scanBytes-(len(*f.buf)-f.scanned))
		*f.buf = append(*f.buf, p[n:n+take]...)
		n += take
		f.e.node.Size += int64(take)
		s.p.Bytes.Add(int64(take))
		s.p.Read.Add(int64(take))
		if len(*f.buf)-f.scanned < scanBytes {
			break
		}
		if err := f.cut(false); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// cut stores what is known to be chunks.
func (f *sinkFile) cut(final bool) error {
	s := f.k.s
	splitter := s.r.Splitter()
	data := *f.buf
	for len(data) > 0 {
		n := splitter.Cut(data, f.scanned, final)
		if n == 0 {
			f.scanned = len(data)
			break
		}
		if err := f.add(data[:n]); err != nil {
			s.fail(err)
			return err
		}
		data, f.scanned = data[n:], 0
	}
	*f.buf = append((*f.buf)[:0], data...)
	return nil
}

func (f *sinkFile) add(data []byte) error {
	s := f.k.s
	if err := limit.Pace(s.ctx); err != nil {
		return err
	}
	sum := tree.Hash(sha256.Sum256(data))
	if f.whole != nil {
		f.whole.Write(data)
	}
	f.b.mu.Lock()
	err := f.b.batch.Copy(data, sum)
	f.b.mu.Unlock()
	if err != nil {
		return err
	}
	f.chunks = append(f.chunks, tree.Chunk{Hash: sum, Size: uint32(len(data))})
	return nil
}

// Close makes the file complete.
func (f *sinkFile) Close() error {
	if err := f.k.enter(); err != nil {
		return err
	}
	defer f.k.gate.RUnlock()
	if f.closed {
		return fs.ErrClosed
	}
	s := f.k.s
	if err := f.cut(true); err != nil {
		return err
	}
	f.closed = true
	n := f.e.node
	if f.whole != nil && len(f.chunks) > 1 {
		sum := tree.Hash(f.whole.Sum(nil))
		n.SHA256 = &sum
	}
	if err := s.setContent(n, f.chunks); err != nil {
		s.fail(err)
		return err
	}
	s.p.Files.Add(1)
	f.k.buffers.Put(f.buf)
	f.buf = nil
	f.k.mu.Lock()
	f.e.open = false
	f.b.files--
	f.k.mu.Unlock()
	return nil
}
