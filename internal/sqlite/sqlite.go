// Package sqlite makes consistent copies of SQLite databases while other programs
// write to them, byte for byte of what is committed, so that they deduplicate.
//
// It knows neither snapshots nor configuration, and never changes a database: nothing
// is checkpointed or rolled back in place, and no file is left beside it that was not
// there. The schema is not read, and no SQL of the database's is run: a database that
// somebody has made on purpose is only pages here.
//
// A copy is made in one of three ways, by what lies beside the database (NAME-wal,
// NAME-shm, NAME-journal):
//
//   - In WAL mode, and no WAL: the file itself is consistent as long as it does not
//     change, and is read as it is. SQLite would make a WAL to read it. A file with
//     several names may have a WAL beside another one: not while somebody has it open.
//   - Otherwise by SQLite's online backup interface, within one read transaction
//     (online.go). Writers wait for it in rollback mode, and do not in WAL mode.
//   - Where SQLite could only read after a recovery, because a program has crashed, or
//     where a program keeps a WAL for itself: database, WAL and journal are copied as
//     they are, while none of them changes, and the recovery is made there (image.go).
//     To SQLite that is what a loss of power leaves behind.
//
// Files: sqlite.go (which way), online.go, image.go, at.go (a
// database by its path), copy.go (what is returned).
package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	engine "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"
)

// The files that SQLite keeps beside a database, by what follows its name.
const (
	WAL     = "-wal"     // committed transactions that are not in the database yet
	SHM     = "-shm"     // index of the WAL; made anew from it
	Journal = "-journal" // what to undo of a transaction that was not committed
)

// Companions are all of them.
var Companions = [...]string{Journal, SHM, WAL}

// HeadBytes is how much of the beginning of a file [IsDatabase] looks at.
const HeadBytes = 100

const (
	magic = "SQLite format 3\x00"
	// walVersion is what the bytes 18 and 19 of a database in WAL mode are; 1 in
	// rollback mode (https://www.sqlite.org/fileformat2.html, 1.3).
	writeVersionAt, walVersion = 18, 2
	schemaCookieAt             = 40
)

// IsDatabase says whether a file that begins so claims to be a database. Encrypted
// ones do not, and a database without a page is an empty file.
func IsDatabase(head []byte) bool {
	return len(head) >= HeadBytes && bytes.HasPrefix(head, []byte(magic))
}

// CheckPattern says what is wrong with one of Options.Paths.
func CheckPattern(pattern string) error {
	if !filepath.IsAbs(pattern) {
		return fmt.Errorf("%q is not an absolute path", pattern)
	}
	if _, err := filepath.Match(pattern, ""); err != nil {
		return fmt.Errorf("%q is no pattern: a [ is not closed, or ends with \\", pattern)
	}
	return nil
}

// Options say which databases are copied, and how.
type Options struct {
	// Paths are shell patterns of absolute paths; * and ? do not match a slash.
	Paths []string
	// Find copies whatever begins as a database does.
	Find bool
	// Dir is the directory for temporary files; "": the system's.
	Dir string
	// Wait is how long a database may stay locked.
	Wait time.Duration
	// Room returns how many bytes are free in a directory; nil: nobody knows.
	Room func(dir string) (int64, error)
}

// A Copier copies databases. Its methods may be called concurrently.
type Copier struct {
	o   Options
	ctx context.Context
}

// New returns a copier that gives up when ctx ends. It is not part of each call, because
// files are opened where there is none.
func New(ctx context.Context, o Options) (*Copier, error) {
	for _, p := range o.Paths {
		if err := CheckPattern(p); err != nil {
			return nil, err
		}
	}
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	// POSIX locks are lost as soon as the process closes any descriptor of the file;
	// those of Linux's open file descriptions are not. Where there are none, callers
	// keep what they have open: see Source. It is refused only if another library has
	// locked a database before, or by such a system.
	_, _ = engine.OFDLocking(true)
	return &Copier{o, ctx}, nil
}

// Wants says whether the file at path is to be copied, if it is a database.
func (c *Copier) Wants(path string) bool {
	if c.o.Find {
		return true
	}
	for _, p := range c.o.Paths {
		if ok, _ := filepath.Match(p, path); ok {
			return true
		}
	}
	return false
}

