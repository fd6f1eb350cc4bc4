package backup

import (
	"context"
	"errors"
	"io"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// ErrSkipped wraps the reason why an entry is not part of the backup on
// purpose (a socket, an excluded file): it is counted, not a failure.
var ErrSkipped = errors.New("skipped")

// A Dir is one directory of a source, read from top to bottom, once.
//
// Sources implement Dir, Entry and File; package files does for file systems.
type Dir interface {
	// Next returns the next entries, a bounded number of them, in ascending
	// order of the bytes of their names, also from call to call; none behind the
	// last. An entry that cannot be read at all is reported through the source's
	// own problem callback and left out. The error says that the directory could
	// not be listed completely, and is returned once: with it come entries, if
	// there are any, and the next call goes on behind them.
	Next(ctx context.Context) ([]Entry, error)
	// Close releases the directory. Entries already returned stay usable: each
	// holds what it needs, and is released by its Close.
	Close() error
}

// An Entry is one name in a Dir.
type Entry interface {
	// Node holds what is known without opening the entry: name, type, mode,
	// owner, times, inode, links, size, device numbers. The caller may keep
	// and change it.
	Node() *tree.Node
	// Complete adds to n what takes more system calls: a symlink's target,
	// extended attributes, inode flags. It is not called for files (Open does
	// the same) nor for entries unchanged since the last snapshot. An attribute
	// that could not be read is reported through the problem callback, not as
	// an error.
	Complete(n *tree.Node) error
	// Dir opens a directory entry.
	Dir(ctx context.Context) (Dir, error)
	// Open opens a regular file, never through a symlink, never blocking on a
	// FIFO that took its place: such a replacement is an error.
	Open() (File, error)
	// Close releases the entry. It is called exactly once.
	Close()
}

// Late says what of a file is not known before it is opened.
type Late uint8

const (
	// LateSize: its content is made then, as a consistent copy of a database is. Node
	// has the size of the file, and change detection goes without it: times and
	// inode have to say it all.
	LateSize Late = iota + 1
	// LateEntry: whether it is in the snapshot at all. It has no change time, so that
	// it is opened each time; an error of Open that wraps ErrSkipped leaves it out.
	LateEntry
)

// A Latecomer is what an Entry may be, too.
type Latecomer interface {
	Late() Late // 0: nothing
}

// A Doubtful file is what a File may be, too.
type Doubtful interface {
	// Doubt says why what is read may mix old and new although the file does not
	// change: it is stored, marked, and not tried again. nil: it does not.
	Doubt() error
}

// A File is a regular file being read.
type File interface {
	// Read returns the data extents of the file, one after the other: holes
	// are left out when Node has Extents.
	io.Reader
	// Node is the file as it was when it was opened, complete (attributes,
	// flags, extents).
	Node() *tree.Node
	// Changed says whether size, times or inode differ now from those of Node.
	Changed() (bool, error)
	Close() error
}
