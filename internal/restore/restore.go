// Package restore makes files of a snapshot again: in a directory (Run), as a
// stream (Reader, Cat), as a file system to read from (FS); and compares a directory with a
// snapshot (Verify).
//
// It reads repositories through the small interface Repository and knows nothing
// of keys, storage or configuration. The package promises:
//
//   - Nothing outside the target directory is written, whatever symlinks are in
//     the target or appear meanwhile, and whatever names are in the snapshot.
//   - No file has its final name before all of its content is there and was
//     compared with the SHA-256 in its record. Content is written under a name
//     that begins with TempPrefix; the next restore into the directory removes
//     what a killed one left. (Power cuts: see Options.Sync.)
//   - What can be restored is restored; everything that is not is in the Result.
//
// Content is planned by block: files are gathered into windows of at most
// windowFiles files; within a window each block is read once, in the order of
// packs and offsets, and written to its files by several workers. While they do
// so, the tree is walked on and the next window gathered, as the files of this one end:
// the first windows are small, so that writing begins at once. A window begins while the
// last blocks of the one before are being read. Blocks of which something is left over are
// kept for the next window, the last keptBytes of them; others that both need are read
// twice, such as those of equal files far from each other: the larger the windows, the
// fewer. Memory is that of liveFiles files (some 900 bytes each), the kept blocks, a
// block per worker, the names of the existing directories on the current path, the
// directories that still wait for a file, and some 200 bytes for each group of hard
// links that is not complete.
//
// restore.go: the interface, options, results. dirs.go: directories and their
// handles. walk.go: reading records and deciding. window.go: what is restored
// together. files.go: content. kept.go: blocks left over. links.go:
// symlinks, devices, hard links. metadata.go, owners.go: owners, modes, times, attributes.
// delete.go: extras. beside.go: those that spoil a database. scratch.go: directories for drills. verify.go. read.go: a file as a stream; fs.go: a directory as an
// fs.FS. sys_*.go: system calls.
package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Repository is what a restore reads from. All methods are safe for concurrent
// use.
type Repository interface {
	// Load returns the plaintext of one chunk. Besides directory pages and lists, it is
	// asked for single chunks of a block that ReadBlock could not read, in case
	// the repository knows another copy.
	tree.Loader
	// Locate says where a chunk is; false: in no pack that is there.
	Locate(hash repo.Hash) (repo.Location, bool)
	// ReadBlock returns the plaintext of a block. buf is reused when large
	// enough. Errors wrap repo.ErrCorrupt or repo.ErrMissing where the block
	// is lost; any other means that reading failed for now.
	ReadBlock(ctx context.Context, b *repo.Block, buf []byte) ([]byte, error)
}

// A RunReader is a Repository that reads neighbouring blocks with one request, which
// saves the time that each request to a distant store takes.
type RunReader interface {
	// ReadBlocks is ReadBlock for blocks of one pack in the order of their
	// offsets. next is called for each, with its plaintext or the error, and
	// returns the buffer for the one after. When ctx has ended, the rest is left
	// out.
	ReadBlocks(ctx context.Context, blocks []*repo.Block, buf []byte, next func(plain []byte, err error) []byte)
}

// A Distant is a Repository that takes long to answer, wherever its blocks are.
type Distant interface {
	// Reads is how many reads are worth making at a time; 0: it is not distant.
	Reads() int
}

// TempPrefix begins the names of unfinished files; 16 hexadecimal digits follow.
const TempPrefix = ".bh-restore-"

