// Package files reads file systems as sources of backups: it implements
// backup.Dir, backup.Entry and backup.File over a real directory and captures
// in tree.Node whatever the platform keeps about an entry.
//
// It decides nothing about repositories and snapshots, and never writes. What
// is left out by rule is decided by package exclude; what to read at all, and
// what to do about a file that changes, by package backup.
//
// Invariants, on Linux: every name is resolved relative to an open directory
// and never through a symlink, so that nobody who can write to the source can
// lead the backup elsewhere and paths may be of any length; nothing but regular
// files and directories is ever read; an entry costs one statx;
// the number of open directories is bounded whatever the depth of the tree.
// Linux 4.11 (statx) or later is needed. Other platforms walk by path and lack
// what [Lacks] lists.
//
// Extended attributes are those that the kernel lists: of all namespaces for
// root; without privileges trusted.* is invisible. NFSv3 servers that hide ACLs
// from the listing lose them.
//
// Files: files.go (options, roots, reports), owners.go (names of users and
// groups), extents.go (sparse files), database.go (copies of SQLite databases), xattr_unix.go; for Linux root_linux.go,
// dir_linux.go, listing_linux.go (packed names), entry_linux.go, file_linux.go,
// database_linux.go, handle_linux.go (bounded directory descriptors), stat_linux.go; for the others
// root_other.go with database_other.go, stat_darwin.go and stat_basic.go.
package files

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/exclude"
	"github.com/SP1R4/BackupHandler/v3/internal/sqlite"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Errors that callers branch on. An entry that is gone is fs.ErrNotExist.
var (
	// ErrReplaced says that an entry is of another kind than when its directory
	// was listed, or that a directory is another one: something took its place.
	ErrReplaced = errors.New("replaced by something else during the backup")
	// ErrTruncated says that a file ended before the size it had when it was
	// opened; it wraps io.ErrUnexpectedEOF.
	ErrTruncated = errTruncated{}
	// ErrSkipPath says that the source itself is one of Options.SkipPaths.
	ErrSkipPath = errors.New("the source is a directory that must not be backed up")
)

// Options say how a source is read. The callbacks may be called from several
// goroutines at once and must not block for long.
type Options struct {
	// Rules say what to leave out; nil leaves nothing out.
	Rules *exclude.Rules
	// OneFileSystem keeps to the file system of the source: a directory on
	// which another is mounted is kept, empty; anything else of another file
	// system (a bind mount of a file) is left out. A btrfs subvolume counts as
	// another file system, a bind mount of the same one does not.
	OneFileSystem bool
	// SkipPaths are directories to leave out wherever they turn up (a
	// destination inside the source). They are recognised by device and inode,
	// so that bind mounts and symlinks to them are, too. One that does not
	// exist is passed over.
	SkipPaths []string
	// SQLite copies databases consistently; nil: they are files like others. Beside
	// one that was copied, NAME-wal, NAME-shm and NAME-journal are left out, which
	// would spoil the copy.
	SQLite *sqlite.Copier
	// OnProblem is told of what could not be read; may be nil.
	OnProblem func(Problem)
	// OnSkipped is told of what was left out on purpose; may be nil.
	OnSkipped func(Skipped)
}

// ProblemKind says how much was lost.
type ProblemKind uint8

const (
	// Unreadable: the entry is missing from the backup.
	Unreadable ProblemKind = iota + 1
	// LostMetadata: the entry is in the backup, an attribute of it is not.
	LostMetadata
)

func (k ProblemKind) String() string {
	if k == LostMetadata {
		return "lost metadata"
	}
	return "unreadable"
}

// A Problem is something about an entry that could not be read and that no
// method returned as an error.
type Problem struct {
	Path string // absolute; bytes, not text
	Kind ProblemKind
	Err  error
}

// SkipKind says why an entry was left out.
type SkipKind uint8

const (
	Excluded        SkipKind = iota + 1 // by Options.Rules
	Socket                              // cannot be restored
	OtherFileSystem                     // Options.OneFileSystem
	SkipPath                            // Options.SkipPaths
	Companion                           // of a database: Options.SQLite
	UnknownKind                         // neither file, directory, symlink, FIFO nor device
)

// Skipped is an entry that was left out on purpose. It wraps
// backup.ErrSkipped.
type Skipped struct {
	Path   string // absolute; bytes, not text
	Kind   SkipKind
	Reason string // for people: the rule, or what the entry is
}

func (s Skipped) Error() string { return s.Path + ": " + s.Reason }

func (s Skipped) Unwrap() error { return backup.ErrSkipped }

// Counts are running totals of a root.
type Counts struct {
	Excluded int64 // left out by rule; all that a directory held counts as one
	Skipped  int64 // left out for any other reason
	Problems int64
}

// batchEntries is how many entries a Dir returns at a time: some 4 MB of them.
const batchEntries = 16 << 10

// A Root is one source: a directory, or a single file. All its methods and
// those of its entries may be called concurrently.
type Root struct {
	// Path is the path given, made absolute and cleaned. Symlinks in it are
	// followed but kept in the record: what is restored lies where the
	// administrator said it is. The slashes are the platform's.
	Path string
	// Ancestors are the directories above the source, from the top down, with
	// their metadata; empty where the source is "/". The first has no name. A
	// symlink among them is recorded as the directory it leads to.
	Ancestors []*tree.Node
	// Entry is the source itself, a directory or a regular file. Its Close
	// releases the root.
	Entry backup.Entry

	opts   Options
	owners Owners
	// batchEntries bounds how many entries Dir.Next returns.
	batchEntries int
	skip         map[fileID]string // SkipPaths by identity

	excluded, skipped, problems atomic.Int64

	platform
}

// fileID identifies an inode of a running system.
type fileID struct{ dev, ino uint64 }

// OpenRoot opens the source at path. A path that is missing, or that is neither
// a directory nor a regular file, is an error that names it.
func OpenRoot(path string, o Options) (*Root, error) {
	if path == "" {
		return nil, errors.New("open source: the path is empty")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open source %s: %w", path, err)
	}
	r := &Root{Path: abs, opts: o, batchEntries: batchEntries}
	if err := r.open(); err != nil {
		return nil, fmt.Errorf("open source %s: %w", path, err)
	}
	return r, nil
}

// Owners names the users and groups seen so far.
func (r *Root) Owners() *Owners { return &r.owners }

// Counts returns the totals so far.
func (r *Root) Counts() Counts {
	return Counts{r.excluded.Load(), r.skipped.Load(), r.problems.Load()}
}

// problem and skipping take functions, because a path is only built where
// somebody wants it.
func (r *Root) problem(path func() string, kind ProblemKind, err error) {
	r.problems.Add(1)
	if r.opts.OnProblem != nil {
		r.opts.OnProblem(Problem{path(), kind, err})
	}
}

func (r *Root) skipping(path func() string, kind SkipKind, reason string) {
	if kind == Excluded {
		r.excluded.Add(1)
	} else {
		r.skipped.Add(1)
	}
	if r.opts.OnSkipped != nil {
		r.opts.OnSkipped(Skipped{path(), kind, reason})
	}
}
