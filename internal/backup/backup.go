// Package backup turns sources into one snapshot: it walks them, decides which
// files have to be read, splits and stores what is new, and commits. Or it stores what a
// program prints.
//
// It knows neither file systems (package files is a Source) nor configuration,
// and never changes anything but the repository.
//
// One goroutine walks; Readers goroutines read files, hash and look up chunks; the
// repository's writer compresses and seals behind them. A directory's record is
// written as its entries are finished, by whoever finishes them, so nobody waits.
// Memory is bounded, whatever the size of a directory: by the blocks of the writer,
// a queue of jobs, and for each directory that is open by a page, the entries
// that its Dir returns at a time, and those that wait for a large file.
//
// source.go: what a source is. backup.go: a run. walk.go: directories. record.go:
// their records, and the previous ones. read.go: files. drift.go: how much of them is
// not as before, for package guard. stream.go: what is not read but written.
package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// ErrEmptySource says that a source holds nothing: more often a file system that
// is not mounted than what was meant.
var ErrEmptySource = errors.New("the source is empty")

// A SourceError says that a source itself cannot be read, or is empty: a run to
// another repository would end the same.
type SourceError struct {
	Path string
	Err  error
}

func (e *SourceError) Error() string { return "source " + e.Path + ": " + e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }

// Kinds of problems, as tree.Problem has them.
const (
	Unreadable   = "unreadable"    // not in the snapshot
	Vanished     = "vanished"      // gone between listing and reading: not in the snapshot
	Unstable     = "unstable"      // changed during every attempt to read it
	Metadata     = "metadata"      // an attribute is missing
	SilentChange = "silent-change" // other content, though size, times and inode are the same
)

// A Root is one source and its place in the snapshot.
type Root struct {
	Path      string       // absolute, slash-separated
	Ancestors []*tree.Node // the directories above, "/" first
	Entry     Entry        // closed by Run
}

// Options describe a run.
type Options struct {
	Roots []Root
	// Parent is the snapshot to compare with; nil: none.
	Parent *tree.Snapshot
	// ReadAll reads files even if they seem unchanged since Parent.
	ReadAll bool
	// AllowEmpty accepts sources without any entry.
	AllowEmpty bool
	// FileSHA256 records the SHA-256 of files of several chunks too, at the price
	// of hashing them twice.
	FileSHA256 bool
	// DryRun compares, but neither reads files nor writes anything.
	DryRun bool
	// Readers is the number of goroutines that read files; at least 1.
	Readers int
	// Write configures compression and sealing. Readers is set by Run.
	Write repo.WriterOptions
	// Progress, if set, is updated as the run goes.
	Progress *Progress
	// OnProblem, if set, receives each problem, from several goroutines.
	OnProblem func(tree.Problem)
	// OnFile, if set, receives each file with what was found about it: new,
	// changed or unmodified.
	OnFile func(path, state string)
	// OnStored, if set, receives each file as the snapshot will have it, from several
	// goroutines. The node is not the caller's.
	OnStored func(path string, n *tree.Node)
	// Owners, if set, returns the names of the users and groups met. Called at
	// the end.
	Owners func() (users, groups map[uint32]string)
	// Skipped, if set, returns how many entries were left out on purpose.
	Skipped func() int64
	// Extra, if set, returns problems that the sources have reported by
	// themselves, and how many they were.
	Extra func() ([]tree.Problem, int64)
	// Judge, if set, may tag the snapshot, before it is committed: it is complete
	// but for its end.
	Judge func(*tree.Snapshot)
	// Now is the clock.
	Now func() time.Time

	maxPending int // of each record; 0: the constant
}

// Progress is what a run has done so far, or several one after the other. It may be read
// at any time.
type Progress struct {
	Files, Dirs atomic.Int64
	Bytes       atomic.Int64 // of files finished or being read, unchanged ones included
	Read        atomic.Int64 // bytes read from the sources
	Stored      atomic.Int64 // bytes written to the repository
	TotalFiles  atomic.Int64 // by the parents; 0: unknown
	TotalBytes  atomic.Int64
	Problems    atomic.Int64
	current     atomic.Pointer[string]
}

// Current is the path of a file being read, "" for none.
func (p *Progress) Current() string {
	if path := p.current.Load(); path != nil {
		return *path
	}
	return ""
}

// run is the state of one run.
type run struct {
	o    *Options
	r    *repo.Repository
	w    *repo.Writer // nil in a dry run
	ctx  context.Context
	snap *tree.Snapshot
	p    *Progress

	jobs chan *fileJob

	files, dirs, symlinks, others, bytes atomic.Int64
	fresh, changed, unmodified           atomic.Int64

	linkMu sync.Mutex
	links  map[tree.LinkKey]*link

	damaged atomic.Bool // a record of the parent could not be read
	drift   *drift      // nil: there is nothing to compare with, or nothing is read

	problemMu sync.Mutex
	pages     sync.Pool // *tree.PageWriter

	failMu sync.Mutex
	failed error // the first error that ends the run
	cancel context.CancelFunc
}