// Bounds.
const (
	windowFiles  = 24_000   // files restored together; a block that several windows need may be read for each
	liveFiles    = 28_000   // files in memory: of the window that is restored, and of the next
	windowStart  = 512      // files that are enough for a window if nothing is being written
	windowChunks = 32 << 10 // chunks planned together, about 130 bytes each; one plan and the end of another are in memory
	windowWeight = 32 << 10 // chunks, extents, KiBs of attributes and waiting links in the nodes of a window
	keptBytes    = 8 << 20  // plaintext of blocks kept from window to window
	runBytes     = 4 << 20  // stored length of the blocks that are read with one request

	// runsPerWorker is how many requests a worker makes at least for a plan, so that
	// all end at about the same time. Those of a Distant are many, and their requests
	// cost more than an uneven end.
	runsPerWorker = 8
	distantRuns   = 2
	// distantBytes is runBytes of a Distant. Blocks are opened as they arrive, so that it
	// costs no memory; a server takes a quarter less time for its 167 requests than for 422.
	distantBytes = 16 << 20

	maxOpenFiles = 64 // unfinished files open at a time
	maxIdleDirs  = 96 // directory handles kept open without need
	maxWorkers   = 32
	allocateMin  = 1 << 20 // bytes from which on a file is preallocated

	// A restore that has written more than a storeShare-th of the memory has files of
	// storeMin bytes and more stored while they are written, in steps of storeBytes:
	// few files are so large, and whoever reads one at once reads it from the disk. A
	// disk that lets wait longer than storePatience writes less than 160 MB/s (or
	// others keep it busy).
	storeShare    = 8
	storeMin      = 32 << 20
	storeBytes    = 8 << 20
	storePatience = 50 * time.Millisecond

	// MaxListed bounds each list of a Result; the counts go on.
	MaxListed = 10_000

	// maxReadErrors is the number of consecutive blocks that cannot be read, for
	// other reasons than damage, after which the repository counts as gone.
	maxReadErrors = 16
)

// Decision is what a selection says about a path.
type Decision uint8

const (
	// Include restores the entry. A directory's entries are asked for one by one.
	Include Decision = iota
	// Exclude leaves the entry, and all below it, alone.
	Exclude
	// Descend is for directories that are not selected themselves but may hold
	// something that is: one is created only if something in it is restored,
	// and one that exists keeps its metadata and its extras.
	Descend
)

// Overwrite says what happens to entries that exist in the target.
type Overwrite uint8

const (
	// Always compares content, writes what differs and corrects metadata.
	Always Overwrite = iota
	// IfChanged is Always, but takes a file of the same size and modification
	// time as unchanged without reading it.
	IfChanged
	// IfNewer keeps existing entries that are not older than the snapshot's.
	IfNewer
	// Never keeps all existing entries. Existing directories are entered, but
	// keep their metadata.
	Never
)

// Sparse says what becomes of the holes of sparse files.
type Sparse uint8

const (
	AsRecorded Sparse = iota // holes are holes
	Allocated                // every block is allocated
)

// EventKind says what happened to an entry (or would, in a dry run).
type EventKind uint8

const (
	Created   EventKind = iota
	Replaced            // had another content or type
	Adjusted            // content was right, metadata was not
	Unchanged           //
	Kept                // existing, because of Options.Overwrite
	Deleted             // was not in the snapshot
	Lost                // damaged or missing in the repository
	Failed              // could not be written
	Warning             // restored, but not all of its metadata
)

