package restore

import (
	"errors"
	"slices"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// A backup may store a SQLite database without the WAL and the journal beside it
// (docs/sqlite.md). Where it is restored over another state of itself, theirs are still
// there, and SQLite would apply them to it.

var errBeside = errors.New("it is not in the snapshot, and may be of the state before: if the file that it is named after is a SQLite database, remove it before a program opens that, or restore with --delete")

// noteBeside remembers what lies beside the file name, the next of the record.
func (d *dir) noteBeside(name string) {
	if len(d.remaining) == 0 {
		return
	}
	for _, suffix := range [...]string{"-journal", "-wal"} {
		if _, there := slices.BinarySearch(d.remaining, name+suffix); there {
			d.beside = append(d.beside, name+suffix)
		}
	}
}

// warnBeside warns of what stays beside a file, once all names have been passed.
func (s *session) warnBeside(d *dir) {
	for _, name := range d.beside {
		if slices.Contains(d.extras, name) || slices.Contains(d.remaining, name) {
			s.warn(place{d, name}, tree.File, errBeside)
		}
	}
}