// A Source is one database. What it returns is of the directory in which the database
// was found, and of regular files only.
type Source struct {
	// Path is where SQLite finds the database.
	Path string
	// Main reads the database. It stays open until Copy has returned: where locks are
	// the process's, closing it would drop those of SQLite.
	Main io.ReaderAt
	// State looks at the database and what lies beside it.
	State func() (State, error)
	// Open opens a companion; fs.ErrNotExist if there is none.
	Open func(suffix string) (*os.File, error)
	// Shared says whether somebody has a lock on the database: asked where no WAL lies
	// beside it. nil: it has no other name, beside which there could be one, or nobody
	// can tell.
	Shared func() (bool, error)
	// Opened says whether this process has the database open, beside Main; asked once
	// SQLite has opened Path, where something else may lie by now.
	Opened func() error
}

// A State is what was seen of a database at one moment. Equal states: nothing has
// changed, if the clock has ticked in between.
type State struct {
	Main, WAL, Journal FileState
	SHM                bool // there is one
}

// FileState is zero where there is no file.
type FileState struct {
	Size int64
	// ID tells inodes apart, where they can be.
	ID [2]uint64
	// MTime and CTime are nanoseconds since 1970; CTime is 0 where there is none.
	MTime, CTime int64
}

// Touched is when the newest of the files was changed, in nanoseconds since 1970.
func (s State) Touched() int64 {
	return max(s.Main.touched(), s.WAL.touched(), s.Journal.touched())
}

func (f FileState) touched() int64 {
	if f.CTime == 0 {
		return f.MTime
	}
	return f.CTime
}

// Copy returns a consistent copy of a database, and none if the file itself is
// consistent for as long as it does not change. An error says why there is no
// consistent copy.
func (c *Copier) Copy(s Source) (*Copy, error) {
	state, err := s.State()
	if err != nil {
		return nil, err
	}
	head := make([]byte, HeadBytes)
	if _, err := s.Main.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("read its header: %w", err)
	}
	wal := state.WAL.Size > 0
	if head[writeVersionAt] == walVersion && !wal && state.Journal.Size == 0 {
		return nil, alone(s)
	}
	if wal && !state.SHM || head[writeVersionAt] == walVersion && !wal {
		return c.image(s)
	}
	if err := c.room(state.Main.Size + state.WAL.Size); err != nil {
		return nil, err
	}
	made, err := c.online(source{path: s.Path, mode: "ro", opened: s.Opened, wal: wal, main: s.Main})
	switch code := codeOf(err); {
	case err == nil:
		return made, nil
	case code == codes.SQLITE_READONLY, code == codes.SQLITE_CANTOPEN, code == codes.SQLITE_BUSY && wal:
		// There is something to recover; or the lock is of a program that shares
		// with nobody, and whose WAL says all the same what is committed.
		copied, imageErr := c.image(s)
		if imageErr != nil {
			return nil, c.explain(errors.Join(err, imageErr))
		}
		return copied, nil
	}
	return nil, c.explain(err)
}

// errElsewhere says that there is a WAL somewhere else.
var errElsewhere = errors.New("it is open under another name, and what was committed last may be in the WAL beside that one; exclude this name")

// alone is the error for a database in WAL mode, without a WAL, that is not all there is.
// Connections in WAL mode keep a lock of the database until they are closed.
func alone(s Source) error {
	if s.Shared == nil {
		return nil
	}
	switch open, err := s.Shared(); {
	case err != nil:
		return fmt.Errorf("look for locks: %w", err)
	case open:
		return errElsewhere
	}
	return nil
}

// room says whether a copy of so many bytes fits.
func (c *Copier) room(bytes int64) error {
	if c.o.Room == nil {
		return nil
	}
	free, err := c.o.Room(c.o.Dir)
	if err == nil && free < bytes {
		return fmt.Errorf("there is no room for its copy: it takes %d MiB in %s, which has %d MiB; set TMPDIR to a larger one", mib(bytes), c.o.Dir, free>>20)
	}
	return nil // who does not know finds out
}

func mib(bytes int64) int64 { return (bytes + 1<<20 - 1) >> 20 }

// codeOf is SQLite's primary result code; 0: it is none of its errors.
func codeOf(err error) int {
	if e, ok := errors.AsType[*engine.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// explain says in front of an error of SQLite's what it means here.
func (c *Copier) explain(err error) error {
	switch codeOf(err) {
	case codes.SQLITE_BUSY, codes.SQLITE_LOCKED:
		return fmt.Errorf("another program has kept it locked for %v: %w", c.o.Wait, err)
	case codes.SQLITE_NOTADB, codes.SQLITE_CORRUPT:
		return fmt.Errorf("it is damaged, or no database: %w", err)
	case codes.SQLITE_FULL:
		return fmt.Errorf("there is no room for its copy in %s; set TMPDIR to a larger directory: %w", c.o.Dir, err)
	}
	return err
}