func (k EventKind) String() string {
	names := [...]string{"created", "replaced", "adjusted", "unchanged", "kept", "deleted", "lost", "failed", "warning"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// An Event is reported for each entry. Path is that of the snapshot.
type Event struct {
	Kind EventKind
	Type tree.Type // 0: a deleted socket, or unknown
	Path string
	Err  error // of Lost, Failed and Warning
}

// Progress may be read while Run works.
type Progress struct {
	// Totals are known from the start if a whole snapshot is restored, and grow
	// while the tree is read otherwise.
	FilesTotal, BytesTotal atomic.Int64
	FilesDone, BytesDone   atomic.Int64 // lost and unchanged ones included

	current atomic.Pointer[dir]
}

// Current returns the path of the directory that was last worked in.
func (p *Progress) Current() string {
	if d := p.current.Load(); d != nil {
		return d.path()
	}
	return ""
}

// Options of Run. The zero value restores everything, overwrites what differs,
// and deletes nothing.
type Options struct {
	// Select decides by the path in the snapshot; nil includes all. It is called by one
	// goroutine at a time.
	Select    func(path string, isDir bool) Decision
	Overwrite Overwrite
	// Delete removes entries that are not in the snapshot from included directories whose
	// record could be read completely. It never removes excluded entries and
	// never enters mount points. It also lets a file take the place of a directory.
	Delete bool
	// DryRun reports what would happen, comparing files by size and time only,
	// and changes nothing. The target need not exist.
	DryRun       bool
	Sparse       Sparse
	Workers      int  // 0: GOMAXPROCS + 1, at most 8, or as many as a Distant wants; at most 32
	NumericOwner bool // do not map owners by name
	// TrustBlocks leaves out the comparison of each chunk with its SHA-256; what
	// remains is the authentication of blocks.
	TrustBlocks bool
	// Sync returns only after everything is on stable storage (syncfs). Without
	// it a power cut soon after the restore may leave empty files, as after cp.
	Sync     bool
	Progress *Progress
	Report   func(Event) // one call at a time, from several goroutines

	cut                     func(op string) error // tests: fails operations
	lookupUser, lookupGroup func(name string) (uint32, bool)
	bounds                  bounds // tests: smaller ones
}

// bounds are those of a session: the constants, but for tests.
type bounds struct{ files, live, start, chunks, weight, kept, openFiles, idleDirs, storeAfter int }

func (b bounds) orDefault() bounds {
	return bounds{
		files:     cmp.Or(b.files, windowFiles),
		live:      cmp.Or(b.live, liveFiles),
		start:     cmp.Or(b.start, windowStart),
		chunks:    cmp.Or(b.chunks, windowChunks),
		weight:    cmp.Or(b.weight, windowWeight),
		kept:      cmp.Or(b.kept, keptBytes),
		openFiles: cmp.Or(b.openFiles, maxOpenFiles-maxWorkers),
		idleDirs:  cmp.Or(b.idleDirs, maxIdleDirs),

		storeAfter: cmp.Or(b.storeAfter, memoryBytes()/storeShare),
	}
}

// A Problem is an entry that is not as it should be.
type Problem struct {
	Path string
	Err  error
}

// Result counts what Run did. A restore is complete if Lost and Failed are empty;
// Warnings are about metadata.
type Result struct {
	Files, Dirs, Symlinks, Others int64 // created or replaced; Others: FIFOs, devices
	Links                         int64 // further names of hard-linked entries
	Adjusted, Unchanged, Kept     int64
	Deleted                       int64
	BytesWritten                  int64 // content, without holes

	// The lists hold at most MaxListed each.
	Lost, Failed, Warnings                []Problem
	LostCount, FailedCount, WarningsCount int64
	// OwnersKept is the number of entries that belong to the restoring user
	// because only root can give files away; it is reported as one warning.
	OwnersKept int64
}

// Complete says whether everything was restored.
func (r *Result) Complete() bool { return r.LostCount == 0 && r.FailedCount == 0 }

// Run restores node, which is at path in snap, into the directory target, which
// is created if needed (0700). A directory's contents go into target itself,
// which also gets the directory's metadata, whether it existed or not, unless path
// is "/": the root of a snapshot has none. Anything else goes to its name in target.
//
// The error says why the restore ended early (a full disk, ctx, the repository or
// the target gone). Damage and single failures are no error: see Result, which is
// valid in any case.
func Run(ctx context.Context, r Repository, snap *tree.Snapshot, node *tree.Node, path, target string, o Options) (Result, error) {
	if node.Type != tree.Dir && !tree.ValidName(node.Name) {
		return Result{}, fmt.Errorf("restore %q: invalid name", path)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &session{
		ctx: ctx, cancel: cancel, r: r, o: o, snap: snap,
		sys:    &sys{cut: o.cut},
		root:   privileged(),
		fresh:  info{mode: ^uint32(0), uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())},
		groups: map[tree.LinkKey]*group{},
		window: new(window),
	}
	if s.o.Progress == nil {
		s.o.Progress = new(Progress)
	}
	s.o.bounds = o.bounds.orDefault()
	s.live.less.L = &s.live.mu
	s.dirs.max = s.o.bounds.idleDirs
	s.kept.max = s.o.bounds.kept
	s.owners = newOwners(snap, &o)
	s.o.Workers, s.runsPerWorker, s.runBytes = workers(o.Workers), runsPerWorker, runBytes
	if d, ok := r.(Distant); ok && o.Workers == 0 && d.Reads() > s.o.Workers {
		s.o.Workers, s.runsPerWorker, s.runBytes = workers(d.Reads()), distantRuns, distantBytes
	}
	s.workers = make(chan []byte, s.o.Workers)
	for range s.o.Workers {
		s.workers <- nil
	}
	s.totalsKnown = path == "/" && o.Select == nil
	if s.totalsKnown {
		s.o.Progress.FilesTotal.Store(snap.Counts.Files)
		s.o.Progress.BytesTotal.Store(snap.Counts.Bytes)
	}
	err := s.run(node, path, target)
	s.res.BytesWritten = s.written.Load()
	if s.res.OwnersKept > 0 {
		s.warn(place{nil, path}, tree.Dir, fmt.Errorf("%d entries belong to the restoring user: only root can give files away", s.res.OwnersKept))
	}
	if lacks != "" {
		s.warn(place{nil, path}, tree.Dir, errors.New(lacks))
	}
	return s.res, err
}

// session is one run.
type session struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	r      Repository
	o      Options
	snap   *tree.Snapshot
	sys    *sys
	root   bool
	fresh  info // what a file is like that was created just now; its mode counts as unknown
	owners *owners

	totalsKnown bool
	dirs        dirCache
	open        openFiles
	kept        keptBlocks
	workers     chan []byte // those that have nothing to do: their buffers

	runsPerWorker int
	runBytes      int64
	slowDisk      atomic.Bool

	// Of the walking goroutine.
	window  *window // being gathered
	running *window // being restored; nil: none
	ending  *window // the one before, of which the last blocks are being read; nil: none
	live    liveJobs
	groups  map[tree.LinkKey]*group

	written    atomic.Int64 // bytes
	selecting  sync.Mutex   // of calls of Select
	mu         sync.Mutex   // of what follows, and of calls of Report
	res        Result
	readErrors int // consecutive blocks
}

func (s *session) run(node *tree.Node, path, target string) error {
	top := &dir{s: s, name: path, made: true}
	top.pending.Store(1)
	h, err := openTarget(s.sys, target)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrNotExist) && s.o.DryRun:
		top.absent = true
	case errors.Is(err, os.ErrPermission) && !s.root && !s.o.DryRun:
		// A target that an earlier restore gave the mode of its directory.
		if err := s.sys.step("chmod target"); err != nil {
			return err
		}
		if os.Chmod(target, 0o700) == nil {
			h, err = openTarget(s.sys, target)
		}
		if err != nil {
			return fmt.Errorf("open the target: %w", err)
		}
	case errors.Is(err, os.ErrNotExist):
		if err := s.sys.step("mkdir target"); err != nil {
			return err
		}
		if err := os.MkdirAll(target, 0o700); err != nil {
			return fmt.Errorf("create the target: %w", err)
		}
		if h, err = openTarget(s.sys, target); err != nil {
			return fmt.Errorf("open the target: %w", err)
		}
	default:
		return fmt.Errorf("open the target: %w", err)
	}
	if h != nil {
		defer h.close()
		const rwx = 0o700
		if st, err := h.stat(); err == nil && !s.root && !s.o.DryRun && st.mode&rwx != rwx {
			top.reopened = h.object().chmod(st.mode|rwx) == nil
		}
		if err := s.enter(top, h); err != nil {
			return fmt.Errorf("open the target: %w", err)
		}
	}
	defer s.dirs.closeAll()
	if node.Type == tree.Dir {
		switch s.decide(place{nil, path}, true) {
		case Include:
			top.selected = true
			fallthrough
		case Descend:
			if path != "/" {
				top.node = node
			}
			s.walk(top, node.Content)
		}
	} else {
		top.name = path[:max(strings.LastIndexByte(path, '/'), 0)]
		if top.name == "" {
			top.name = "/"
		}
		s.entry(top, node)
	}
	s.flush()
	s.endGroups()
	s.leave(top)
	if s.o.Sync && h != nil && !s.o.DryRun && s.ctx.Err() == nil {
		if err := h.sync(); err != nil {
			s.stop(fmt.Errorf("write to stable storage: %w", err))
		}
	}
	return context.Cause(s.ctx)
}