// Run backs up the roots into r, whose index must be loaded, and returns the
// snapshot that was committed. snap says whose and what it is (host, sources,
// mode, …); Run fills in the rest. Problems with single entries are in the
// snapshot, not errors. On an error nothing was committed.
func Run(ctx context.Context, r *repo.Repository, snap tree.Snapshot, o Options) (*tree.Snapshot, error) {
	defer func() {
		for _, root := range o.Roots {
			root.Entry.Close()
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := begin(ctx, cancel, r, &snap, &o)
	if err != nil {
		return nil, err
	}
	if s.w != nil {
		defer s.w.Abort()
		if o.Parent != nil {
			s.drift = &drift{s: s}
		}
	}
	if err := s.walkAll(); err != nil {
		return nil, err
	}
	s.finish()
	if o.DryRun {
		return &snap, nil
	}
	if err := s.conclude(); err != nil {
		return nil, err
	}
	return &snap, nil
}

// begin makes the state of a run, whose writer the caller aborts.
func begin(ctx context.Context, cancel context.CancelFunc, r *repo.Repository, snap *tree.Snapshot, o *Options) (*run, error) {
	o.Readers = max(o.Readers, 1)
	o.Write.Readers = o.Readers
	if o.Progress == nil {
		o.Progress = new(Progress)
	}
	s := &run{
		o: o, r: r, ctx: ctx, cancel: cancel, snap: snap, p: o.Progress,
		jobs:  make(chan *fileJob, 4*o.Readers),
		links: make(map[tree.LinkKey]*link),
		pages: sync.Pool{New: func() any { return new(tree.PageWriter) }},
	}
	if o.Parent != nil {
		s.p.TotalFiles.Add(o.Parent.Counts.Files)
		s.p.TotalBytes.Add(o.Parent.Counts.Bytes)
		snap.Parent = &o.Parent.ID
	}
	if o.DryRun {
		return s, nil
	}
	var err error
	s.w, err = r.NewWriter(ctx, o.Write)
	return s, err
}

// conclude commits a run whose tree is written.
func (s *run) conclude() error {
	if err := s.w.Flush(); err != nil {
		return err
	}
	snap, st := s.snap, &s.w.Stats
	snap.Counts.DataAdded = st.DataAdded.Load()
	snap.Counts.BytesAdded, snap.Counts.BytesStored, snap.Counts.ChunksAdded = st.BytesAdded.Load(), st.BytesStored.Load(), st.ChunksAdded.Load()
	if s.o.Judge != nil {
		s.o.Judge(snap)
	}
	snap.End = s.o.Now()
	snap.ID = repo.NewID()
	body, err := tree.EncodeSnapshot(snap)
	if err != nil {
		return err
	}
	return s.w.Commit(snap.ID, body)
}

// walkAll runs the readers and the walk.
func (s *run) walkAll() error {
	root := s.plan()
	var readers sync.WaitGroup
	for range s.o.Readers {
		readers.Go(s.reader)
	}
	prev := s.parentRoot()
	top := s.newDir(nil, "/", &tree.Node{Type: tree.Dir}, prevEntry{Node: prev})
	err := s.walkPlanned(top, root, prev)
	s.fail(err)
	close(s.jobs)
	readers.Wait()
	s.failMu.Lock()
	defer s.failMu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if open := atomic.LoadInt32(&top.open); open != 0 {
		panic(fmt.Sprintf("backup: %d entries of / were never finished", open))
	}
	s.snap.Root = top.node.Content
	return nil
}

func (s *run) parentRoot() *tree.Node {
	if s.o.Parent == nil {
		return nil
	}
	return s.o.Parent.RootNode()
}

// fail ends the run with its first error.
func (s *run) fail(err error) {
	if err == nil {
		return
	}
	s.failMu.Lock()
	defer s.failMu.Unlock()
	if s.failed == nil {
		s.failed = err
		s.cancel()
	}
}

// finish fills in what the walk has counted.
func (s *run) finish() {
	c := &s.snap.Counts
	c.Files, c.Dirs, c.Symlinks, c.Others, c.Bytes = s.files.Load(), s.dirs.Load(), s.symlinks.Load(), s.others.Load(), s.bytes.Load()
	c.New, c.Changed, c.Unmodified = s.fresh.Load(), s.changed.Load(), s.unmodified.Load()
	c.BytesRead = s.p.Read.Load()
	s.snap.Drift = s.drift.sum(c.Changed + c.Unmodified)
	if s.o.Skipped != nil {
		c.SkippedByRule = s.o.Skipped()
	}
	if s.o.Extra != nil {
		more, n := s.o.Extra()
		c.Problems += n
		s.snap.Problems = append(s.snap.Problems, more[:min(len(more), tree.MaxProblems-len(s.snap.Problems))]...)
	}
	if s.o.Owners != nil {
		s.snap.Users, s.snap.Groups = s.o.Owners()
	}
	slices.SortFunc(s.snap.Problems, func(a, b tree.Problem) int { return strings.Compare(string(a.Path), string(b.Path)) })
}

// Problem records something that is not in the snapshot as it was in the source.
func (s *run) problem(path, kind string, err error) {
	p := tree.Problem{Path: tree.Path(path), Kind: kind, Text: err.Error()}
	s.p.Problems.Add(1)
	s.problemMu.Lock()
	s.snap.Counts.Problems++
	if len(s.snap.Problems) < tree.MaxProblems {
		s.snap.Problems = append(s.snap.Problems, p)
	}
	s.problemMu.Unlock()
	if s.o.OnProblem != nil {
		s.o.OnProblem(p)
	}
}

// A planned directory is one above the sources, or one at which a source begins.
type planned struct {
	node     *tree.Node
	entry    Entry // the source itself; nil above
	children map[string]*planned
}

// plan merges the sources and the directories above them into one tree.
func (s *run) plan() *planned {
	top := &planned{children: map[string]*planned{}}
	for i := range s.o.Roots {
		root := &s.o.Roots[i]
		at := top
		names := strings.FieldsFunc(root.Path, func(r rune) bool { return r == '/' })
		for k, name := range names {
			next := at.children[name]
			if next == nil {
				next = &planned{children: map[string]*planned{}}
				at.children[name] = next
			}
			if next.node == nil && k+1 < len(root.Ancestors) {
				next.node = root.Ancestors[k+1]
			}
			at = next
		}
		at.entry = root.Entry
	}
	return top
}