// decide asks the selection.
func (s *session) decide(at place, isDir bool) Decision {
	if s.o.Select == nil {
		return Include
	}
	s.selecting.Lock()
	defer s.selecting.Unlock()
	return s.o.Select(at.String(), isDir)
}

// keeps says whether an existing entry stays as it is because of the policy.
func (s *session) keeps(old *info, n *tree.Node) bool {
	switch s.o.Overwrite {
	case Never:
		return true
	case IfNewer:
		return old.mtime.Sec > n.MTime.Sec || old.mtime.Sec == n.MTime.Sec && old.mtime.Nsec >= n.MTime.Nsec
	}
	return false
}

// stop ends the run early.
func (s *session) stop(err error) { s.cancel(err) }

// workers is the number to use where want is asked for: by default one more than
// processors, for the one that waits for a disk.
func workers(want int) int {
	if want <= 0 {
		want = min(runtime.GOMAXPROCS(0)+1, 8)
	}
	return min(want, maxWorkers)
}

func (s *session) stopped() bool { return s.ctx.Err() != nil }

// errCut is what tests cut a restore with.
var errCut = errors.New("cut")

// place is where an entry is: a name in a directory, or (d == nil) a path.
type place struct {
	d    *dir
	name string
}

func (p place) String() string {
	if p.d == nil {
		return p.name
	}
	return tree.Join(p.d.path(), p.name)
}

// event counts and reports. It is what every entry ends in.
func (s *session) event(kind EventKind, typ tree.Type, at place, err error) {
	if errors.Is(err, errCut) {
		s.stop(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	listed := func(list *[]Problem, count *int64) {
		if *count++; len(*list) < MaxListed {
			*list = append(*list, Problem{at.String(), err})
		}
	}
	switch kind {
	case Created, Replaced:
		switch typ {
		case tree.File:
			s.res.Files++
		case tree.Dir:
			s.res.Dirs++
		case tree.Symlink:
			s.res.Symlinks++
		default:
			s.res.Others++
		}
	case Adjusted:
		s.res.Adjusted++
	case Unchanged:
		s.res.Unchanged++
	case Kept:
		s.res.Kept++
	case Deleted:
		s.res.Deleted++
	case Lost:
		listed(&s.res.Lost, &s.res.LostCount)
	case Failed:
		listed(&s.res.Failed, &s.res.FailedCount)
	case Warning:
		listed(&s.res.Warnings, &s.res.WarningsCount)
	}
	if s.o.Report != nil {
		s.o.Report(Event{kind, typ, at.String(), err})
	}
}

func (s *session) warn(at place, typ tree.Type, err error) { s.event(Warning, typ, at, err) }

// info is what the system says about an entry.
type info struct {
	typ         tree.Type // 0: a socket, or something else that no snapshot holds
	mode        uint32
	uid, gid    uint32
	mtime       tree.Time
	size        int64 // bytes
	dev, ino    uint64
	rdev, nlink uint64
}
